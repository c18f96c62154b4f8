"""Products, through the API."""

from __future__ import annotations

import click

from flashsale.cli.client import open_api, url_option
from flashsale.cli.desk import json_option, print_answer, show_rows
from flashsale.cli.group import main, run_command

product_argument = click.argument("product_id", type=click.IntRange(1, 2**31 - 1))

NONE = "none"
"""The value of an option that takes a limit, a start or an end away."""

CLEARED = frozenset({"limit_per_buyer", "starts_at", "ends_at"})
"""Fields that can be taken away."""

LIMITS_PER = ["account", "email_root"]
WINDOW = "Seconds that a buyer has to pay an order."
LIMIT_PER = "Whose units the limit counts: of an account, or of all whose addresses differ only in a +tag."
COOL_DOWN = "Seconds for which units that a buyer held and did not pay for still count toward that buyer's limit."


class _NumberOrNone(click.ParamType[int | str]):
    """A whole number, or the word `none`."""

    name = "integer|none"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == NONE:
            return NONE
        try:
            return int(str(value))
        except ValueError:
            self.fail(f"{value} is no whole number and not `{NONE}`", param, ctx)


def _sent(fields: dict[str, object]) -> dict[str, object]:
    """Return fields under the names of the API."""
    names = {name: name.split("_") for name in fields}
    return {first + "".join(part.capitalize() for part in rest): fields[name] for name, (first, *rest) in names.items()}


@main.group()
def product() -> None:
    """Create, show, change, close and archive products."""


LISTED = ("id", "name", "paused", "endsAt", "allotment", "claimed", "stock", "sold", "revenue", "refunded", "currency")


@product.command("list", epilog="Example: flashsale product list")
@click.option("--archived", is_flag=True, help="List the products that are archived; otherwise those that are not.")
@click.option("--before", type=click.IntRange(1, 2**31 - 1), help="Only those older than this product.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="At most so many.")
@url_option
@json_option
def list_products(
    archived: bool,  # noqa: FBT001 - click passes it by name
    before: int | None,
    limit: int,
    url: str,
    machine: bool,  # noqa: FBT001
) -> None:
    """List the newest products with their units, revenue and refunds."""

    async def run() -> None:
        query = {"archived": str(archived).lower(), "limit": str(limit)}
        async with open_api(url) as api:
            found = await api(
                "GET", "/api/admin/products", query={**query, **({} if before is None else {"before": str(before)})}
            )
        show_rows(found if machine else [{name: one[name] for name in LISTED} for one in found], machine=machine)

    run_command(run())


@product.command("show", epilog="Example: flashsale product show 1")
@product_argument
@url_option
def show_product(product_id: int, url: str) -> None:
    """Show a product with every field that can be set, and what was sold of it, as JSON."""
    print_answer(url, "GET", f"/api/admin/products/{product_id}")


@product.command("create", epilog='Example: flashsale product create "Phone X" --price 999.99 --stock 1000 --limit 1')
@click.argument("name")
@click.option("--price", required=True, help="Price of a unit, a decimal number.")
@click.option("--currency", default="USD", show_default=True, help="ISO 4217 code.")
@click.option("--stock", type=int, required=True, help="Number of units for sale.")
@click.option(
    "--by-buyer",
    "payment_mode",
    flag_value="by_buyer",
    default="automatic",
    help="The buyer starts the payment; otherwise a worker charges.",
)
@click.option("--payment-window", "payment_window_s", type=int, default=300, show_default=True, help=WINDOW)
@click.option(
    "--limit", "limit_per_buyer", type=int, help="Maximum number of units per buyer; without it there is no limit."
)
@click.option("--limit-per", type=click.Choice(LIMITS_PER), default="account", show_default=True, help=LIMIT_PER)
@click.option("--cool-down", "cooldown_s", type=int, default=0, show_default=True, help=COOL_DOWN)
@click.option(
    "--refundable", "refundable_by_buyer", is_flag=True, help="The buyer of a paid order may ask for the money back."
)
@click.option("--starts-at", help="When the sale opens: 2026-11-27T09:00:00Z.")
@click.option("--ends-at", help="When the sale closes.")
@url_option
def create_product(url: str, **fields: object) -> None:
    """Put a product on sale."""
    print_answer(url, "POST", "/api/admin/products", _sent(fields))


@product.command("change", epilog="Example: flashsale product change 1 --payment-window 600 --limit none")
@product_argument
@click.option("--name", help="Name, as buyers see it.")
@click.option("--price", help="Price of later orders. Pause the sale before you raise it.")
@click.option("--payment-window", "payment_window_s", type=int, help=WINDOW)
@click.option(
    "--limit", "limit_per_buyer", type=_NumberOrNone(), help="Maximum number of units per buyer; `none`: no limit."
)
@click.option("--limit-per", type=click.Choice(LIMITS_PER), help=LIMIT_PER)
@click.option("--cool-down", "cooldown_s", type=int, help=COOL_DOWN)
@click.option("--starts-at", help="When the sale opens; `none`: it is open.")
@click.option("--ends-at", help="When the sale closes; `none`: it has no end.")
@url_option
def change_product(product_id: int, url: str, **fields: object) -> None:
    """Change the fields that are given, and no other field. Orders that were made keep their terms."""
    given = {name: value for name, value in fields.items() if value is not None}
    if not given:
        raise click.UsageError("give at least one option: what is to change?")
    # `none` is null in the API: no limit, no start, no end.
    sent = {name: None if value == NONE and name in CLEARED else value for name, value in given.items()}
    print_answer(url, "PATCH", f"/api/admin/products/{product_id}", _sent(sent))


@product.command("pause", epilog="Example: flashsale product pause 1")
@product_argument
@url_option
def pause_product(product_id: int, url: str) -> None:
    """Refuse every order until the sale is resumed."""
    print_answer(url, "POST", f"/api/admin/products/{product_id}/pause")


@product.command("resume", epilog="Example: flashsale product resume 1")
@product_argument
@url_option
def resume_product(product_id: int, url: str) -> None:
    """Accept orders again."""
    print_answer(url, "POST", f"/api/admin/products/{product_id}/resume")


@product.command("close", epilog="Example: flashsale product close 1")
@product_argument
@url_option
def close_product(product_id: int, url: str) -> None:
    """End the sale now; orders that were accepted stay payable."""
    print_answer(url, "POST", f"/api/admin/products/{product_id}/close")


@product.command("archive", epilog="Example: flashsale product archive 1")
@product_argument
@url_option
def archive_product(product_id: int, url: str) -> None:
    """Take a product out of the lists for ever; nothing of it may be open."""
    print_answer(url, "POST", f"/api/admin/products/{product_id}/archive")


@product.command("price", epilog="Example: flashsale product price 1 899.99")
@product_argument
@click.argument("price")
@url_option
def price_product(product_id: int, price: str, url: str) -> None:
    """Change the price of later orders; an order keeps the price that it was made with.

    Pause the sale before you raise the price.
    """
    print_answer(url, "PATCH", f"/api/admin/products/{product_id}", {"price": price})


@product.command("stock", epilog="Example: flashsale product stock 1 +50")
@product_argument
@click.argument("units", type=click.STRING)
@url_option
def stock_product(product_id: int, units: str, url: str) -> None:
    """Set the number of units (500), add units (+50), or take units away (-- -50).

    A repeated command adds or takes away the units again.
    """
    try:
        number = int(units)
    except ValueError:
        raise click.BadParameter("give a whole number, such as 500, +50 or -50", param_hint="UNITS") from None
    if units.startswith(("+", "-")):
        print_answer(url, "POST", f"/api/admin/products/{product_id}/stock", {"change": number})
    else:
        print_answer(url, "POST", "/api/admin/stock", {"productId": product_id, "stock": number})
