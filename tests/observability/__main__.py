"""A small sale, watched by a real Prometheus: every rule and every panel must work. `nox -s observability`."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import re
import socket
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import click
import yaml
from rich.console import Console
from rich.table import Table

from flashsale.demo.sale import Sale, open_sale
from flashsale.local.children import Child, start_ready
from flashsale.local.stack import COMMANDS, ROOT, Stack
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings

SETTINGS = {"FLASHSALE_SIMULATOR__LATENCY_MEAN_S": "1"}
SALE = Sale(units=200, buyers=1500, seconds=15.0)
DEADLINE_S = 120.0
STEP_S = 1.0
"""Locally everything is scraped and evaluated every second, so that a short run is enough."""

MAY_BE_EMPTY = {
    f"max by (target) (flashsale_outbox_{name})": "this stack has neither endpoints nor a mail server"
    for name in ("waiting", "oldest_seconds", "dead")
}
"""Expressions of panels that may give nothing in a sound sale, and why."""

FIRES = "ExporterDown"
"""The alert that must fire once the payment worker is gone."""


@asynccontextmanager
async def sse_process(stack: Stack, folder: Path):
    """A further API process, for streams alone; returns its address."""
    (folder / "metrics/sse").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = await start_ready(
            "sse 1",
            [*COMMANDS["api"], "--fd", str(listener.fileno())],
            log_path=stack.log_dir / "sse-1.log",
            environment={**stack.environment_of("api"), "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics/sse")},
            inherited_fds=[listener.fileno()],
            cwd=ROOT,
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            await child.stop()


OF_EXPORTERS = "servers"
"""The dashboard of what exporters of other servers show; none of them runs here."""


def local_config(addresses: dict[str, str]) -> str:
    """The committed configuration, with addresses in the place of service names, for our own processes."""
    config = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    config["global"].update(
        scrape_interval=f"{STEP_S:g}s", scrape_timeout=f"{STEP_S:g}s", evaluation_interval=f"{STEP_S:g}s"
    )
    config["rule_files"] = [str(ROOT / "docker/prometheus" / pattern) for pattern in config["rule_files"]]
    del config["alerting"]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in addresses]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [addresses[job["job_name"]].removeprefix("http://")]}]
    return yaml.safe_dump(config)


class Prometheus:
    """A Prometheus on a free port of the loopback, and its API."""

    def __init__(self, folder: Path, config: str, session: aiohttp.ClientSession) -> None:
        folder.mkdir()
        (folder / "prometheus.yml").write_text(config)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._session = session
        self.child = Child(
            "prometheus",
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            log_path=folder / "prometheus.log",
            environment=dict(os.environ),
        )

    async def ready(self) -> None:
        deadline_s = time.monotonic() + 30
        while True:
            try:
                async with self._session.get(f"{self.url}/-/ready") as response:
                    if response.ok:
                        return
            except aiohttp.ClientError:
                pass
            if self.child.returncode is not None or time.monotonic() > deadline_s:
                raise self.child.failure("does not start")
            await asyncio.sleep(0.1)

    async def ask(self, path: str, **parameters: object):
        """Call its API; a query that it refuses is an error here."""
        async with self._session.get(
            f"{self.url}/api/v1/{path}", params={name: str(value) for name, value in parameters.items()}
        ) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters}: {answer['error']}")
        return answer["data"]

    async def over(self, expression: str, began_s: float) -> list[tuple[dict[str, str], list[float]]]:
        """Evaluate an expression for every second since `began_s`: each series' labels and numbers."""
        data = await self.ask("query_range", query=expression, start=began_s, end=time.time(), step=STEP_S)
        series = []
        for one in data["result"]:
            numbers = [number for _, text in one["values"] if math.isfinite(number := float(text))]
            if numbers:
                series.append((one["metric"], numbers))
        return series

    async def firing(self, began_s: float) -> set[str]:
        """Alerts that have fired since."""
        return {labels["alertname"] for labels, _ in await self.over('ALERTS{alertstate="firing"}', began_s)}


def dashboards():
    """Each dashboard's title and panels."""
    for path in sorted((ROOT / "docker/grafana/dashboards").glob("*.json")):
        if path.stem == OF_EXPORTERS:
            continue
        board = json.loads(path.read_text())
        yield board["title"], board["panels"]


async def empty_panels(prometheus: Prometheus, began_s: float) -> list[str]:
    return [
        target["expr"]
        for _, panels in dashboards()
        for target in itertools.chain.from_iterable(panel["targets"] for panel in panels)
        if target["expr"] not in MAY_BE_EMPTY and not await prometheus.over(target["expr"], began_s)
    ]


async def until(what: str, condition) -> None:
    """Wait until an awaitable condition gives something true."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not await condition():
        if time.monotonic() > deadline_s:
            raise click.ClickException(f"{what}: not within {DEADLINE_S:g} s")
        await asyncio.sleep(STEP_S)


async def check_rules(prometheus: Prometheus) -> int:
    """Run every rule's expression; returns how many there are. Prometheus itself must have evaluated each without error."""
    rules = [rule for group in (await prometheus.ask("rules"))["groups"] for rule in group["rules"]]
    for rule in rules:
        await prometheus.ask("query", query=rule["query"])
        if rule["health"] != "ok":
            raise click.ClickException(f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}")
    return len(rules)


async def show(console: Console, prometheus: Prometheus, began_s: float) -> None:
    """Print every dashboard as tables: over the whole run, each series' least, greatest and last value."""
    for title, panels in dashboards():
        table = Table("panel", "series", "unit", title=title, title_justify="left")
        for name in ("least", "greatest", "last"):
            table.add_column(name, justify="right")
        for panel in panels:
            name, unit = panel["title"], panel["fieldConfig"]["defaults"]["unit"]
            for target in panel["targets"]:
                for labels, numbers in await prometheus.over(target["expr"], began_s):
                    legend = re.sub(
                        r"\{\{(\w+)\}\}", lambda match, of=labels: of.get(match[1], ""), target["legendFormat"]
                    )
                    table.add_row(name, legend, unit, *(f"{x:,.4g}" for x in (min(numbers), max(numbers), numbers[-1])))
                    name = unit = ""
        console.print(table)


async def run(folder: Path, console: Console) -> None:
    stack = Stack(folder, port=0, environment=SETTINGS, say=console.print)
    async with stack, sse_process(stack, folder) as sse, aiohttp.ClientSession() as session:
        addresses = {**{role: stack.url(role) for role in ("api", "orders", "payments", "maintenance")}, "sse": sse}
        prometheus = Prometheus(folder / "prometheus", local_config(addresses), session)
        try:
            await prometheus.ready()
            began_s = time.time()
            console.print(f"a sale: {SALE.units} units, {SALE.buyers} buyers within {SALE.seconds:g} s")
            async with open_sale(stack, SALE, folder) as sale:
                await sale.prepare()
                async with session.get(f"{sse}/sse/stock/{sale.product_id}") as watching:
                    sale.begin()
                    await sale.watch(lambda _seen: None, every_s=STEP_S, deadline_s=DEADLINE_S)
                    assert watching.status == 200
                await until("data in every panel", lambda: _not(empty_panels(prometheus, began_s)))
                code, findings = await sale.audit()
            rules = await check_rules(prometheus)
            fired = await prometheus.firing(began_s)
            await show(console, prometheus, began_s)
            console.print(f"{rules} rules evaluate; fired during the sale: {', '.join(sorted(fired)) or 'none'}")
            console.print(findings.splitlines()[-1])
            if fired or code:
                raise click.ClickException("the sale was sound: no alert may fire")
            await stack.kill("payments")
            killed_s = time.time()
            await until(f"{FIRES} after the payment worker was killed", lambda: prometheus.firing(killed_s))
            console.print(
                f"payment worker killed: {', '.join(await prometheus.firing(killed_s))} fires after {time.time() - killed_s:.0f} s"
            )
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        finally:
            await prometheus.child.stop()


async def _not(awaitable) -> bool:
    return not await awaitable


@click.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Keep data and logs here.")
def main(keep: Path | None) -> None:
    """Hold a small sale under a real Prometheus, run every rule and panel, print the dashboards as tables."""
    configure_logs(LogSettings(level="error"))
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    if keep is not None:
        asyncio.run(run(keep, console))
    else:
        with tempfile.TemporaryDirectory(prefix="flashsale-") as folder:
            asyncio.run(run(Path(folder), console))


main()
