"""The local stack with Stripe as its provider: the simulator answers in Stripe's dialect and sends webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from flashsale.local.stack import Stack
from tests.by_buyer.sale import KEY, PUBLISHABLE, endpoint, provider

if TYPE_CHECKING:
    from collections.abc import Mapping


class StripeStack(Stack):
    """A stack of real processes. `gateway` stands between the stack and the simulator, if it is set before the start."""

    gateway: str | None = None
    _webhook_secret = ""

    async def _start_servers(self) -> None:
        """Register the API's webhook endpoint in the ledger with which the simulator starts."""
        await super()._start_servers()
        self.secrets["gateway_secret"] = KEY
        ledger = str(self.data_dir / "gateway-ledger.jsonl")
        async with provider(ledger_path=ledger) as url, aiohttp.ClientSession() as http:
            self._webhook_secret = await endpoint(http, url, self.base_url)

    def _make_environment(self) -> dict[str, str]:
        stripe: Mapping[str, str] = {
            "FLASHSALE_PAYMENTS__PROVIDER": "stripe",
            "FLASHSALE_STRIPE__BASE_URL": self.gateway or self.gateway_url,
            "FLASHSALE_STRIPE__SECRET_KEY": KEY,
            "FLASHSALE_STRIPE__PUBLISHABLE_KEY": PUBLISHABLE,
            "FLASHSALE_STRIPE__WEBHOOK_SECRET": self._webhook_secret,
            "FLASHSALE_STRIPE__PAYMENT_METHOD": "pm_card_visa",
        }
        return {**super()._make_environment(), **stripe}
