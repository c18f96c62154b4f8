"""Which paths there are, what they take, and who answers: the framework, or a direct route before it.

Ids are parsed here, strictly: each has one spelling, so that nothing is reached by two names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flashsale.http.queries import NUMBER, UUID, Query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from litestar import Litestar

    from flashsale.http.messages import Answer, Request
    from flashsale.http.operations import Operation

TEXT = "[^/]+"

_KINDS = {"int": NUMBER, "uuid": UUID}
_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """A route that is answered before the framework."""

    template: str
    """Its path, with a name and a kind in braces for each segment that is an id: `{order_id:uuid}`."""
    method: str
    serve: Callable[[Request], Awaitable[Answer]]
    operation: Operation | None
    """What the OpenAPI document says of it. None: it is an HTML page, which the document leaves out. A page ignores
    what it does not know of its query, names its own caching, and no page of another origin may read it."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path and who answers each method; None: the framework."""

    template: str
    methods: dict[str, Direct | None] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    """The query of each method of the API."""

    @property
    def name(self) -> str:
        """Return the path as metrics and documents name it."""
        return _PARAMETER.sub(r"{\1}", self.template)

    @property
    def is_page(self) -> bool:
        """Whether it is an HTML page."""
        return not self.queries

    @property
    def allowed(self) -> bytes:
        """Return the value of `Allow`: every method that the path takes."""
        looks = {"HEAD"} if "GET" in self.methods else set()
        return ", ".join(sorted({*self.methods, *looks, "OPTIONS"})).encode("ascii")

    def add(self, method: str, direct: Direct | None, operation: Operation | None) -> None:
        """Add a method with what its operation declares."""
        self.methods[method] = direct
        if operation is not None:
            self.queries[method] = Query.of(operation.parameters)


class Routes:
    """All paths."""

    def __init__(self, app: Litestar, direct: Iterable[Direct]) -> None:
        """Read the framework's routes, and put the direct ones before them."""
        routes: dict[str, Route] = {}
        for framework in app.routes:
            route = routes.setdefault(framework.path, Route(framework.path))
            handlers: dict[str, Any] = getattr(framework, "route_handler_map", {})
            for method, (handler, _) in sorted(handlers.items()):
                if method not in {"OPTIONS", "HEAD"}:
                    route.add(method, None, handler.opt["operation"])
        for one in direct:
            routes.setdefault(one.template, Route(one.template)).add(one.method, one, one.operation)
        self.pages = frozenset(route.name for route in routes.values() if route.is_page)
        """The names of the HTML pages."""
        self._exact: dict[str, Route] = {}
        patterns: list[str] = []
        self._of_patterns: list[Route] = []
        for template, route in routes.items():
            if "{" in template:
                pattern = _PARAMETER.sub(lambda found: f"(?:{_KINDS.get(found[2] or '', TEXT)})", template)
                patterns.append(f"({pattern}/?)")
                self._of_patterns.append(route)
            else:
                self._exact |= {template: route, template + "/": route}
        self._pattern = re.compile("|".join(patterns), re.ASCII)

    def find(self, path: str) -> Route | None:
        """Return the route of a path."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        found = self._pattern.fullmatch(path)
        return None if found is None or found.lastindex is None else self._of_patterns[found.lastindex - 1]
