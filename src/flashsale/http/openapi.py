"""The OpenAPI document, built from the operations that the routes declare."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from flashsale import __version__
from flashsale.http.conditions import TAGGED
from flashsale.http.operations import JSON, PATH, Given, Parameter
from flashsale.http.problems import PAGES, PROBLEM_JSON
from flashsale.http.schemas import NotReadyProblem, Out, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flashsale.http.operations import Operation

    Described = tuple[str, str, Operation]
    """A path's template, a method, and what it does."""
    Meanings = Mapping[str, tuple[int, str, str]]
    """By problem code: status, meaning, what to do."""

REF = "#/components/{}/{}"
EVENT_DATA = "x-event-data"
"""Extension of the media type of a stream: the content of `data` by the name of the event."""
SCHEMAS = "#/components/schemas/{name}"
CODE = "ProblemCode"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")

INFO = """A flash sale: a fixed number of units, far more buyers.

Every error is a problem document (RFC 9457) with a stable `code`; treat an unknown code like its status. Every path
with GET also answers HEAD, with the same head and no body. Every path answers OPTIONS with 204 and `Allow`. The
response `MethodNotAllowed` describes the answer to any other method, and `NoSuchPath` the answer to any other path. A
query parameter that an operation does not name is refused. Answers carry CORS headers if a setting allows the
request's origin."""

CONNECTION = {400, 408, 413, 414, 431}
"""Statuses that may be sent before a request is complete, and therefore without a request id."""
EVERY = ("invalid_input", "invalid_request", "too_slow", "body_too_large", "target_too_long", "head_too_large")
"""Codes that every path may send: an unknown parameter, no HTTP, too slow, too long."""

HEADERS: Mapping[str, tuple[str, object, dict[str, object]]] = {
    "Date": ("When the answer was sent.", "Fri, 27 Nov 2026 09:00:00 GMT", {}),
    "X-Content-Type-Options": ("Browsers must not guess types.", "nosniff", {"const": "nosniff"}),
    "X-Request-Id": ("The request's id, sent or made here; log lines carry it.", "5f2c9a01be44-2a", {}),
    "Cache-Control": ("Whether caches may store the answer.", "no-store", {}),
    "Location": ("The URL of the new resource.", "/api/order/0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58/status", {}),
    "Retry-After": ("In how many seconds to send the same request again.", "1", {"pattern": "^[0-9]+$"}),
    "RateLimit": ("The rest of a limit, and the seconds until it is renewed.", '"buys";r=0;t=1', {}),
    "RateLimit-Policy": ("The limits: requests per window, in seconds.", '"buys";q=20;w=1', {}),
    "ETag": ("Names this body; a poll with this tag gets 304 until the body changes.", '"97f1c04b2d6e8a35"', {}),
    "Allow": ("The methods of the path.", "GET, HEAD", {"pattern": "^[A-Z]+(, [A-Z]+)*$"}),
    "WWW-Authenticate": (
        "The kind of token to send, and the error in the token that was sent.",
        'Bearer realm="flashsale"',
        {},
    ),
    "Content-Security-Policy": ("The page loads nothing.", "default-src 'none'", {}),
    "Content-Disposition": (
        "Browsers save the body under this name.",
        'attachment; filename="orders.csv"',
        {},
    ),
    "X-Accel-Buffering": ("Proxies must not hold events back.", "no", {"const": "no"}),
}
"""By name: description, example, further schema."""

IF_NONE_MATCH = Parameter(
    name="If-None-Match",
    place="header",
    schema={"type": "string"},
    description="ETags of the bodies that the client has; such a body is not sent again. Browsers send this header.",
    example='"97f1c04b2d6e8a35"',
)
UNCHANGED = Given(status=HTTPStatus.NOT_MODIFIED, description="The client's copy is current.", headers=("ETag",))

SOMETIMES = ".sometimes"
"""Suffix of the name of a header that only some answers of its kind have."""
OF_STATUS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
"""Headers of problems by status."""

SECURITY = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A login token. Operations with `x-roles` ask for an account that has one of these roles now.",
    },
    "streamToken": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "A token of one order's stream, for EventSource, which cannot send headers.",
    },
}
NEEDS: Mapping[str | None, Sequence[Mapping[str, list[str]]]] = {
    None: [],
    "buyer": [{"token": []}],
    "stream": [{"token": []}, {"streamToken": []}],
}


def document(described: Iterable[Described], meanings: Meanings) -> dict[str, Any]:
    """Build the document of these operations; `meanings` describes the problem codes."""
    paths: dict[str, dict[str, Any]] = {}
    found = sorted(described, key=lambda one: (one[0], one[1]))
    for template, method, operation in found:
        paths.setdefault(_PARAMETER.sub(r"{\1}", template), {})[method.lower()] = _operation(
            template, method, operation, meanings
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flashsale",
            "version": __version__,
            "description": INFO,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "This server."}],
        "tags": [{"name": tag} for tag in sorted({operation.tag for _, _, operation in found})],
        "paths": paths,
        "components": {
            "schemas": _schemas([operation for _, _, operation in found], meanings),
            "headers": {
                name + suffix: {
                    "description": text,
                    "required": not suffix,
                    "example": example,
                    "schema": {"type": "string", **more},
                }
                for name, (text, example, more) in HEADERS.items()
                for suffix in ("", SOMETIMES)
            },
            "responses": {
                "NoSuchPath": _problem(404, ["no_such_path"], meanings, ()),
                "MethodNotAllowed": _problem(405, ["method_not_allowed"], meanings, ("Allow",)),
            },
            "examples": {code: _example(code, meaning) for code, meaning in meanings.items()},
            "securitySchemes": SECURITY,
        },
    }


def _operation(template: str, method: str, operation: Operation, meanings: Meanings) -> dict[str, Any]:
    names = _PARAMETER.findall(template)
    tagged = method == "GET" and template.startswith(TAGGED) and not operation.in_parts
    parameters = [*(PATH[name] for name in names), *operation.parameters, *([IF_NONE_MATCH] if tagged else [])]
    limited = ("RateLimit", "RateLimit-Policy") if operation.limit else ()
    shown: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.description + _said(operation.roles),
        "tags": [operation.tag],
        "security": NEEDS["buyer" if operation.roles else operation.caller],
    }
    if operation.roles:
        shown["x-roles"] = sorted(operation.roles)
    if parameters:
        shown["parameters"] = [_parameter(one) for one in parameters]
    if operation.takes is not None:
        shown["requestBody"] = {
            "description": _first_line(operation.takes),
            "required": True,
            "content": {JSON: {"schema": _schema(operation.takes)}},
        }
    codes = {*EVERY, *operation.codes}
    codes |= {"no_such_path"} if names else set()
    # A shop of several cells has the product or the order elsewhere.
    codes |= {"other_cell"} if codes & {"product_not_found", "order_not_found"} else set()
    codes |= {"unsupported_media_type"} if operation.takes is not None else set()
    codes |= {"unauthenticated"} if operation.caller else set()
    codes |= {"forbidden"} if operation.roles else set()
    codes |= {"rate_limited"} if operation.limit else set()
    gives = operation.gives
    if tagged:
        gives = (*(replace(given, headers=(*given.headers, "ETag")) for given in gives), UNCHANGED)
    shown["responses"] = {
        **{str(given.status.value): _given(given, limited) for given in gives},
        **_problems(codes, meanings, limited),
    }
    return shown


def _said(roles: Iterable[str]) -> str:
    """Say which roles may call an operation; nothing if all may."""
    return f" Roles: {', '.join(sorted(roles))}." if roles else ""


def _parameter(one: Parameter) -> dict[str, Any]:
    return {
        "name": one.name,
        "in": one.place,
        "required": one.required,
        "description": one.description,
        "schema": one.schema,
        "example": one.example,
    }


def _given(given: Given, limited: Sequence[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "description": given.description,
        "headers": _headers(given.status, given.headers, (*given.may_have, *limited)),
    }
    if given.model is not None:
        shown["content"] = {JSON: {"schema": _schema(given.model)}}
    if given.texts:
        shown["content"] = {
            kind: {"schema": {"type": "string"}, "example": example} for kind, example in given.texts.items()
        }
    if given.events:
        shown["content"] = {"text/event-stream": _stream(given.events)}
    if given.links:
        shown["links"] = {name: _link(name, passed) for name, passed in given.links.items()}
    return shown


def _stream(events: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a stream of events with this data.

    The media type has no schema: some tools would apply it to the whole text, others to each event, and generators
    would then decode the text.
    """
    data = events["message"]
    _, found = msgspec.json.schema_components((data,), ref_template=SCHEMAS)
    event = {name: field["examples"][0] for name, field in found[data.__name__]["properties"].items()}
    text = json.dumps(event, separators=(",", ":"))
    return {
        "example": f"retry: 1000\n\nid: {event['version']}\ndata: {text}\n\n",
        EVENT_DATA: {name: _schema(one) for name, one in events.items()},
    }


def _link(name: str, passed: Mapping[str, object]) -> dict[str, Any]:
    link: dict[str, Any] = {"operationId": name}
    parameters = {parameter: value for parameter, value in passed.items() if parameter != "body"}
    if parameters:
        link["parameters"] = parameters
    if "body" in passed:
        link["requestBody"] = passed["body"]
    return link


def _problems(codes: Iterable[str], meanings: Meanings, limited: Sequence[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        by_status.setdefault(meanings[code][0], []).append(code)
    shown = {}
    for status, found in sorted(by_status.items()):
        headers, sometimes = OF_STATUS.get(status, ()), tuple(limited)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            # A 429 after wrong logins says when to try again, but has no rate to report.
            headers = (*headers, *limited)
        elif status == HTTPStatus.BAD_REQUEST:
            # A malformed Authorization header gets a challenge too.
            sometimes = (*limited, "WWW-Authenticate")
        shown[str(status)] = _problem(status, found, meanings, headers, sometimes)
    return shown


def _problem(
    status: int, codes: list[str], meanings: Meanings, headers: Sequence[str], sometimes: Iterable[str] = ()
) -> dict[str, Any]:
    return {
        "description": "\n".join(f"- `{code}`: {meanings[code][1]}." for code in codes),
        "headers": _headers(status, headers, [name for name in sometimes if name not in headers]),
        "content": {
            PROBLEM_JSON.decode(): {
                "schema": _schema(NotReadyProblem if "not_ready" in codes else Problem),
                "examples": {code: {"$ref": REF.format("examples", code)} for code in codes},
            }
        },
    }


def _headers(status: HTTPStatus | int, names: Iterable[str], sometimes: Iterable[str] = ()) -> dict[str, Any]:
    """Refer to the headers of an answer; a refusal before the request is complete has no request id."""
    always = ["Date", "X-Content-Type-Options", *names]
    at_times = ["Cache-Control", *sometimes]
    (at_times if status in CONNECTION else always).append("X-Request-Id")
    return {name: {"$ref": REF.format("headers", name)} for name in always} | {
        name: {"$ref": REF.format("headers", name + SOMETIMES)} for name in at_times
    }


def _example(code: str, meaning: tuple[int, str, str]) -> dict[str, Any]:
    status, text, advice = meaning
    detail = f"{text[0].upper()}{text[1:]}."
    value: dict[str, Any] = {
        "type": f"{PAGES}{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return {"summary": advice if advice != "-" else code, "value": {**value, "code": code}}


@cache
def _schema(model: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components((model,), ref_template=SCHEMAS)
    return schema


def _schemas(operations: Iterable[Operation], meanings: Meanings) -> dict[str, Any]:
    models: list[Any] = [Problem, NotReadyProblem]
    for operation in operations:
        models += [given.model for given in operation.gives]
        models += [one for given in operation.gives for one in given.events.values()]
        models.append(operation.takes)
    _, found = msgspec.json.schema_components([one for one in models if one is not None], ref_template=SCHEMAS)
    codes = {"type": "string", "enum": sorted(meanings), "description": "The codes of this release.", "title": CODE}
    schemas = {name: _plain(schema) for name, schema in {**found, CODE: codes}.items()}
    answered = {one.__name__ for one in _subclasses(Out)}
    for name, schema in schemas.items():
        _say_defaults(schema, always_sent=name in answered)
        if name in answered and "code" in schema["properties"]:
            # An open enumeration, so that clients of this release accept codes of the next release.
            del schema["properties"]["code"]["type"]
            schema["properties"]["code"]["anyOf"] = [{"$ref": SCHEMAS.format(name=CODE)}, {"type": "string"}]
    return schemas


def _say_defaults(schema: dict[str, Any], *, always_sent: bool) -> None:
    """Require every field of answers; describe defaults of requests in words, as generators require such fields."""
    for name, field in schema.get("properties", {}).items():
        if "default" not in field:
            continue
        default = field.pop("default")
        if always_sent:
            schema["required"].append(name)
        elif default is not None:
            field["description"] += f" {default} if left out."


def _plain(schema: Any) -> Any:
    """Add what generators need: the type of each enumeration, and a constant for a single value."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _plain(value) for name, value in schema.items()}
    values = plain.get("enum")
    if isinstance(values, list):
        plain.setdefault("type", "boolean" if isinstance(values[0], bool) else "string")
        if len(values) == 1:
            plain["const"] = plain.pop("enum")[0]
    return plain


def _subclasses(model: type[Out]) -> list[type[Out]]:
    found: list[type[Out]] = []
    for sub in model.__subclasses__():
        found += [sub, *_subclasses(sub)]
    return found


def _first_line(model: Any) -> str:
    return str(model.__doc__).partition("\n")[0]
