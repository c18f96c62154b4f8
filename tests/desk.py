"""What a merchant and support do, from an empty folder to a restored shop: `nox -s desk` runs and prints it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import httpx

from flashsale.local.stack import ROOT, Stack
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
from tests.support.api import BUY, buyer_headers, final

UNITS, CROWD = 200, 260
ADA = {"name": "Ada Lovelace", "email": "Ada@Example.com", "password": "correct horse battery"}
SETTINGS = {
    "FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "0.5",
    "FLASHSALE_SIMULATOR__DECLINE_RATE": "0.05",
    "FLASHSALE_GATE__RATE_LIMIT": "0",
}
LINES_MAX = 40


class Shell:
    """Runs commands and prints them with what they print, as a person would see it."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}

    def __call__(self, *words: str, code: int = 0, lines_max: int = LINES_MAX) -> str:
        """Run `flashsale` with these words; a wrong exit code ends the transcript."""
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "flashsale.cli", *words],
            env={**self.environment, "COLUMNS": "150"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        shown = " ".join(f'"{word}"' if " " in word else word for word in words)
        click.echo(f"$ flashsale {shown}")
        lines = (done.stdout + done.stderr).rstrip().splitlines()
        more = [f"... {len(lines) - lines_max} more lines"] if len(lines) > lines_max else []
        click.echo("\n".join([*lines[:lines_max], *more, f"# {time.monotonic() - began_s:.1f} s\n"]))
        if done.returncode != code:
            raise SystemExit(f"flashsale {shown} ended with {done.returncode}")
        return done.stdout

    def names(self, stack: Stack) -> None:
        """Let the commands find a stack and the administrator's token."""
        self.environment = dict(stack.environment)
        token = subprocess.run(
            [sys.executable, "-m", "flashsale.cli", "token", stack.secrets["admin_email"]],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        self.environment |= {"FLASHSALE_URL": stack.base_url, "FLASHSALE_TOKEN": token}


def say(text: str) -> None:
    """Print what is done without a command."""
    click.echo(f"# {text}\n")


async def press(api: httpx.AsyncClient, product_id: int, headers: dict[str, str], key: str) -> str | None:
    """Press "buy", and again after a 503, until it is accepted or refused; returns the order."""
    while True:
        answer = await api.post(
            BUY, json={"productId": product_id, "expectedPrice": "999.99"}, headers={**headers, "Idempotency-Key": key}
        )
        if answer.status_code == 202:
            return str(answer.json()["orderId"])
        if answer.status_code != 503:
            return None
        await asyncio.sleep(float(answer.headers["Retry-After"]) / 10)


async def hold_sale(shell: Shell, stack: Stack, product_id: int) -> None:
    """Let a crowd buy, and look at the status in the middle."""
    crowd = buyer_headers(stack, CROWD)
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=60, limits=limits) as api:
        half = len(crowd) // 3
        first = asyncio.gather(*(press(api, product_id, one, f"a{n}") for n, one in enumerate(crowd[:half])))
        await asyncio.to_thread(shell, "status")
        orders = await first
        orders += await asyncio.gather(*(press(api, product_id, one, f"b{n}") for n, one in enumerate(crowd[half:])))
        # Units of declined orders are sold again to those who were told "sold out".
        async with asyncio.timeout(120):
            while (await api.get(f"/api/products/{product_id}")).json()["stock"]:
                await asyncio.gather(*(press(api, product_id, one, f"c{n}") for n, one in enumerate(crowd)))
    say(f"{sum(one is not None for one in orders)} of {len(orders)} presses were accepted at once")


async def serve_ada(shell: Shell, stack: Stack, phone: int, case: int) -> str:
    """A buyer with a question: one order is paid, another waits. Returns the paid one."""
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=30) as api:
        token = (await api.post("/api/auth/register", json=ADA)).json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        paid = await press(api, phone, headers, "ada-1")
        assert paid is not None, "one unit was added for Ada"
        while await final(api, paid, headers) != "confirmed":
            paid = await press(api, phone, headers, f"ada-{time.monotonic_ns()}")
        answer = await api.post(BUY, json={"productId": case}, headers=headers)
        held = answer.json()["orderId"]
        async with asyncio.timeout(60):
            while (await api.get(f"/api/order/{held}/status", headers=headers)).json()["status"] != "awaiting_payment":
                await asyncio.sleep(0.1)
    shell("orders", "find", "--email", "ada@example.com")
    shell("orders", "show", paid)
    shell("orders", "cancel", held, lines_max=12)
    return str(paid)


async def transcript(folder: Path) -> None:
    """Play it."""
    shell, first, file = Shell(), folder / "shop", folder / "shop.flashsale"
    say("an empty folder; `flashsale up` starts the shop")
    async with Stack(first, port=0, environment=SETTINGS) as stack:
        shell.names(stack)
        made = shell("product", "create", "Phone X", "--price", "999.99", "--stock", str(UNITS), "--limit", "1")
        phone = json.loads(made)["id"]
        await hold_sale(shell, stack, phone)
        await until_settled(shell, phone)
        shell("product", "stock", str(phone), "+20", lines_max=6)
        words = ("--price", "49.99", "--stock", "10", "--by-buyer", "--payment-window", "900")
        case = json.loads(shell("product", "create", "Case", *words, lines_max=8))["id"]
        paid = await serve_ada(shell, stack, phone, case)
        shell("product", "price", str(phone), "899.99", lines_max=6)
        shell("product", "list")
        shell("orders", "export", "--product", str(phone), "--out", str(folder / "orders.csv"))
        say("orders.csv begins:\n" + "\n".join((folder / "orders.csv").read_text().splitlines()[:3]))
        shell("trail", "--limit", "5")
        await until_settled(shell, phone)
        shell("backup", str(file), "--data-dir", str(first))
    shutil.rmtree(first)
    say("the shop's folder is deleted")
    shell("restore", str(file), "--data-dir", str(folder / "restored"))
    async with Stack(folder / "restored", port=0, environment=SETTINGS) as stack:
        shell.names(stack)
        audit = shell("audit")
        assert "0 violated" in audit, audit
        shell("orders", "find", "--email", "ada@example.com")
        assert paid in shell("orders", "show", paid, lines_max=4)


async def until_settled(shell: Shell, product_id: int) -> None:
    """Wait until no order of a product is open."""
    async with httpx.AsyncClient(base_url=shell.environment["FLASHSALE_URL"], timeout=30) as api, asyncio.timeout(60):
        headers = {"Authorization": f"Bearer {shell.environment['FLASHSALE_TOKEN']}"}
        while True:
            seen = (await api.get(f"/api/admin/products/{product_id}", headers=headers)).json()
            if seen["claimed"] == seen["sold"]:
                return
            await asyncio.sleep(0.3)


@click.command()
def main() -> None:
    """Run the transcript; exit code 0 only if every command did what it should."""
    configure_logs(LogSettings(level="error"))
    with tempfile.TemporaryDirectory(prefix="flashsale-", ignore_cleanup_errors=True) as folder:
        asyncio.run(transcript(Path(folder)))


if __name__ == "__main__":
    main()
