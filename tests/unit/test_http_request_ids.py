import asyncio

import pytest
from litestar import Litestar

from flashsale.http.cors import Cors
from flashsale.http.edge import Edge
from flashsale.http.metrics import Meter
from flashsale.http.request_ids import RequestIds
from flashsale.runtime.logs import REQUEST_ID


async def ask(edge, *headers):
    """Send one request; returns the headers of its answer."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/x", "query_string": b"", "headers": list(headers)}
    # In a task of its own, as a server does.
    await asyncio.create_task(edge.framework(scope, receive, send))
    return dict(sent[0]["headers"])


def edge_of(app):
    return Edge(app, Litestar(openapi_config=None), [], Meter(), cors=Cors([]))


async def answer(scope, receive, send):
    bound = REQUEST_ID.get()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-bound", bound)]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def test_a_sane_request_id_is_kept_bound_and_echoed():
    headers = await ask(edge_of(answer), (b"x-request-id", b"shop:42.a-b_c"))
    assert headers[b"x-request-id"] == headers[b"x-bound"] == b"shop:42.a-b_c"
    assert REQUEST_ID.get(None) is None, "bound to the request's own context only"


@pytest.mark.parametrize("given", [b"", b"a b", b"a\tb", b'"', b"x" * 65, b"\xff", b"a\nlog: forged", b"a\n"])
async def test_a_request_id_that_is_not_sane_is_replaced(given):
    headers = await ask(edge_of(answer), (b"x-request-id", given))
    assert headers[b"x-request-id"] == headers[b"x-bound"] != given


async def test_made_request_ids_differ_in_a_process_and_between_processes():
    edge = edge_of(answer)
    made = {(await ask(edge))[b"x-request-id"] for _ in range(100)}
    assert len(made) == 100
    assert RequestIds().bind(None) not in made


async def test_every_answer_forbids_sniffing():
    assert (await ask(edge_of(answer)))[b"x-content-type-options"] == b"nosniff"
