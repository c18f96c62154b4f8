"""The OpenAPI document as a judge: whether an answer is one that it describes, to the last header and field."""

from __future__ import annotations

import copy
import json
import re
from types import SimpleNamespace

import jsonschema_rs

from flashsale.http.app import build_app
from flashsale.http.messages import Request
from flashsale.http.openapi import EVENT_DATA
from flashsale.http.routes.reference import DOCUMENT_PATH
from flashsale.http.streams.hub import LiveHub
from tests.conftest import make_settings

ANY = {"content-type", "content-length", "connection", "transfer-encoding"}
"""Headers of framing, which OpenAPI does not describe."""
CORS = {
    "vary",
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-expose-headers",
}
"""Those that a setting adds; the document says so in words."""


class Undocumented(AssertionError):
    """An answer that the document does not describe."""


class Reference:
    """A document, and which of its answers were seen."""

    def __init__(self, document, *, port=None):
        """`port`: where the hook judges; answers of other servers are not meant."""
        self.document = document
        self.port = port
        self.seen = {}
        self._paths = [
            (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)) + "/?"), path) for path in document["paths"]
        ]
        # Fields that are not named count as undocumented here; clients take them.
        closed = copy.deepcopy(document["components"]["schemas"])
        inherited = {name for name, schema in closed.items() if "properties" in schema}
        for name in inherited:
            closed[name]["additionalProperties"] = False
        self._components = {"components": {"schemas": closed}}
        self._validators = {}

    def operation(self, method, path):
        """Return the operation of a request, as `METHOD /template`, and what the document says of it."""
        for pattern, template in self._paths:
            if pattern.fullmatch(path):
                item = self.document["paths"][template]
                asked = "GET" if method == "HEAD" and "get" in item else method
                return f"{asked} {template}", item.get(asked.lower())
        return None, None

    def check(self, method, path, status, headers, body):
        """Judge an answer; `body` is None if it is a stream."""
        where = f"{method} {path} -> {status}"
        name, operation = self.operation(method, path)
        if operation is None:
            expected = 404 if name is None else 204 if method == "OPTIONS" else 405
            if status != expected or (expected != 404 and "allow" not in headers):
                raise Undocumented(f"{where}: expected {expected}, with Allow for 204 and 405")
            return
        answer = operation["responses"].get(str(status))
        if answer is None:
            raise Undocumented(f"{where}: {name} names {sorted(operation['responses'])}; {body!r}")
        self._check_headers(where, answer, headers)
        code = self._check_body(where, method, answer, headers, body)
        self.seen.setdefault((operation["operationId"], str(status), code), where)

    def named(self):
        """Return all answers that the document names: operation, status, and the problem's code or None."""
        for item in self.document["paths"].values():
            for operation in item.values():
                for status, answer in operation["responses"].items():
                    content = answer.get("content", {}).get("application/problem+json", {})
                    for code in content.get("examples", [None]):
                        yield operation["operationId"], status, code

    def _check_headers(self, where, answer, headers):
        named = {header.lower(): self._resolved(one) for header, one in answer.get("headers", {}).items()}
        unnamed = set(headers) - set(named) - ANY - CORS
        missing = {header for header, one in named.items() if one["required"]} - set(headers)
        if unnamed or missing:
            raise Undocumented(f"{where}: headers not named {sorted(unnamed)}, missing {sorted(missing)}")
        for header in set(named) & set(headers):
            if not jsonschema_rs.is_valid(named[header]["schema"], headers[header]):
                raise Undocumented(f"{where}: {header}: {headers[header]!r}")

    def _check_body(self, where, method, answer, headers, body):
        content = answer.get("content")
        kind = headers.get("content-type", "").partition(";")[0]
        if (content is None and (kind or body)) or (content is not None and kind not in content):
            raise Undocumented(f"{where}: content-type {kind!r} is none of {sorted(content or ())}; {body!r}")
        if content is None or body is None or method == "HEAD":
            return None
        if EVENT_DATA in content[kind]:
            for name, event in re.findall(rb"^(?:event: (.*)\n)?data: (.*)\n", body, re.MULTILINE):
                schema = content[kind][EVENT_DATA].get(name.decode() or "message", False)
                problem = self.first_error(schema, json.loads(event)) if schema else "an event without a name"
                if problem is not None:
                    raise Undocumented(f"{where}: {problem}: {name!r} {event!r}")
        if not kind.endswith("json"):
            return None
        said = json.loads(body)
        problem = self.first_error(content[kind]["schema"], said)
        if problem is not None:
            raise Undocumented(f"{where}: {problem}: {body!r}")
        if kind != "application/problem+json":
            return None
        if said["code"] not in content[kind]["examples"]:
            raise Undocumented(f"{where}: code {said['code']} is none of {sorted(content[kind]['examples'])}")
        return said["code"]

    def first_error(self, schema, value):
        """Return what is wrong with a value of a schema of this document, or None."""
        key = json.dumps(schema)
        if key not in self._validators:
            self._validators[key] = jsonschema_rs.Draft202012Validator({**schema, **self._components})
        return next((str(error.message) for error in self._validators[key].iter_errors(value)), None)

    def _resolved(self, one):
        while "$ref" in one:
            found = self.document
            for part in one["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            one = found
        return one

    async def hook(self, response):
        """Judge each answer that an httpx.AsyncClient gets."""
        if response.request.url.port != self.port:
            return
        stream = response.headers.get("content-type", "").startswith("text/event-stream")
        body = None if stream else await response.aread()
        request = response.request
        self.check(request.method, request.url.path, response.status_code, response.headers, body)


def required(operation):
    """Return a query with an example of each parameter that an operation needs."""
    needs = [one for one in operation.get("parameters", ()) if one["in"] == "query" and one["required"]]
    return "?" + "&".join(f"{one['name']}={one['example']}" for one in needs) if needs else ""


def app_of_routes():
    """Build the app without any server behind it."""
    services = SimpleNamespace(
        settings=make_settings("postgresql://x@127.0.0.1:9/x", "redis://127.0.0.1:9"),
        catalog=None,
        revocations=None,
        sessions=None,
    )
    return build_app(services, LiveHub(services))


async def document_of_routes():
    """Read the document without any server behind it."""
    request = Request(method="GET", path=DOCUMENT_PATH, query=b"", headers=[])
    return json.loads((await app_of_routes().direct(request)).body)
