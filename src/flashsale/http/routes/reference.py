"""The OpenAPI document, and a page that shows it: one file without scripts or external resources."""

from __future__ import annotations

import html
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from flashsale.http.messages import rendered
from flashsale.http.openapi import EVENT_DATA, document
from flashsale.http.operations import Given, Operation
from flashsale.http.routes.problem_pages import MEANINGS
from flashsale.http.routing import Direct

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flashsale.http.messages import Answer, Request
    from flashsale.http.openapi import Described

PAGE_PATH, DOCUMENT_PATH = "/schema", "/schema/openapi.json"
HTML = "text/html; charset=utf-8"
POLICY = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")

SHOW = Operation(
    name="showReference",
    summary="This document, for people",
    description="Show the OpenAPI document as a page.",
    tag="reference",
    gives=(
        Given(
            status=HTTPStatus.OK,
            description="The page.",
            texts={"text/html": "<!doctype html>\n<title>flashsale</title>\n"},
            headers=("Content-Security-Policy",),
        ),
    ),
)
GIVE = Operation(
    name="getOpenApi",
    summary="This document",
    description="Return the OpenAPI document.",
    tag="reference",
    gives=(Given(status=HTTPStatus.OK, description="The document.", model=dict[str, Any]),),
)

HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>flashsale API</title>
<style>body{font:1rem/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
summary{cursor:pointer}table{border-collapse:collapse}
td{padding:.2rem .8rem .2rem 0;vertical-align:top}
pre{overflow:auto}</style>
"""


def direct_routes(described: Iterable[Described]) -> list[Direct]:
    """Make the routes of the document, which describes these operations and its own routes."""
    own = [(PAGE_PATH, "GET", SHOW), (DOCUMENT_PATH, "GET", GIVE)]
    whole = document([*described, *own], MEANINGS)
    as_json = rendered(HTTPStatus.OK, msgspec.json.encode(whole))
    as_page = rendered(HTTPStatus.OK, page(whole).encode(), POLICY, media_type=HTML.encode())

    async def give(_: Request) -> Answer:
        return as_json

    async def show(_: Request) -> Answer:
        return as_page

    return [
        Direct(template=PAGE_PATH, method="GET", serve=show, operation=SHOW),
        Direct(template=DOCUMENT_PATH, method="GET", serve=give, operation=GIVE),
    ]


def page(whole: dict[str, Any]) -> str:
    """Render the document: operations by tag, then the schemas."""
    info = whole["info"]
    parts = [HEAD, f"<h1>flashsale {_text(info['version'])}</h1>"]
    parts += [f"<p>{_text(paragraph)}</p>" for paragraph in info["description"].split("\n\n")]
    parts.append(f'<p><a href="{DOCUMENT_PATH}">The OpenAPI document</a></p>')
    for tag in whole["tags"]:
        parts.append(f"<h2>{_text(tag['name'])}</h2>")
        for path, item in whole["paths"].items():
            for method, operation in item.items():
                if tag["name"] in operation["tags"]:
                    parts += _operation(path, method, operation)
    parts.append("<h2>schemas</h2>")
    for name, schema in whole["components"]["schemas"].items():
        parts.append(
            f'<details id="{_text(name)}"><summary>{_text(name)}</summary><p>{_text(schema["description"])}</p>'
        )
        parts += _rows((field, _kind(one), one["description"]) for field, one in schema.get("properties", {}).items())
        parts.append("</details>")
    return "\n".join([*parts, "</html>\n"])


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    heading = f"<b>{method.upper()}</b> <code>{_text(path)}</code> {_text(operation['summary'])}"
    yield f"<details><summary>{heading}</summary><p>{_text(operation['description'])}</p>"
    access = "asks for a token" if operation["security"] else "public"
    yield f"<p>Operation <code>{operation['operationId']}</code>, {access}.</p>"
    yield from _rows(
        (one["name"], one["in"], f"{one['description']} Example: {one['example']}")
        for one in operation.get("parameters", ())
    )
    if "requestBody" in operation:
        yield from _rows([("body", *_content(operation["requestBody"]))])
    yield from _rows(
        (status, *_content(answer), "headers: " + ", ".join(answer["headers"]))
        for status, answer in operation["responses"].items()
    )
    yield "</details>"


def _content(part: dict[str, Any]) -> tuple[str, str]:
    kinds = [
        f"{kind}: " + ", ".join(_kind(schema) for schema in one.get(EVENT_DATA, {"": one.get("schema")}).values())
        for kind, one in part.get("content", {}).items()
    ]
    return "; ".join(kinds), part["description"]


def _kind(schema: dict[str, Any]) -> str:
    """Name the type of a field."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}"
    if "enum" in schema:
        return " | ".join(schema["enum"])
    return f"{schema['type']} ({schema['format']})" if "format" in schema else str(schema["type"])


def _rows(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    lines = ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    if lines:
        yield "<table>" + "\n".join(lines) + "</table>"


def _text(text: object) -> str:
    return html.escape(str(text))
