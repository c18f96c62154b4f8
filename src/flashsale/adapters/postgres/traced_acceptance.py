"""The accept transaction in a process that traces: a span for the batch, and one in the trace of each buy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashsale.adapters.postgres.acceptance import PostgresAcceptance
from flashsale.domain.traces import SpanKind
from flashsale.runtime.tracing import below

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashsale.adapters.postgres.database import Database
    from flashsale.domain.requests import Proposal, Verdict
    from flashsale.domain.traces import Span
    from flashsale.runtime.tracing import Tracer


class TracedAcceptance(PostgresAcceptance):
    """Makes the spans. One transaction serves many buys, so its span is a trace of its own, with a link to each."""

    def __init__(self, database: Database, *, order_due_s: float, tracer: Tracer) -> None:
        """Trace with `tracer`."""
        super().__init__(database, order_due_s=order_due_s)
        self._tracer = tracer

    async def accept(self, proposals: Sequence[Proposal]) -> Sequence[Verdict]:
        """Make orders of a batch in one transaction; see the port."""
        buys = [proposal.span for proposal in proposals if proposal.span is not None]
        for proposal in proposals:
            if proposal.span is not None:
                # Before the row keeps the trace, with which every later process decides alike.
                self._tracer.draw_order(proposal.span)
                proposal.span.facts["flashsale.order_id"] = str(proposal.order_id)
        batch = self._tracer.begin("accept batch", SpanKind.CLIENT)
        batch.sampled = any(buy.sampled for buy in buys)
        batch.links = [buy.context for buy in buys]
        batch.facts.update({"db.system.name": "postgresql", "flashsale.proposals": len(proposals)})
        try:
            verdicts = await super().accept(proposals)
        except BaseException as error:
            batch.error = type(error).__name__
            raise
        finally:
            self._tracer.end(batch)
            for buy in buys:
                buy.hold(_of_buy(buy, batch))
        return verdicts


def _of_buy(buy: Span, batch: Span) -> Span:
    span = below(buy, "accept", SpanKind.CLIENT)
    span.began_ns, span.ended_ns, span.error = batch.began_ns, batch.ended_ns, batch.error
    span.links = [batch.context]
    return span
