"""The desk: orders, through the API."""

from __future__ import annotations

import json
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from flashsale.cli.client import open_api, url_option
from flashsale.cli.group import main, print_result, run_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

json_option = click.option("--json", "machine", is_flag=True, help="Print JSON instead of a table.")


@main.group()
def orders() -> None:
    """Find, show, export, cancel and refund orders, and record payments and refunds of the provider manual."""


def filters(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select orders; the command gets their values as `asked`, the query of the API."""

    @wraps(command)
    def run(
        email: str | None,
        product_id: int | None,
        status: str | None,
        created_from: str | None,
        created_to: str | None,
        **others: object,
    ) -> None:
        given = {
            "email": email,
            "productId": product_id,
            "status": status,
            "createdFrom": created_from,
            "createdTo": created_to,
        }
        command(asked={name: str(value) for name, value in given.items() if value is not None}, **others)

    for option in (
        click.option("--created-to", metavar="TIME", help="Only orders created before this time."),
        click.option(
            "--created-from",
            metavar="TIME",
            help="Only orders created at this time or later, such as 2026-11-27T09:00:00Z.",
        ),
        click.option("--status", help="Only orders in this state."),
        click.option("--product", "product_id", type=click.IntRange(1, 2**31 - 1), help="Only orders of this product."),
        click.option("--email", help="Only orders of the buyer with this e-mail address."),
    ):
        run = option(run)
    return run


@orders.command("find", epilog="Example: flashsale orders find --email ada@example.com --status payment_unknown")
@filters
@click.option("--before", help="Only orders older than this order id, for the next page.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="Maximum number of orders.")
@url_option
@json_option
def find_orders(
    asked: dict[str, str],
    before: str | None,
    limit: int,
    url: str,
    machine: bool,  # noqa: FBT001 - click passes it by name
) -> None:
    """Find orders by buyer, product, state and time, newest first."""

    async def run() -> None:
        query = {**asked, "limit": str(limit), **({} if before is None else {"before": before})}
        async with open_api(url) as api:
            found = await api("GET", "/api/admin/orders", query=query)
            product_id, place = asked.get("productId"), None
            if not found and not machine and before is None and "productId" in asked and "email" not in asked:
                product = await api("GET", f"/api/admin/products/{product_id}", missing={})
                place = product.get("files")
        if place is not None:
            print_result(f"none in the database: the orders of product {product_id} are in {place}")
            return
        if machine:
            show_rows(found, machine=True)
            return
        names = ("orderId", "email", "product", "status", "price", "createdAt")
        show_rows([{name: _shown(one, name) for name in names} for one in found], machine=False)

    run_command(run())


orders.add_command(find_orders, "list")


@orders.command("show", epilog="Example: flashsale orders show 0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58")
@click.argument("order_id", type=click.UUID)
@url_option
@json_option
def show_order(order_id: object, url: str, machine: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Show whose an order is and everything that happened to it, with times."""

    async def run() -> None:
        async with open_api(url) as api:
            told = await api("GET", f"/api/admin/orders/{order_id}")
        if machine:
            print_result(json.dumps(told))
            return
        price = f"{told['quantity']} x {told['unitPrice']} {told['currency']}"
        print_result(
            f"order {told['orderId']}: {told['status']}\n"
            f"{told['productName']} (product {told['productId']}), {price}, units {told['units'] or 'none'}\n"
            f"{told['buyerName']} <{told['email']}>, account {told['userId']}"
        )
        show_rows(
            [{"at": one["at"], "what": one["kind"], "facts": _facts(one["facts"])} for one in told["entries"]],
            machine=False,
        )
        if told["dueAt"] is not None:
            print_result(f"The sweep looks at the order again at {told['dueAt']}.")

    run_command(run())


def _shown(order: dict[str, Any], name: str) -> str:
    match name:
        case "product":
            return str(order["product"]["id"])
        case "price":
            return f"{order['totalPrice']} {order['currency']}"
        case "createdAt":
            return f"{order['createdAt'][:19]}Z"
        case _:
            return str(order[name])


reference_option = click.option(
    "--reference", required=True, help="What identifies the money at the bank or counter, such as a transfer's text."
)


@orders.command(
    "paid",
    epilog="Example: flashsale orders paid 0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58 --reference 4711 --amount 999.99",
)
@click.argument("order_id", type=click.UUID)
@reference_option
@click.option("--amount", required=True, help="Amount that came, a decimal number; it must be the order's price.")
@click.option("--currency", default="USD", show_default=True, help="ISO 4217 code.")
@url_option
def record_payment(order_id: object, reference: str, amount: str, currency: str, url: str) -> None:
    """Record the payment of an order (provider manual); a payment worker then confirms the order."""
    body = {"reference": reference, "amount": amount, "currency": currency}
    print_answer(url, "POST", f"/api/admin/orders/{order_id}/paid", body)


@orders.command(
    "refunded", epilog="Example: flashsale orders refunded 0197a3c2-7d10-7c5e-9a44-3f0b6e1d2c58 --reference 4712"
)
@click.argument("order_id", type=click.UUID)
@reference_option
@click.option("--number", type=click.IntRange(1, 2**31 - 1), default=1, show_default=True, help="Number of the refund.")
@url_option
def record_refund(order_id: object, reference: str, number: int, url: str) -> None:
    """Record that the money of a pending refund was given back (provider manual)."""
    print_answer(url, "POST", f"/api/admin/orders/{order_id}/refunds/{number}/paid", {"reference": reference})


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def print_answer(url: str, method: str, path: str, body: object = None) -> None:
    """Send a request and print its answer as JSON."""

    async def run() -> None:
        async with open_api(url) as api:
            print_result(json.dumps(await api(method, path, body=body), indent=2))

    run_command(run())


def show_rows(rows: list[dict[str, Any]], *, machine: bool) -> None:
    """Print rows as a table, or as JSON."""
    if machine:
        print_result(json.dumps(rows))
    elif rows:
        from rich.console import Console

        Console(highlight=False).print(_table(rows))
    else:
        print_result("none")


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in rows[0]:
        # An id is never cut, so that it can be copied.
        table.add_column(name, overflow="fold", no_wrap=name.endswith("Id"))
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    return table
