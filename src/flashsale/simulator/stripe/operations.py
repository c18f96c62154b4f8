"""The operations of Stripe's dialect: path, what it does, who may ask."""

from __future__ import annotations

from flashsale.simulator.stripe import intents, refunds
from flashsale.simulator.stripe.calls import Operation
from flashsale.simulator.stripe.lists import account, listing, retrieve, search_intents

_INTENTS = "/v1/payment_intents"
_ONE = "/v1/payment_intents/{id}"

OPERATIONS = (
    Operation(method="POST", path=_INTENTS, run=intents.create),
    Operation(method="GET", path=_INTENTS, run=listing("payment_intent", _INTENTS)),
    Operation(method="GET", path=f"{_INTENTS}/search", run=search_intents),
    Operation(method="GET", path=_ONE, run=retrieve("payment_intent", "intent"), public=True),
    Operation(method="POST", path=f"{_ONE}/confirm", run=intents.confirm, bank=True, public=True),
    Operation(method="POST", path=f"{_ONE}/capture", run=intents.capture, bank=True),
    Operation(method="POST", path=f"{_ONE}/cancel", run=intents.cancel),
    Operation(method="POST", path="/v1/refunds", run=refunds.create, bank=True),
    Operation(method="GET", path="/v1/refunds", run=listing("refund", "/v1/refunds", "payment_intent", "charge")),
    Operation(method="GET", path="/v1/refunds/{id}", run=retrieve("refund", "id")),
    Operation(method="GET", path="/v1/account", run=account),
    Operation(method="POST", path="/v1/test_helpers/payment_intents/{id}/dispute", run=refunds.dispute, helper=True),
    Operation(method="POST", path="/v1/test_helpers/refunds/{id}/{end}", run=refunds.settle, helper=True),
)
