"""What support does for a buyer, through the API."""

from __future__ import annotations

import json
from typing import Any

import click

from flashsale.cli.client import open_api, url_option
from flashsale.cli.desk import json_option, orders, show_rows
from flashsale.cli.group import main, print_result, run_command

key_option = click.option(
    "--key", help="Idempotency key: a repeated command with this key changes nothing and prints the first answer."
)


@main.group()
def buyer() -> None:
    """Find buyers' accounts, and erase personal data on request."""


@orders.command("cancel", epilog="Example: flashsale orders cancel 0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58")
@click.argument("order_id", type=click.UUID)
@key_option
@url_option
def cancel_order(order_id: object, key: str | None, url: str) -> None:
    """Cancel an order that waits for payment; its units are sold again."""
    _post(url, f"/api/admin/orders/{order_id}/cancel", None, key)


@orders.command(
    "refund", epilog='Example: flashsale orders refund 0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58 --reason "Arrived broken"'
)
@click.argument("order_id", type=click.UUID)
@click.option("--amount", help="Amount to give back, a decimal number; without it, all that is left.")
@click.option("--restock", is_flag=True, help="Sell the units again once all of the money is back.")
@click.option("--reason", required=True, help="Reason, for the shop's own records.")
@key_option
@url_option
def refund_order(
    order_id: object,
    amount: str | None,
    restock: bool,  # noqa: FBT001 - click passes it by name
    reason: str,
    key: str | None,
    url: str,
) -> None:
    """Give back an order's money, all or a part; a payment worker makes the refund.

    Without --key, a repeated command refunds the same part again.
    """
    body = {"amount": amount, "restock": restock, "reason": reason}
    _post(url, f"/api/admin/orders/{order_id}/refunds", body, key)


@orders.command("withdraw", epilog="Example: flashsale orders withdraw 0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58 --number 1")
@click.argument("order_id", type=click.UUID)
@click.option("--number", type=click.IntRange(1, 2**31 - 1), default=1, show_default=True, help="Number of the refund.")
@key_option
@url_option
def withdraw_refund(order_id: object, number: int, key: str | None, url: str) -> None:
    """Withdraw a pending refund before its money is given back; the order is what it was before."""
    _post(url, f"/api/admin/orders/{order_id}/refunds/{number}/withdraw", None, key)


@buyer.command("find", epilog="Example: flashsale buyer find ada@example.com")
@click.argument("email")
@url_option
@json_option
def find_buyer(email: str, url: str, machine: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Find the account with an e-mail address, in any form of the address."""

    async def run() -> None:
        async with open_api(url) as api:
            show_rows(await api("GET", "/api/admin/buyers", query={"email": email}), machine=machine)

    run_command(run())


@buyer.command("erase", epilog="Example: flashsale buyer erase 0197a3c1-02ab-7f31-8c1e-5d9a7b3e4f60")
@click.argument("user_id", type=click.UUID)
@click.option("--yes", is_flag=True, help="Do not ask for a confirmation.")
@url_option
def erase_buyer(user_id: object, yes: bool, url: str) -> None:  # noqa: FBT001 - click passes it by name
    """Erase a buyer's name, address, password and e-mails, and end every token. Orders and money stay.

    Nothing brings the data back. An account with orders that are not final is refused.
    """
    if not yes:
        click.confirm(f"Erase the personal data of account {user_id}?", abort=True, err=True)
    _post(url, f"/api/admin/buyers/{user_id}/erase", None, None)


def _post(url: str, path: str, body: dict[str, Any] | None, key: str | None) -> None:
    async def run() -> None:
        async with open_api(url) as api:
            print_result(json.dumps(await api("POST", path, body=body, key=key), indent=2))

    run_command(run())
