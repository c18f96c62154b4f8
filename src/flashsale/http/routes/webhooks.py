"""What the payment provider tells of payments."""

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
    description="Write an event down that the payment provider signed, whatever its Content-Type says. 200 means that "
    "it is durable; an event that came before is answered in the same way and changes nothing. Nothing of it is "
    "believed but which payment it speaks of: the provider is asked about that.",
    tag="payments",
    parameters=(
        Parameter(
            name="Stripe-Signature",
            place="header",
            schema={"type": "string"},
            description="The provider's signature of the body; its name is that of the provider.",
            example="t=1795770000,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd",
        ),
    ),
    gives=(Given(status=HTTPStatus.OK, description="The event is durable.", model=WebhookOut),),
    codes=("provider_not_found", "webhook_refused", *SERVERS),
)

_RECEIVED = msgspec.json.encode(WebhookOut())


def direct_routes(services: Services) -> list[Direct]:
    """Make the route: before the framework, because the signature holds for the bytes as they came.

    Nobody is limited by address: a provider sends from few, and a forged event costs one comparison of hashes.
    """

    async def receive(request: Request) -> Answer:
        provider = request.path.split("/")[_PROVIDER_AT]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        await services.webhooks(provider, headers=headers, body=bytes(request.body))
        return rendered(HTTPStatus.OK, _RECEIVED)

    return [Direct(template=TEMPLATE, method="POST", serve=receive, operation=RECEIVE)]
