"""What a provider in Stripe's dialect must do, a cell each, asked by the official library unchanged."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import stripe

from tests.support.receiver import receiving

SOON_S = 10.0


@dataclass(slots=True, kw_only=True)
class Provider:
    """A provider under test: `listen` registers a webhook's target and returns its secret."""

    name: str
    client: stripe.StripeClient
    listen: Callable[[str], Awaitable[str]]

    @property
    def intents(self) -> Any:
        return self.client.v1.payment_intents

    async def open(self, *, key: str | None = None, **changes: Any) -> Any:
        """Open an intent that holds its money until it is captured."""
        params = {"amount": 99_999, "currency": "usd", "capture_method": "manual", "payment_method_types": ["card"]}
        options: Any = {"idempotency_key": key} if key else {}
        return await self.intents.create_async({**params, **changes}, options)

    async def held(self, method: str = "pm_card_visa", **changes: Any) -> Any:
        """Open an intent and confirm it."""
        intent = await self.open(payment_method=method, **changes)
        return await self.intents.confirm_async(intent.id)

    async def refused(self, call: Awaitable[Any]) -> stripe.StripeError:
        """Await a call that must fail."""
        try:
            answer = await call
        except stripe.StripeError as error:
            return error
        raise AssertionError(f"it was accepted: {answer}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One promise. `lacks` says, by provider, why it is not asked there."""

    name: str
    run: Callable[[Provider], Awaitable[None]]
    lacks: dict[str, str] = field(default_factory=dict)


CELLS: list[Cell] = []


def cell(**lacks: str) -> Callable[[Callable[[Provider], Awaitable[None]]], Callable[[Provider], Awaitable[None]]]:
    """Make a cell of a function; keyword arguments say what a provider lacks."""

    def register(run: Callable[[Provider], Awaitable[None]]) -> Callable[[Provider], Awaitable[None]]:
        CELLS.append(Cell(name=run.__name__.replace("_", " "), run=run, lacks=lacks))
        return run

    return register


@cell()
async def an_intent_is_opened_held_and_captured(provider: Provider) -> None:
    opened = await provider.open(payment_method="pm_card_visa")
    assert (opened.status, opened.amount, opened.currency) == ("requires_confirmation", 99_999, "usd")
    held = await provider.intents.confirm_async(opened.id)
    assert (held.id, held.status) == (opened.id, "requires_capture")
    taken = await provider.intents.capture_async(opened.id)
    assert taken.status == "succeeded"
    assert (await provider.intents.retrieve_async(opened.id)).status == "succeeded"


@cell()
async def a_capture_at_once_needs_one_call(provider: Provider) -> None:
    paid = await provider.open(payment_method="pm_card_visa", capture_method="automatic", confirm=True)
    assert paid.status == "succeeded"


@cell()
async def metadata_comes_back(provider: Provider) -> None:
    intent = await provider.open(metadata={"order_id": "order-1", "shop": "a b&c"})
    found = await provider.intents.retrieve_async(intent.id)
    assert found.metadata.to_dict() == {"order_id": "order-1", "shop": "a b&c"}


@cell()
async def a_cancelled_intent_stays_cancelled(provider: Provider) -> None:
    intent = await provider.open()
    assert (await provider.intents.cancel_async(intent.id)).status == "canceled"
    await provider.refused(provider.intents.confirm_async(intent.id))
    assert (await provider.intents.retrieve_async(intent.id)).status == "canceled"


@cell()
async def held_money_is_let_go_by_a_cancel(provider: Provider) -> None:
    intent = await provider.held()
    assert (await provider.intents.cancel_async(intent.id)).status == "canceled"


@cell(localstripe="captures a cancelled intent's charge")
async def a_capture_after_the_cancel_is_refused(provider: Provider) -> None:
    intent = await provider.held()
    await provider.intents.cancel_async(intent.id)
    await provider.refused(provider.intents.capture_async(intent.id))


@cell()
async def a_cancel_after_the_capture_is_refused_and_changes_nothing(provider: Provider) -> None:
    intent = await provider.held()
    await provider.intents.capture_async(intent.id)
    error = await provider.refused(provider.intents.cancel_async(intent.id))
    assert error.http_status == 400
    assert (await provider.intents.retrieve_async(intent.id)).status == "succeeded"


@cell(localstripe="no error code")
async def a_state_that_forbids_a_call_has_its_code_and_the_intent(provider: Provider) -> None:
    intent = await provider.held()
    await provider.intents.capture_async(intent.id)
    error = await provider.refused(provider.intents.cancel_async(intent.id))
    assert error.code == "payment_intent_unexpected_state"
    assert json.loads(str(error.http_body))["error"]["payment_intent"]["status"] == "succeeded"


@cell(localstripe="its declining test payment method pays")
async def a_decline_is_a_card_error_and_the_buyer_may_try_again(provider: Provider) -> None:
    intent = await provider.open(payment_method="pm_card_visa_chargeDeclined", capture_method="automatic")
    error = await provider.refused(provider.intents.confirm_async(intent.id))
    assert isinstance(error, stripe.CardError)
    assert error.code == "card_declined"
    found = await provider.intents.retrieve_async(intent.id)
    assert found.status == "requires_payment_method"
    assert found.last_payment_error.code == "card_declined"


@cell(localstripe="no such test payment method")
async def a_decline_says_why(provider: Provider) -> None:
    intent = await provider.open(payment_method="pm_card_visa_chargeDeclinedInsufficientFunds")
    error = await provider.refused(provider.intents.confirm_async(intent.id))
    assert isinstance(error, stripe.CardError)
    assert error.error.decline_code == "insufficient_funds"


@cell(localstripe="confirm takes no payment method")
async def another_card_pays_after_a_decline(provider: Provider) -> None:
    intent = await provider.open(payment_method="pm_card_visa_chargeDeclined")
    await provider.refused(provider.intents.confirm_async(intent.id))
    paid = await provider.intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})
    assert paid.status == "requires_capture"


@cell()
async def money_is_refunded_in_whole(provider: Provider) -> None:
    intent = await provider.held()
    await provider.intents.capture_async(intent.id)
    refund = await provider.client.v1.refunds.create_async({"payment_intent": intent.id})
    assert (refund.amount, refund.status) == (99_999, "succeeded")
    found = await provider.client.v1.refunds.retrieve_async(refund.id)
    assert (found.id, found.amount) == (refund.id, 99_999)


@cell()
async def money_is_refunded_in_parts_and_listed(provider: Provider) -> None:
    intent = await provider.held()
    await provider.intents.capture_async(intent.id)
    for amount in (40_000, 59_999):
        await provider.client.v1.refunds.create_async({"payment_intent": intent.id, "amount": amount})
    listed = await provider.client.v1.refunds.list_async({"payment_intent": intent.id})
    assert sum(refund.amount for refund in listed.data) == 99_999


@cell(localstripe="refunds more than was captured")
async def more_than_was_captured_is_never_refunded(provider: Provider) -> None:
    intent = await provider.held()
    await provider.intents.capture_async(intent.id)
    refunds = provider.client.v1.refunds
    await refunds.create_async({"payment_intent": intent.id, "amount": 90_000})
    await provider.refused(refunds.create_async({"payment_intent": intent.id, "amount": 10_000}))
    await refunds.create_async({"payment_intent": intent.id})
    error = await provider.refused(refunds.create_async({"payment_intent": intent.id}))
    assert error.code == "charge_already_refunded"


@cell(localstripe="no idempotency keys")
async def a_key_makes_one_intent(provider: Provider) -> None:
    first, second = [await provider.open(key="one-intent") for _ in range(2)]
    assert first.id == second.id


@cell(localstripe="no idempotency keys")
async def a_key_with_other_parameters_is_an_idempotency_error(provider: Provider) -> None:
    await provider.open(key="other-parameters")
    error = await provider.refused(provider.open(key="other-parameters", amount=1_000))
    assert isinstance(error, stripe.IdempotencyError)


@cell(localstripe="no idempotency keys")
async def a_key_captures_once(provider: Provider) -> None:
    intent = await provider.held()
    options: Any = {"idempotency_key": f"{intent.id}:capture"}
    first, second = [await provider.intents.capture_async(intent.id, {}, options) for _ in range(2)]
    assert (first.amount_received, second.amount_received) == (99_999, 99_999)


@cell()
async def a_list_is_read_page_by_page(provider: Provider) -> None:
    made = {(await provider.open()).id for _ in range(5)}
    page = await provider.intents.list_async({"limit": 2})
    seen = [intent.id async for intent in page.auto_paging_iter()]
    assert len(seen) == len(set(seen))
    assert made <= set(seen)


@cell(localstripe="no search")
async def an_intent_is_found_by_its_metadata(provider: Provider) -> None:
    made = await provider.open(metadata={"order_id": "order-to-find"})
    found = await provider.intents.search_async({"query": "metadata['order_id']:'order-to-find'"})
    assert [intent.id for intent in found.data] == [made.id]


@cell()
async def the_charge_is_expanded(provider: Provider) -> None:
    intent = await provider.held()
    found = await provider.intents.retrieve_async(intent.id, {"expand": ["latest_charge"]})
    assert found.latest_charge.amount == 99_999


@cell()
async def an_unknown_intent_is_404(provider: Provider) -> None:
    error = await provider.refused(provider.intents.retrieve_async("pi_nothing"))
    assert error.http_status == 404


@cell(localstripe="401 without an error of its type")
async def a_wrong_secret_is_an_authentication_error(provider: Provider) -> None:
    wrong: Any = {"api_key": "sk_test_wrong"}
    error = await provider.refused(provider.intents.list_async({}, wrong))
    assert isinstance(error, stripe.AuthenticationError)


@cell()
async def a_wrong_amount_is_400(provider: Provider) -> None:
    error = await provider.refused(provider.open(amount=-1))
    assert error.http_status == 400


@cell()
async def a_webhook_has_a_signature_that_the_library_accepts(provider: Provider) -> None:
    async with receiving() as receiver:
        secret = await provider.listen(receiver.url)
        intent = await provider.held()
        await provider.intents.capture_async(intent.id)
        told: set[tuple[str, str]] = set()
        async with asyncio.timeout(SOON_S):
            while ("payment_intent.succeeded", intent.id) not in told:
                for headers, body in await receiver.arrived(len(receiver.came) or 1):
                    event = stripe.Webhook.construct_event(body, headers["Stripe-Signature"], secret)
                    told.add((event.type, event.data.object.id))
                await asyncio.sleep(0.01)
        with contextlib.suppress(stripe.SignatureVerificationError):
            headers, body = receiver.came[0]
            stripe.Webhook.construct_event(body + b" ", headers["Stripe-Signature"], secret)
            raise AssertionError("a changed body was accepted")


@cell(localstripe="no sessions")
async def a_checkout_session_is_opened_and_expired(provider: Provider) -> None:
    sessions = provider.client.v1.checkout.sessions
    item: Any = {
        "quantity": 1,
        "price_data": {"currency": "usd", "unit_amount": 99_999, "product_data": {"name": "A phone"}},
    }
    session = await sessions.create_async(
        {"mode": "payment", "success_url": "http://127.0.0.1/paid", "line_items": [item]}
    )
    assert session.url is not None
    assert (await sessions.expire_async(session.id)).status == "expired"
    assert (await sessions.retrieve_async(session.id)).url is None


SESSION: Any = {
    "mode": "payment",
    "success_url": "http://127.0.0.1/paid",
    "cancel_url": "http://127.0.0.1/cart",
    "line_items": [
        {"quantity": 1, "price_data": {"currency": "usd", "unit_amount": 99_999, "product_data": {"name": "A phone"}}}
    ],
    "payment_intent_data": {"capture_method": "manual", "metadata": {"order_id": "order-of-a-page"}},
    "metadata": {"order_id": "order-of-a-page"},
}
"""A session as the adapter opens it."""

NO_SESSIONS = "no sessions"


async def paid_session(provider: Provider, session: Any) -> Any:
    """Pay a session as its page's button does; there is no call of Stripe's for that."""
    await provider.client.raw_request_async(
        "post", f"/v1/test_helpers/checkout/sessions/{session.id}/pay", payment_method="pm_card_visa"
    )
    return await provider.client.v1.checkout.sessions.retrieve_async(session.id)


@cell(localstripe=NO_SESSIONS)
async def a_paid_session_names_the_intent_that_holds_the_money(provider: Provider) -> None:
    session = await provider.client.v1.checkout.sessions.create_async(SESSION)
    assert (session.payment_intent, session.status) == (None, "open")
    paid = await paid_session(provider, session)
    assert (paid.status, paid.url) == ("complete", None)
    intent = await provider.intents.retrieve_async(paid.payment_intent)
    assert (intent.status, intent.metadata.to_dict()) == ("requires_capture", {"order_id": "order-of-a-page"})
    assert (await provider.intents.capture_async(intent.id)).status == "succeeded"


@cell(localstripe=NO_SESSIONS)
async def a_session_is_found_by_its_intent_and_in_the_list(provider: Provider) -> None:
    sessions = provider.client.v1.checkout.sessions
    session = await sessions.create_async(SESSION)
    paid = await paid_session(provider, session)
    found = await sessions.list_async({"payment_intent": str(paid.payment_intent), "limit": 1})
    assert [one.id for one in found.data] == [session.id]
    listed = await sessions.list_async({"created": {"gte": session.created}, "limit": 100})
    assert session.id in [one.id for one in listed.data]


@cell(localstripe=NO_SESSIONS)
async def a_session_that_is_paid_or_expired_cannot_be_expired(provider: Provider) -> None:
    sessions = provider.client.v1.checkout.sessions
    paid, expired = [await sessions.create_async(SESSION) for _ in range(2)]
    await paid_session(provider, paid)
    await sessions.expire_async(expired.id)
    for session in (paid, expired):
        error = await provider.refused(sessions.expire_async(session.id))
        assert error.http_status == 400


@cell(localstripe=NO_SESSIONS)
async def a_session_lives_half_an_hour_at_least(provider: Provider) -> None:
    sessions = provider.client.v1.checkout.sessions
    now = (await sessions.create_async(SESSION)).created
    error = await provider.refused(sessions.create_async({**SESSION, "expires_at": now + 600}))
    assert error.http_status == 400
    assert (await sessions.create_async({**SESSION, "expires_at": now + 1_900})).expires_at == now + 1_900


@cell(localstripe="no idempotency keys")
async def a_key_makes_one_session(provider: Provider) -> None:
    options: Any = {"idempotency_key": "one-session"}
    first, second = [await provider.client.v1.checkout.sessions.create_async(SESSION, options) for _ in range(2)]
    assert first.id == second.id


@cell()
async def events_are_listed(provider: Provider) -> None:
    intent = await provider.held()
    await provider.intents.capture_async(intent.id)
    listed = await provider.client.v1.events.list_async({"type": "payment_intent.succeeded", "limit": 100})
    assert intent.id in [event.data.object.id for event in listed.data]
