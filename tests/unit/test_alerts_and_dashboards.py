"""Rules and dashboards name only metrics that the code exports, and every alert has its entry in the runbook."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
import yaml
from prometheus_client import REGISTRY

import flashsale.adapters.payments.observed
import flashsale.http.metrics
import flashsale.runtime.span_queue  # noqa: F401 - the metrics of these are registered
from flashsale.cli import main
from flashsale.domain.gate import GateState
from flashsale.settings.groups import WorkerSettings
from flashsale.usecases.figures import QUEUES, Figures, ProductCount, Told
from workers.app import ROLES, slots
from workers.sale_metrics import SaleMetrics

DOCKER = Path(__file__).parents[2] / "docker"
RUNBOOK = (DOCKER.parent / "docs/how-to/runbook.md").read_text()
RULES = [
    rule
    for path in sorted((DOCKER / "prometheus/rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((DOCKER / "grafana/dashboards").glob("*.json"))
}
EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    target["expr"] for board in DASHBOARDS.values() for panel in board["panels"] for target in panel["targets"]
]
OTHERS = {"up", "ALERTS"}
"""What Prometheus itself makes."""

EXPORTED_BY = {
    "nginx": {
        "nginx_up",
        "nginx_http_requests_total",
        "nginx_connections_active",
        "nginx_connections_waiting",
    },
    "redis": {"redis_up", "redis_memory_used_bytes", "redis_memory_max_bytes"},
    "postgres": {
        "pg_up",
        "pg_stat_activity_count",
        "pg_stat_activity_max_tx_duration",
        "pg_replication_slots_slot_is_active",
        "pg_stat_replication_pg_wal_lsn_diff",
    },
    "node": {
        "node_filesystem_avail_bytes",
        "node_filesystem_size_bytes",
        "node_memory_MemAvailable_bytes",
        "node_memory_MemTotal_bytes",
    },
    "https": {"probe_success", "probe_ssl_earliest_cert_expiry"},
    # nginx itself: docker/nginx/refusals.js.
    "edge": {"flashsale_edge_refusals_total"},
}
"""What the exporters of other servers show, in the versions of the Compose file, by Prometheus' job."""

KEYWORDS = {"by", "without", "or", "and", "unless", "on", "ignoring", "group_left", "group_right", "bool", "offset"}


class Everything:
    """Figures with a value of each kind."""

    async def read(self):
        return Figures(
            orders={}, oldest_s={}, value_minor={("confirmed", "USD"): 1}, order_s={0.5: 1.0}, jobs={}, job_oldest_s={},
            outbox=[Told(target="mail", waiting=1, dead=0, oldest_s=1.0)],
            notify_queue_usage=0.0, connections=1, connections_max=2,
        )  # fmt: skip

    async def products(self, *, limit):
        return [ProductCount(product_id=1, epoch=1, allotment=1, free=1, on_return=0)]

    async def state(self, product_id, epoch):
        return GateState(loaded=True, epoch=1, stock=1, leases=0, leased_units=0, leased_order_ids=())

    async def accepted(self, order_ids):
        return {}


@pytest.fixture
async def exported():
    everything = Everything()
    families = await SaleMetrics(everything, everything, everything).read()
    named = {sample.name for family in families for sample in family.samples}
    for family in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        named |= {family.name + suffix for suffix in suffixes}
    return named | {"flashsale_build_info"}


def names(expression):
    """The metrics of a PromQL expression: its words that are no function, keyword, label or unit."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', "", re.sub(r'"[^"]*"', '""', expression))
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    return {word for word, call in re.findall(r"([a-zA-Z_:][\w:]*)\s*(\(?)", bare) if not call} - KEYWORDS


def test_names_are_found_in_expressions():
    expression = 'sum by (le, route) (rate(a_total{b="c{d}"}[30s])) / on (x) f:g or time() - h > 5 and vector(0)'
    assert names(expression) == {"a_total", "f:g", "h"}


async def test_rules_and_dashboards_name_only_what_is_exported(exported):
    used = set().union(*map(names, EXPRESSIONS))
    others = set().union(*EXPORTED_BY.values())
    assert used - exported - RECORDED - OTHERS - others == set()
    assert used >= others, "the list above names nothing that no rule or dashboard uses"
    assert used >= RECORDED, "every recorded series is used"


async def test_everything_that_is_exported_is_shown_or_watched(exported):
    ours = {name for name in exported if name.startswith("flashsale_")}
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in set().union(*map(names, EXPRESSIONS))}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours} - used == set()


PARTS = ("Buyers", "Means", "Look at", "Do", "Over")
"""What an entry says, in this order: what buyers notice, what it means, where to look, what to do, when it is over."""

ENTRIES = dict(entry.split("\n", 1) for entry in RUNBOOK.split("\n## ")[2:])
SERVICES = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"].keys()


def commands(text):
    """The commands between back quotes, each on one line."""
    return [
        " ".join(span.split())
        for span in re.findall(r"`((?:\$compose|sql|shop|owner|curl|df|docker|openssl) [^`]+)`", text)
    ]


def test_every_alert_has_its_entry_in_the_runbook_and_every_entry_its_alert():
    assert list(ENTRIES) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/how-to/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.parametrize("name", ALERTS)
def test_every_entry_says_what_a_tired_person_needs(name):
    parts = re.split(r"^\*\*(.+?):\*\* ", ENTRIES[name], flags=re.MULTILINE)
    assert tuple(parts[1::2]) == PARTS
    for part, text in zip(PARTS, parts[2::2], strict=True):
        assert len(text.strip()) > len("nothing"), f"{part} is empty"
    assert commands(parts[2 + 2 * PARTS.index("Look at")]), "no command that can be pasted"


def test_the_commands_of_the_runbook_exist():
    for command in commands(RUNBOOK):
        first, *words = command.split()
        if first in {"shop", "owner"}:
            found: click.Command | None = main
            for word in words:
                if not isinstance(found, click.Group):
                    break
                found = found.commands.get(word)
            assert found is not None, command
        if first == "$compose":
            named = [word for word in words if word in SERVICES or word == "SERVICE"]
            assert named or words[:2] == ["--profile", "observability"] or words == ["ps"], command


def test_the_runbook_names_events_and_settings_that_exist():
    root = DOCKER.parent
    code = "".join(path.read_text() for folder in ("src", "workers") for path in (root / folder).rglob("*.py"))
    events = re.findall(r"`([a-z]+\.[a-z_]+)`", RUNBOOK)
    assert events
    for event in events:
        assert f'"{event}"' in code, event
    settings = (root / "docs/reference/settings.md").read_text()
    for variable in re.findall(r"FLASHSALE_\w+", RUNBOOK):
        assert f"`{variable}`" in settings, variable


def test_the_pages_for_operators_name_panels_that_exist():
    titles = {panel["title"] for board in DASHBOARDS.values() for panel in board["panels"]}
    titles |= {board["title"] for board in DASHBOARDS.values()}
    for page in ("runbook", "scale", "recover", "watch"):
        text = (DOCKER.parent / f"docs/how-to/{page}.md").read_text()
        named = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", text)
        assert named
        assert set(named) <= titles, page


def test_every_alert_is_tested():
    text = (DOCKER / "prometheus/tests/alerts.yml").read_text()
    tested = {
        test["alertname"]
        for group in yaml.safe_load(text)["tests"]
        for test in group.get("alert_rule_test", [])
        if test["exp_alerts"]
    }
    assert tested == set(ALERTS)


def test_dashboards_are_provisioned_and_read_the_provisioned_source():
    provisioning = DOCKER / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert yaml.safe_load((provisioning / "dashboards/flashsale.yml").read_text())["providers"]
    assert set(DASHBOARDS) == {"sale", "workers", "infrastructure", "servers"}
    for board in DASHBOARDS.values():
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places)
        for panel in board["panels"]:
            assert panel["datasource"]["uid"] == source["uid"]


def test_every_service_is_scraped_and_every_queue_has_its_workers():
    config = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    scraped = {name: job["dns_sd_configs"][0]["names"] for name, job in jobs.items() if "dns_sd_configs" in job}
    exporters = {name: [f"{name}-exporter"] for name in EXPORTED_BY if name not in {"https", "edge"}}
    assert scraped == {name: [name] for name in ("api", "sse", *ROLES)} | exporters | {"edge": ["nginx"]}
    assert jobs.keys() == scraped.keys() | {"https"}
    assert list(QUEUES) == [queue for role in ROLES for queue in slots(role, WorkerSettings())]
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    (probe,) = [rule for rule in jobs["https"]["relabel_configs"] if rule["target_label"] == "__address__"]
    addressed = [name for (name,) in scraped.values()] + [probe["replacement"].partition(":")[0]]
    addressed += config["alerting"]["alertmanagers"][0]["dns_sd_configs"][0]["names"]
    assert set(addressed) <= services.keys()
    for job in config["scrape_configs"]:
        if job["job_name"] in ROLES:
            port = job["dns_sd_configs"][0]["port"]
            worker = services[job["job_name"]]
            assert worker["environment"]["FLASHSALE_WORKERS__METRICS_PORT"] == port
            assert worker["healthcheck"]["test"] == ["CMD", "healthy", str(port), "/health/live"]
