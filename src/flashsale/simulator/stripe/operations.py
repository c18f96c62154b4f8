"""The operations of Stripe's dialect: path, what it does, who may ask."""

from __future__ import annotations

from flashsale.simulator.stripe import checkout, intents, refunds, webhooks
from flashsale.simulator.stripe.calls import Operation
from flashsale.simulator.stripe.lists import account, listing, retrieve, search_intents

_INTENTS = "/v1/payment_intents"
_ONE = "/v1/payment_intents/{id}"
_SESSIONS = "/v1/checkout/sessions"
_EVENTS = "/v1/events"
_ENDPOINTS = "/v1/webhook_endpoints"

PAGE = Operation(method="POST", path="/c/pay/{id}", run=checkout.pay_in_page)
"""What the hosted page's button does."""

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
    Operation(method="POST", path=_SESSIONS, run=checkout.create),
    Operation(method="GET", path=_SESSIONS, run=listing("checkout.session", _SESSIONS, "payment_intent")),
    Operation(method="GET", path=f"{_SESSIONS}/{{id}}", run=checkout.retrieve),
    Operation(method="POST", path=f"{_SESSIONS}/{{id}}/expire", run=checkout.expire),
    Operation(method="POST", path="/v1/test_helpers/checkout/sessions/{id}/pay", run=checkout.pay_in_page, helper=True),
    Operation(method="GET", path=_EVENTS, run=listing("event", _EVENTS, "type")),
    Operation(method="GET", path=f"{_EVENTS}/{{id}}", run=retrieve("event", "id")),
    Operation(method="POST", path=_ENDPOINTS, run=webhooks.create_endpoint),
    Operation(method="GET", path=_ENDPOINTS, run=listing("webhook_endpoint", _ENDPOINTS)),
    Operation(method="GET", path=f"{_ENDPOINTS}/{{id}}", run=retrieve("webhook_endpoint", "id")),
    Operation(method="DELETE", path=f"{_ENDPOINTS}/{{id}}", run=webhooks.delete_endpoint),
    Operation(method="GET", path="/v1/account", run=account),
    Operation(method="POST", path="/v1/test_helpers/payment_intents/{id}/dispute", run=refunds.dispute, helper=True),
    Operation(method="POST", path="/v1/test_helpers/refunds/{id}/{end}", run=refunds.settle, helper=True),
)
