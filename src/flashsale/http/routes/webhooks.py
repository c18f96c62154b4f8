"""The route of the payment provider's webhooks."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from flashsale.http.messages import rendered
from flashsale.http.operations import SERVERS, Given, Operation, Parameter
from flashsale.http.payment_schemas import WebhookOut
from flashsale.http.routing import Direct

if TYPE_CHECKING:
    from flashsale.http.messages import Answer, Request
    from flashsale.usecases.services import Services

TEMPLATE = "/api/webhooks/{provider}"
_PROVIDER_AT = TEMPLATE.split("/").index("{provider}")

RECEIVE = Operation(
    name="receiveWebhook",
    summary="Take a webhook of the payment provider",
    description="Store an event that the payment provider signed, with any Content-Type. 200 means that the event is "
    "durable. A repeated event gets the same answer and changes nothing. Only the id of the payment is taken from the "
    "event; its state is then read from the provider.",
    tag="payments",
    parameters=(
        Parameter(
            name="Stripe-Signature",
            place="header",
            schema={"type": "string"},
            description="The provider's signature of the body; each provider has its own header name.",
            example="t=1795770000,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd",
        ),
    ),
    gives=(Given(status=HTTPStatus.OK, description="The event is durable.", model=WebhookOut),),
    codes=("provider_not_found", "webhook_refused", *SERVERS),
)

_RECEIVED = msgspec.json.encode(WebhookOut())


def direct_routes(services: Services) -> list[Direct]:
    """Make the route. It runs before the framework, because the signature covers the bytes of the body.

    It has no limit per address: a provider sends from few addresses, and a forged event costs one comparison of hashes.
    """

    async def receive(request: Request) -> Answer:
        provider = request.path.split("/")[_PROVIDER_AT]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        await services.webhooks(provider, headers=headers, body=bytes(request.body))
        return rendered(HTTPStatus.OK, _RECEIVED)

    return [Direct(template=TEMPLATE, method="POST", serve=receive, operation=RECEIVE)]
