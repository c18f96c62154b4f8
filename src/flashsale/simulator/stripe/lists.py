"""Reading: retrieve, list, search and `expand`: https://docs.stripe.com/api/pagination, /search, /expanding_objects."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from flashsale.simulator.stripe.errors import invalid, missing
from flashsale.simulator.stripe.store import Change, Object, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flashsale.simulator.stripe.calls import Call
    from flashsale.simulator.stripe.form import Form

PAGE_DEFAULT = 10
PAGE_MAX = 100
EXPAND_DEPTH_MAX = 4
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}
_CLAUSE = re.compile(r"""\s*(metadata\[['"](?P<name>[^'"\]]+)['"]\]|status)\s*:\s*(['"])(?P<value>[^'"]*)\3\s*""")


def retrieve(kind: str, name: str) -> Callable[[Call], Object]:
    """Make the operation that returns one object; `name` is what errors call its parameter."""

    def run(call: Call) -> Object:
        call.form.know("client_secret")
        return call.change.get(kind, call.ids["id"], name)

    return run


def listing(kind: str, url: str, *filters: str) -> Callable[[Call], Object]:
    """Make the operation that returns a page of a kind, the last made first; `filters` compare members."""

    def run(call: Call) -> Object:
        form = call.form
        limit = form.integer("limit", PAGE_DEFAULT, least=1, most=PAGE_MAX) or PAGE_DEFAULT
        wanted = {name: form.text(name) for name in filters if name in form}
        types = set(form.texts("types")) if kind == "event" else set()
        found = [
            made
            for made in _made_when(call.store.newest(kind), form)
            if all(made[name] == value for name, value in wanted.items()) and (not types or made["type"] in types)
        ]
        page, more = _page(found, limit, after=form.text("starting_after"), before=form.text("ending_before"))
        return {"object": "list", "data": [shown(made) for made in page], "has_more": more, "url": url}

    return run


def search_intents(call: Call) -> Object:
    """GET /v1/payment_intents/search: clauses of metadata and status joined by AND: https://docs.stripe.com/search."""
    limit = call.form.integer("limit", PAGE_DEFAULT, least=1, most=PAGE_MAX) or PAGE_DEFAULT
    clauses = [_CLAUSE.fullmatch(part) for part in re.split(r"\s+AND\s+", call.form.required("query"))]
    after = call.form.text("page")
    visible_until = time.time() - call.simulator.behaviour.search_lag_s
    found: list[Object] = []
    for made in call.store.newest("payment_intent"):
        values = []
        for clause in clauses:
            if clause is None:
                raise invalid("query", "Failed to parse search query. See https://stripe.com/docs/search.")
            of = made["metadata"].get(clause["name"]) if clause["name"] else made["status"]
            values.append(of == clause["value"])
        # A search index follows: "data is searchable in under 1 minute".
        if all(values) and made["created"] <= visible_until:
            found.append(made)
    page, more = _page(found, limit, after=after, before=None)
    return {
        "object": "search_result",
        "data": [shown(made) for made in page],
        "has_more": more,
        "next_page": page[-1]["id"] if more else None,
        "url": "/v1/payment_intents/search",
    }


def expanded(answer: Object, paths: list[str], change: Change) -> Object:
    """Put whole objects in place of the ids that `expand` names."""
    for path in paths:
        parts = path.split(".")
        if len(parts) > EXPAND_DEPTH_MAX:
            raise invalid("expand", f"You cannot expand more than {EXPAND_DEPTH_MAX} levels of a property.")
        answer = _expand(answer, parts, change, path)
    return answer


def _expand(value: Any, parts: list[str], change: Change, path: str) -> Any:
    if not parts:
        found = change.find(value) if isinstance(value, str) else None
        return value if found is None else shown(found)
    if isinstance(value, list):
        return [_expand(item, parts, change, path) for item in value]
    if isinstance(value, str):
        value = _expand(value, [], change, path)
    if value is None:
        return None
    if not isinstance(value, dict) or parts[0] not in value:
        raise invalid("expand", f"This property cannot be expanded ({path}).")
    return {**value, parts[0]: _expand(value[parts[0]], parts[1:], change, path)}


def _made_when(objects: Iterator[Object], form: Form) -> Iterator[Object]:
    bounds = form.tree("created") if "created" in form else {}
    checks: list[tuple[Callable[[int, int], bool], int]] = []
    for name, value in bounds.items():
        if name not in _COMPARISONS or not isinstance(value, str) or not value.isdecimal():
            raise invalid("created", "Invalid created: must be gt, gte, lt or lte and a Unix time.")
        checks.append((_COMPARISONS[name], int(value)))
    return (made for made in objects if all(compare(made["created"], value) for compare, value in checks))


def _page(found: list[Object], limit: int, *, after: str | None, before: str | None) -> tuple[list[Object], bool]:
    ids = [made["id"] for made in found]
    for cursor, name in ((after, "starting_after"), (before, "ending_before")):
        if cursor is not None and cursor not in ids:
            raise missing("object", cursor, name)
    if before is not None:
        found = found[: ids.index(before)]
        return found[-limit:], len(found) > limit
    if after is not None:
        found = found[ids.index(after) + 1 :]
    return found[:limit], len(found) > limit


def account(_: Call) -> Object:
    """GET /v1/account."""
    return {
        "id": "acct_simulator",
        "object": "account",
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "payouts_enabled": True,
        "type": "standard",
    }
