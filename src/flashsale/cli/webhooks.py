"""Commands for the shop's endpoints and for messages that did not arrive."""

from __future__ import annotations

import base64
import secrets
import sys
from typing import TYPE_CHECKING
from uuid import UUID

import click

from flashsale.cli.group import main, print_result, process_settings, run_command
from flashsale.domain.messages import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flashsale.settings import Settings
    from flashsale.usecases.endpoints import Endpoints

SECRET_BYTES = 32
LISTED_MAX = 1000
EVENTS = [event.value for event in Event]


@main.group()
def webhooks() -> None:
    """Endpoints of the shop that are told what happens to orders and stock."""


@webhooks.command(epilog="Example: flashsale webhooks add https://shop.example/hooks --event order.confirmed")
@click.argument("url")
@click.option(
    "--event", "events", multiple=True, type=click.Choice(EVENTS), help="An event to send; without any, all of them."
)
def add(url: str, events: tuple[str, ...]) -> None:
    """Add an endpoint, and print its id and the secret that signs its messages, once."""
    from flashsale.domain.addresses import check_url
    from flashsale.domain.errors import InvalidInput

    async def run(outbox: Endpoints, settings: Settings) -> str:
        check_url(url, loopback=settings.outbox.loopback_allowed)
        target_id = f"wh_{secrets.token_hex(8)}"
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        most, wanted = settings.outbox.targets_max, sorted(set(events or EVENTS))
        if not await outbox.add_endpoint(target_id, url, secret, wanted, targets_max=most):
            raise InvalidInput(field="url", problem=f"is one too many: there are {most} targets, the most there may be")
        return f"endpoint {target_id}\nsecret {secret}"

    _with_outbox(run)


@webhooks.command("list", epilog="Example: flashsale webhooks list")
def list_() -> None:
    """List who is told, of what, and what waits. `mail` are the buyers."""

    async def run(outbox: Endpoints, _: Settings) -> str:
        lines = []
        for one in await outbox.targets():
            state = f"{one.waiting} waiting, {one.dead} dead" + (f": {one.problem}" if one.problem else "")
            lines.append(f"{one.target_id}  {one.url or 'e-mails to buyers'}  {','.join(one.events)}  {state}")
        return "\n".join(lines) or "no target: add one with `flashsale webhooks add URL`"

    _with_outbox(run)


@webhooks.command(epilog="Example: flashsale webhooks remove wh_0123456789abcdef")
@click.argument("endpoint")
def remove(endpoint: str) -> None:
    """Remove an endpoint; what it was not told yet goes with it. `mail` are the buyers."""
    from flashsale.domain.errors import NotFound

    async def run(outbox: Endpoints, _: Settings) -> str:
        if not await outbox.remove_endpoint(endpoint):
            raise NotFound(f"There is no endpoint {endpoint}.")
        return f"removed {endpoint}"

    _with_outbox(run)


@webhooks.command(epilog="Example: flashsale webhooks dead --endpoint mail")
@click.option("--endpoint", help="Only of this endpoint; `mail` are e-mails.")
@click.option("--limit", type=click.IntRange(1, LISTED_MAX), default=50, show_default=True, help="How many at most.")
def dead(endpoint: str | None, limit: int) -> None:
    """List the messages that were given up, the newest first."""

    async def run(outbox: Endpoints, _: Settings) -> str:
        lines = [
            f"{one.message_id}  {one.target_id}  {one.event}  {one.order_id or f'product {one.product_id}'}"
            f"  {one.ended_at:%Y-%m-%dT%H:%M:%SZ}  {one.attempts} tries: {one.problem}"
            for one in await outbox.dead(endpoint, limit=limit)
        ]
        return "\n".join(lines) or "no dead message"

    _with_outbox(run)


@webhooks.command(epilog="Example: flashsale webhooks resend --endpoint wh_0123456789abcdef")
@click.argument("message", required=False, type=click.UUID)
@click.option("--endpoint", help="All dead messages of this endpoint; `mail` are e-mails.")
def resend(message: UUID | None, endpoint: str | None) -> None:
    """Send a message again that ended, delivered or dead, or every dead message of an endpoint."""
    from flashsale.domain.errors import NotFound

    if (message is None) == (endpoint is None):
        sys.exit("flashsale: name a message or an --endpoint.")

    async def run(outbox: Endpoints, _: Settings) -> str:
        sent = await outbox.resend(message_id=message, target_id=endpoint)
        if not sent:
            raise NotFound("Nothing is sent again: there is no such message that has ended.")
        return f"{sent} sent again"

    _with_outbox(run)


def _with_outbox(use: Callable[[Endpoints, Settings], Coroutine[object, object, str]]) -> None:
    """Open the outbox for a command, and print its result."""
    from flashsale.bootstrap.commands import open_outbox
    from flashsale.bootstrap.servers import as_owner, require_servers

    settings = as_owner(process_settings("admin"))
    require_servers(settings)

    async def run() -> None:
        async with open_outbox(settings) as outbox:
            result = await use(outbox, settings)
        print_result(result)

    run_command(run())
