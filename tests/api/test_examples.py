"""The examples do what they say, against a real stack; so does `flashsale token`."""

import asyncio
import os
import subprocess
import sys

import pytest

from flashsale.local.stack import ROOT


def run(*command, **environment):
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


def flashsale(stack, *arguments):
    return run(sys.executable, "-m", "flashsale.cli", *arguments, **stack.environment)


@pytest.fixture
def buy(stack, buyer):
    """Each example as a function from product and key to what it printed."""
    token = buyer["Authorization"].removeprefix("Bearer ")

    def shell(product, key):
        return run("examples/buy.sh", HOST=stack.base_url, TOKEN=token, PRODUCT=str(product), KEY=key)

    def python(product, key):
        options = ["--host", stack.base_url, "--token", token, "--product", str(product), "--key", key]
        return run(sys.executable, "examples/buyer.py", *options)

    return {"shell": shell, "python": python}


@pytest.mark.parametrize("example", ["shell", "python"])
async def test_an_example_buys_once_however_often_it_is_run_under_one_key(buy, product, api, example):
    product_id = await product(stock=3)
    first, again = [await asyncio.to_thread(buy[example], product_id, f"{example}-1") for _ in range(2)]
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines()[-1] == "confirmed"
    assert again.stdout == first.stdout
    assert (await api.get(f"/api/products/{product_id}")).json()["stock"] == 2


@pytest.mark.parametrize("example", ["shell", "python"])
async def test_an_example_says_in_one_line_why_it_did_not_buy(buy, product, example):
    product_id = await product(stock=0)
    refused = await asyncio.to_thread(buy[example], product_id, f"{example}-none")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert "409 sold_out" in refused.stderr


async def test_a_token_from_the_command_line_is_that_accounts(stack, api):
    done = await asyncio.to_thread(flashsale, stack, "token", stack.secrets["admin_email"])
    assert done.returncode == 0, done.stderr
    answer = await api.get("/api/admin/orders", headers={"Authorization": f"Bearer {done.stdout.strip()}"})
    assert answer.status_code == 200


async def test_a_token_for_nobody_is_refused_in_one_line(stack):
    done = await asyncio.to_thread(flashsale, stack, "token", "nobody@example.com")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "nobody@example.com" in done.stderr
