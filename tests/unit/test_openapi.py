"""The OpenAPI document explains every part of itself, with examples that hold."""

import json
import re
import uuid
from urllib.parse import quote, unquote

import pytest

from flashsale.domain.errors import InvalidInput
from flashsale.http import cors
from flashsale.http.messages import Request
from flashsale.http.routes.problem_pages import MEANINGS
from tests.support.reference import Reference, app_of_routes, document_of_routes


@pytest.fixture
async def reference():
    return Reference(await document_of_routes())


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method} {path}", operation


def fields(document):
    """Return every field of every schema, by its place."""
    for name, schema in document["components"]["schemas"].items():
        yield name, {**schema, "examples": [None]}
        for field, one in schema.get("properties", {}).items():
            yield f"{name}.{field}", one


def references(part):
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for one in part.values():
            yield from references(one)
    elif isinstance(part, list):
        for one in part:
            yield from references(one)


async def test_every_field_and_parameter_is_described_and_has_an_example(reference):
    bare = [
        place
        for place, one in fields(reference.document)
        if not one.get("description") or ("examples" not in one and "$ref" not in one)
    ]
    for where, operation in operations(reference.document):
        bare += [where for name in ("operationId", "summary", "description", "tags") if not operation.get(name)]
        bare += [f"{where} {one['name']}" for one in operation.get("parameters", ()) if not one.get("description")]
        bare += [f"{where} {one['name']}" for one in operation.get("parameters", ()) if "example" not in one]
        bare += [f"{where} {status}" for status, one in operation["responses"].items() if not one["description"]]
    bare += [name for name, one in reference.document["components"]["headers"].items() if not one["description"]]
    assert bare == []


async def test_every_example_is_valid_for_its_own_schema(reference):
    wrong, tried = [], 0
    document = reference.document
    shown = [(place, one, one.get("examples", ())) for place, one in fields(document) if "." in place]
    for where, operation in operations(document):
        shown += [(where, one["schema"], [one["example"]]) for one in operation.get("parameters", ())]
    shown += [(name, one["schema"], [one["example"]]) for name, one in document["components"]["headers"].items()]
    problem = {"$ref": "#/components/schemas/Problem"}
    shown += [(code, problem, [one["value"]]) for code, one in document["components"]["examples"].items()]
    for place, schema, examples in shown:
        for example in examples:
            tried += 1
            error = reference.first_error(schema, example)
            wrong += [(place, error)] if error else []
    assert wrong == []
    assert tried > 150


async def test_every_reference_leads_somewhere_and_every_component_is_used(reference):
    found = set(references(reference.document))
    for one in found:
        reference._resolved({"$ref": one})
    for kind in ("schemas", "examples"):
        unused = {name for name in reference.document["components"][kind] if f"#/components/{kind}/{name}" not in found}
        bases = {"not_found", "not_on_sale", "stale", "not_supported"}
        assert unused <= (bases if kind == "examples" else set())


async def test_operations_have_names_of_their_own_that_a_program_can_use(reference):
    names = [operation["operationId"] for _, operation in operations(reference.document)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z][A-Za-z]+", name) for name in names)


FOR_BROWSERS = {"allow", "content-security-policy", "x-accel-buffering", "x-content-type-options"}
"""Headers that browsers and proxies obey, and pages need not read."""
ALWAYS_SHOWN = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified"}
"""Headers that the Fetch standard lets every page read."""


async def test_a_page_of_another_site_may_send_and_read_every_header_that_the_document_names(reference):
    sent, read = set(), set()
    for _, operation in operations(reference.document):
        sent |= {one["name"].lower() for one in operation.get("parameters", ()) if one["in"] == "header"}
        read |= {name.lower() for answer in operation["responses"].values() for name in answer.get("headers", ())}
    assert len(sent) >= 3
    assert len(read) >= 10
    assert sent - set(cors.TAKEN.decode().split(", ")) == {"stripe-signature"} & sent
    assert read - set(cors.SHOWN.decode().split(", ")) - ALWAYS_SHOWN - FOR_BROWSERS == set()


async def test_links_lead_to_operations_and_pass_what_these_take(reference):
    by_name = {operation["operationId"]: operation for _, operation in operations(reference.document)}
    for _, operation in operations(reference.document):
        for answer in operation["responses"].values():
            for link in answer.get("links", {}).values():
                taken = {one["name"] for one in by_name[link["operationId"]].get("parameters", ())}
                assert set(link.get("parameters", {})) <= taken


async def test_every_operation_takes_the_query_parameters_that_the_document_names_and_no_others(reference):
    """Generated: every operation with a parameter that it lacks, and with each that it has, alone and twice."""
    app = app_of_routes()
    ids = {
        "product_id": "7",
        "order_id": str(uuid.uuid4()),
        "provider": "stripe",
        "code": "sold_out",
        "number": "1",
        "user_id": str(uuid.uuid4()),
    }
    tried = 0
    for path, item in reference.document["paths"].items():
        target = re.sub(r"\{(\w+)\}", lambda found: ids.get(found[1], str(uuid.uuid4())), path)
        for method, operation in item.items():
            shown = {one["name"]: one for one in operation.get("parameters", ()) if one["in"] == "query"}
            names = ", ".join(sorted(shown)) or "none"
            for sent in (b"nonsense=1", b"nonsense", b"%6eonsense=", b"PRODUCTID=1", b"email2=a%40b.example"):
                for form in {method.upper(), "HEAD" if method == "get" else method.upper()}:
                    answer = await app.direct(Request(method=form, path=target, query=sent, headers=[]))
                    problem = json.loads(answer.body)
                    assert (answer.status, problem["code"]) == (400, "invalid_input"), (form, path)
                    field = unquote(sent.partition(b"=")[0].decode())
                    assert problem["field"] == field
                    assert problem["detail"] == f"{field} is no parameter of this call, which takes {names}"
                    tried += 1
            query = app._routes.find(target).queries[method.upper()]
            for name, one in shown.items():
                example = one["example"]
                shown_as = json.dumps(example) if isinstance(example, bool) else str(example)
                good = f"{name}={quote(shown_as)}".encode()
                query.check(good)
                for wrong in (b"%b&%b" % (good, good), f"{name}=%00".encode(), f"{name}=%ff".encode()):
                    with pytest.raises(InvalidInput) as refused:
                        query.check(wrong)
                    assert refused.value.field == name
                    tried += 1
    assert tried > 200


async def test_no_schema_is_one_that_generators_stumble_over(reference):
    """One value without a type, a default (which some take for "required"), an enumeration without a type."""

    def walk(part):
        if isinstance(part, dict):
            yield part
            for one in part.values():
                yield from walk(one)
        elif isinstance(part, list):
            for one in part:
                yield from walk(one)

    for schema in walk(reference.document["components"]["schemas"]):
        if "enum" in schema or "const" in schema:
            assert isinstance(schema.get("type"), str), schema
        assert not ("enum" in schema and len(schema["enum"]) == 1), schema
        assert "default" not in schema, schema
    for name, operation in operations(reference.document):
        for one in operation["responses"].values():
            assert len(one.get("content", {}).keys() & {"application/json", "application/problem+json"}) <= 1, name


async def test_every_problem_code_has_an_example_of_its_status(reference):
    examples = reference.document["components"]["examples"]
    assert {code: one["value"]["status"] for code, one in examples.items()} == {
        code: meaning[0] for code, meaning in MEANINGS.items()
    }


async def test_the_judge_refuses_what_is_not_named(reference):
    """A control: each kind of difference between an answer and the document is seen."""
    from tests.support.reference import Undocumented

    good = {
        "date": "Fri, 27 Nov 2026 09:00:00 GMT",
        "x-content-type-options": "nosniff",
        "x-request-id": "a",
        "content-type": "application/json",
    }
    reference.check("GET", "/health/live", 200, good, b'{"live":true}')
    for status, headers, body in [
        (201, good, b'{"live":true}'),
        (200, good, b'{"live":false}'),
        (200, good, b"{}"),
        (200, good, b'{"live":true,"more":1}'),
        (200, {**good, "x-new": "1"}, b'{"live":true}'),
        (200, {**good, "content-type": "text/plain"}, b'{"live":true}'),
        (200, {name: value for name, value in good.items() if name != "date"}, b'{"live":true}'),
    ]:
        with pytest.raises(Undocumented):
            reference.check("GET", "/health/live", status, headers, body)
    for path, status in [("/nowhere", 200), ("/health/live", 404)]:
        with pytest.raises(Undocumented):
            reference.check("GET", path, status, good, b"{}")
    with pytest.raises(Undocumented):
        reference.check("DELETE", "/health/live", 405, good, b"{}")
