"""A load test with a master and workers: each buyer is played once, and the master has everybody's figures."""

import asyncio
import json
import os
import subprocess
import sys

import jwt

from flashsale.local.access import free_port
from tests.unit.test_docs import ROOT

LONGEST_S = 60


async def locust(*arguments, log):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONPATH")}
    with log.open("wb") as out:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "locust", "--only-summary", *map(str, arguments),
            stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment,
        )  # fmt: skip


async def ended(processes):
    try:
        async with asyncio.timeout(LONGEST_S):
            return [await process.wait() for process in processes]
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_two_workers_play_each_buyer_once_and_the_master_adds_them_up(stack, make_buyers, product, tmp_path):
    product_id = await product(stock=20)
    tokens = [headers["Authorization"].removeprefix("Bearer ") for headers in make_buyers(60)]
    ids = [jwt.decode(token, options={"verify_signature": False})["sub"] for token in tokens]
    buyers = [{"user_id": one, "token": token} for one, token in zip(ids, tokens, strict=True)]
    (tmp_path / "buyers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in buyers))
    port = free_port()
    crowd = (
        "-f", "loadtest/stampede.py", "--buyers-file", tmp_path / "buyers.jsonl", "--product", product_id,
        "--audit", "",
    )  # fmt: skip
    told = (
        "--headless", "--master", "--master-bind-port", port, "--expect-workers", 2, "--expect-workers-max-wait", 40,
        "--host", stack.base_url, "-u", 20, "-r", 20, "--arrive-s", 0.5, "--persist-s", 0, "--streams", 1, "--settle-s", 0,
        "--min-success", 0, "--history", tmp_path / "sale.jsonl", "--summary", tmp_path / "summary.json",
    )  # fmt: skip
    processes = [await locust(*told, *crowd, log=tmp_path / "master.log")]
    for number in range(2):
        log = tmp_path / f"worker-{number}.log"
        processes.append(await locust("--worker", "--master-port", port, *crowd, log=log))
    assert await ended(processes) == [0, 0, 0], (tmp_path / "master.log").read_text()

    histories = [lines(tmp_path / f"sale.jsonl.{number}") for number in range(2)]
    buys = [[entry for entry in history if entry["kind"] == "buy"] for history in histories]
    played = [{buy["user"] for buy in some} for some in buys]
    assert [len(some) for some in played] == [30, 30]
    assert played[0] | played[1] == set(ids)
    # Readers of the two workers can stand in one history.
    readers = [{entry["reader"] for entry in history if entry["kind"] == "stock"} for history in histories]
    assert not readers[0] & readers[1]

    summary = json.loads((tmp_path / "summary.json").read_text())
    orders = {buy["order_id"] for some in buys for buy in some if buy["status"] == 202}
    assert summary["accepted"] == len(orders) >= 20
    assert summary["buys_sent"] == sum(map(len, buys))
    assert summary["confirmed"] + summary["declined"] == len(orders)
    assert summary["requests"] >= summary["buys_sent"]


async def test_a_load_test_that_cannot_be_added_up_refuses_to_be_a_master(tmp_path):
    told = ("--headless", "--master", "--master-bind-port", free_port(), "--host", "http://127.0.0.1:9", "--product", 1)
    process = await locust(*told, "-f", "loadtest/spectators.py", log=tmp_path / "master.log")
    assert await ended([process]) == [1]
    assert "runs in one process" in (tmp_path / "master.log").read_text()
