"""The query of a request: held to the parameters that the operation declares, before anything else is done."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from flashsale.domain.errors import InvalidInput
from flashsale.http.operations import PLAIN_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flashsale.http.operations import Parameter

NUMBER = "0|[1-9][0-9]{0,30}"
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = _DAY + r"T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})"

_FORMATS = {
    "uuid": (UUID, "must be an id in lower case"),
    "date": (_DAY, "must be a day such as 2026-11-27"),
    "date-time": (_TIME, "must be a time with a zone such as 2026-11-27T09:00:00Z; write + as %2B"),
}
_SHOWN_MAX = 64


@dataclass(frozen=True, slots=True)
class Query:
    """What the query of an operation may hold."""

    taken: Mapping[str, tuple[re.Pattern[str], str]]
    """By parameter: what its value looks like, and what is wrong with a value that does not."""

    @classmethod
    def of(cls, parameters: Iterable[Parameter]) -> Query:
        """Read what an operation declares."""
        return cls({one.name: _shape(one.schema) for one in parameters if one.place == "query"})

    def check(self, query: bytes) -> None:
        """Refuse a query with a parameter that the operation does not take, or takes otherwise.

        Raises:
            InvalidInput: with the first such parameter.
        """
        seen = set()
        for part in query.split(b"&"):
            sent, _, value = part.partition(b"=")
            name = _decoded(sent, "query")
            if name not in self.taken:
                field = "".join(one if one.isprintable() else "?" for one in name[:_SHOWN_MAX]) or "query"
                raise InvalidInput(field=field, problem=f"is no parameter of this call, which takes {self._names()}")
            if name in seen:
                raise InvalidInput(field=name, problem="was sent twice")
            seen.add(name)
            pattern, problem = self.taken[name]
            if pattern.fullmatch(_decoded(value, name)) is None:
                raise InvalidInput(field=name, problem=problem)

    def _names(self) -> str:
        return ", ".join(sorted(self.taken)) or "none"


def _decoded(text: bytes, field: str) -> str:
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise InvalidInput(field=field, problem="is no UTF-8") from None


def _shape(schema: Mapping[str, object]) -> tuple[re.Pattern[str], str]:
    """Return what a value of a schema looks like. Bounds of numbers are checked by the route, which converts them."""
    values, kind = schema.get("enum"), str(schema.get("format"))
    if isinstance(values, list):
        return re.compile("|".join(map(re.escape, values))), f"must be one of {', '.join(values)}"
    if schema["type"] == "integer":
        return re.compile(NUMBER), "must be a whole number"
    if schema["type"] == "boolean":
        return re.compile("true|false"), "must be true or false"
    if kind in _FORMATS:
        pattern, problem = _FORMATS[kind]
        return re.compile(pattern), problem
    if schema.get("pattern", PLAIN_TEXT) != PLAIN_TEXT:
        return re.compile(str(schema["pattern"])), "has characters that it cannot have; see /schema"
    shortest, longest = schema.get("minLength", 0), schema["maxLength"]
    return (
        re.compile(f"[^\\x00-\\x1f\\x7f]{{{shortest},{longest}}}"),
        f"must be {shortest} to {longest} characters, none of them a control character",
    )
