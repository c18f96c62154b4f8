"""Health and metrics, for whoever watches the processes."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get

from flashsale.domain.errors import NotReady
from flashsale.http import problems
from flashsale.http.metrics import UseFlusher, scrape
from flashsale.http.schemas import HealthOut, ProblemOut
from flashsale.http.services import UseServices


@get("/health/live", summary="Does this process run", tags=["health"])
async def live() -> dict[str, bool]:
    """Answer."""
    return {"live": True}


@get("/health/ready", summary="Can this process serve", tags=["health"])
async def ready(services: UseServices) -> Response[HealthOut]:
    """Say 503, as a problem document, if nothing can be sold here: `problems` says what is wrong and what to do.

    A bypassed gate and a lost LISTEN connection are only noted: the sale goes on. An answer is at most a second old.
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


@get("/metrics", summary="Prometheus metrics", tags=["health"], media_type="text/plain")
async def metrics(request: Request[Any, Any, Any], flusher: UseFlusher) -> Response[bytes]:
    """Give the metrics of this machine's API processes, as OpenMetrics if asked for."""
    text, content_type = await scrape(flusher, request.headers.get("accept", ""))
    return Response(text, media_type=content_type)
