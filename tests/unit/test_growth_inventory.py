"""docs/explanation/growth.md names every container that lives as long as its process: the code is searched for them."""

import ast

from tests.growth.old_orders import FILLED
from tests.support.documents import ROOT, rows

NO_HISTORY = {
    "one row": {"order_mark", "timeline", "alembic_version"},
    "one row for each product": {
        "products",
        "product_live",
        "product_terms",
        "unit_pools",
        "stock_raises",
        "sale_archives",
        "product_departures",
        "product_arrivals",
    },
    "one row for each product, status and currency; filled when old orders are carried": {"order_totals"},
    "a few rows by hand or by configuration": {"outbox_targets", "provider_turns"},
    "rows are deleted within days, and read by key or by their age": {
        "revocations",
        "admin_requests",
        "password_resets",
    },
    "rows are deleted when the work is done": {
        "gate_returns",
        "order_stragglers",
        "postponed_orders",
        "procrastinate_events",
        "procrastinate_jobs",
        "procrastinate_periodic_defers",
        "procrastinate_workers",
    },
    "no periodic work reads them": {
        "admin_trail",
        "manual_entries",
        "payment_fees",
        "archived_orders",
        "archived_money",
    },
}
"""Tables that old orders do not fill (`tests/growth/old_orders.py`), by the reason why they have no history to read."""

EMPTY = {
    "dict",
    "list",
    "set",
    "deque",
    "Counter",
    "Tally",
    "defaultdict",
    "OrderedDict",
    "WeakValueDictionary",
    "WeakSet",
}
LEFT_OUT = {"local", "demo", "simulator"}
"""Rooms that no shop runs."""

ONE_COMMAND = {"Steps"}
"""Classes that live as long as one command."""


def is_empty_container(value):
    if isinstance(value, ast.Dict):
        return not value.keys
    if isinstance(value, ast.List | ast.Set):
        return not value.elts
    if not isinstance(value, ast.Call):
        return False
    called = value.func.value if isinstance(value.func, ast.Subscript) else value.func
    return getattr(called, "id", getattr(called, "attr", "")) in EMPTY


def containers(source):
    """Attributes that are given an empty container, as `Class.attribute`."""
    for found in ast.walk(ast.parse(source)):
        if isinstance(found, ast.ClassDef):
            for step in ast.walk(found):
                targets = step.targets if isinstance(step, ast.Assign) else [getattr(step, "target", None)]
                if isinstance(step, ast.Assign | ast.AnnAssign) and is_empty_container(step.value):
                    for target in targets:
                        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                            yield f"{found.name}.{target.attr}"


def of_module(source):
    """Names of a module that are given an empty container; metrics have arguments."""
    for step in ast.parse(source).body:
        targets = step.targets if isinstance(step, ast.Assign) else [getattr(step, "target", None)]
        made = is_empty_container(step.value) if isinstance(step, ast.Assign | ast.AnnAssign) else False
        if made and not getattr(step.value, "args", None):
            yield from map(ast.unparse, targets)


def test_containers_are_found_however_they_are_made():
    source = """
class A:
    def __init__(self):
        self.a = {}
        self.b: dict[str, int] = {}
        self.c = self.d = collections.deque([], maxlen=3)
        self.e, local = defaultdict[int, list](list), {}
        self.f = {"full": 1}
        other.g = set()
"""
    assert set(containers(source)) == {"A.a", "A.b", "A.c", "A.d"}
    assert set(of_module("X: list[int] = []\nY = Counter('y', 'A metric.')\nZ = {1: 2}")) == {"X"}


def test_every_container_of_a_process_has_its_bound():
    found = set()
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "workers").glob("*.py")]:
        if not LEFT_OUT & set(path.parts):
            found |= {*containers(path.read_text()), *of_module(path.read_text())}
    found = {name for name in found if name.partition(".")[0] not in ONE_COMMAND}
    assert set(rows("Memory")) == found


def test_each_table_has_a_made_history_or_none_to_read():
    without = set().union(*NO_HISTORY.values())
    assert set(FILLED) | without == set(rows("Tables"))
    assert not set(FILLED) & without
