"""Health and metrics of the processes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response, get

from flashsale.domain.errors import NotReady
from flashsale.http import problems
from flashsale.http.metrics import UseFlusher, scrape
from flashsale.http.operations import Given, Operation
from flashsale.http.schemas import AliveOut, HealthOut, ProblemOut
from flashsale.http.services import UseServices

LIVE = Operation(
    name="isAlive",
    summary="Does this process run",
    description="Answer, without looking at any other part of the system.",
    tag="health",
    gives=(Given(status=HTTPStatus.OK, description="The process runs.", model=AliveOut),),
)
READY = Operation(
    name="isReady",
    summary="Can this process serve",
    description="Say whether this process can sell; an answer is at most a second old.",
    tag="health",
    gives=(Given(status=HTTPStatus.OK, description="The process can serve.", model=HealthOut),),
    codes=("not_ready", "internal"),
)
METRICS = Operation(
    name="getMetrics",
    summary="Prometheus metrics",
    description="Return the metrics of this machine's API processes, as OpenMetrics if `Accept` asks for it.",
    tag="health",
    gives=(
        Given(
            status=HTTPStatus.OK,
            description="The metrics.",
            texts={
                "text/plain": 'flashsale_buys_total{outcome="accepted"} 1000.0\n',
                "application/openmetrics-text": 'flashsale_buys_total{outcome="accepted"} 1000.0\n# EOF\n',
            },
        ),
    ),
    codes=("internal",),
)


@get("/health/live", opt={"operation": LIVE})
async def live() -> AliveOut:
    """Answer, without looking at any other part of the system."""
    return AliveOut()


@get("/health/ready", opt={"operation": READY})
async def ready(services: UseServices) -> Response[HealthOut]:
    """Answer 503, as a problem document, if this process cannot sell: `problems` says what is wrong and what to do.

    A bypassed gate and a lost LISTEN connection are only notes, because the sale continues. An answer is at most a
    second old.
    """
    condition = await services.readiness()
    notes = [ProblemOut(what=note.what, todo=note.todo) for note in condition.notes]
    health = HealthOut(
        ready=not condition.problems,
        postgres=condition.postgres,
        listening=condition.listening,
        gate=condition.gate,
        notes=notes,
    )
    if not condition.problems:
        return Response(health)
    answer = problems.problem_of(
        NotReady(" ".join(f"{problem.what} {problem.todo}" for problem in condition.problems)),
        **msgspec.to_builtins(health),
        problems=[{"what": problem.what, "todo": problem.todo} for problem in condition.problems],
    )
    return problems.as_response(answer)  # type: ignore[return-value]


@get("/metrics", opt={"operation": METRICS}, media_type="text/plain")
async def metrics(request: Request[Any, Any, Any], flusher: UseFlusher) -> Response[bytes]:
    """Return the metrics of this machine's API processes, as OpenMetrics if `Accept` asks for it."""
    text, content_type = await scrape(flusher, request.headers.get("accept", ""))
    return Response(text, media_type=content_type)
