"""Products: the list, one product, and what is done to it. What cannot be taken back shows its effect first."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flashsale.domain.errors import InvalidInput
from flashsale.domain.money import EXPONENTS
from flashsale.domain.products import ALLOTMENT_MAX, PAUSED, PRODUCT_ID_MAX, RESUMED, ProductChange
from flashsale.http.admin_schemas import NewProductIn, ProductChangeIn, new_product, product_change
from flashsale.http.routes import admin, product_figures
from flashsale.pages.console import plots
from flashsale.pages.console.forms import instant_of, number_of, typed
from flashsale.pages.console.frame import Action, Page, as_in_api
from flashsale.pages.console.shown import for_input, instant, number, sale_state, stand
from flashsale.usecases.record_money import MANUAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashsale.domain.products import Product
    from flashsale.domain.requests import AdminRequest
    from flashsale.http.messages import Answer
    from flashsale.pages.console.frame import Frame, View, Visit
    from flashsale.usecases.product_figures import ProductFigures

LIST = "/console/products"
NEW = f"{LIST}/new"
ONE = f"{LIST}/{{product_id:int}}"
PAGE = 50

_UNITS = re.compile(r"([+-]?)([0-9]{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an action would do."""

    title: str
    lines: tuple[str, ...]
    button: str | None
    """None: it cannot be done."""
    fields: Mapping[str, str]
    """What the form sends."""


class Products:
    """The pages and actions."""

    def __init__(self, frame: Frame) -> None:
        """Use a frame."""
        self._frame = frame
        self._services = frame.services
        self._administer = frame.services.administer

    def pages(self) -> list[Page]:
        """Return the pages."""
        looks = as_in_api(product_figures.LOOK)
        return [
            Page(path=LIST, right=as_in_api(product_figures.LIST), view=self.all),
            Page(path=NEW, right=as_in_api(admin.CREATE), view=self.new),
            Page(path=ONE, right=looks, view=self.one),
            Page(path=f"{ONE}/edit", right=as_in_api(admin.CHANGE), view=self.edit),
            Page(path=f"{ONE}/stock", right=as_in_api(admin.CHANGE_STOCK), view=self.stock),
            Page(path=f"{ONE}/pause", right=as_in_api(admin.PAUSE), view=self._asked(pausing)),
            Page(path=f"{ONE}/resume", right=as_in_api(admin.RESUME), view=self._asked(resuming)),
            Page(path=f"{ONE}/close", right=as_in_api(admin.CLOSE), view=self._asked(closing)),
            Page(path=f"{ONE}/archive", right=as_in_api(admin.ARCHIVE), view=self._asked(archiving)),
        ]

    def actions(self) -> list[Action]:
        """Return the actions."""
        pages = {page.path: page.view for page in self.pages()}
        acts = (
            (NEW, admin.CREATE, self.create),
            (f"{ONE}/edit", admin.CHANGE, self.change),
            (f"{ONE}/stock", admin.CHANGE_STOCK, self.change_stock),
            (f"{ONE}/pause", admin.PAUSE, self.pause),
            (f"{ONE}/resume", admin.RESUME, self.resume),
            (f"{ONE}/close", admin.CLOSE, self.close),
            (f"{ONE}/archive", admin.ARCHIVE, self.archive),
        )
        return [Action(path=path, right=as_in_api(does), act=act, form=pages[path]) for path, does, act in acts]

    async def all(self, visit: Visit) -> Answer:
        """List products, the newest first."""
        archived = visit.query.get("archived") == "true"
        before = number_of(visit.query.get("before", ""), "before", most=PRODUCT_ID_MAX)
        found = await self._services.read_products.page(archived=archived, before=before, limit=PAGE)
        rows = [(one, self._state(one)) for one in found]
        more = found[-1].product.product_id if len(found) == PAGE else None
        return self._frame.render(
            visit,
            "products.html",
            at=datetime.now(UTC),
            stand=stand(rows, more),
            rows=rows,
            archived=archived,
            more=more,
        )

    async def new(self, visit: Visit) -> Answer:
        """Show the form for a new product."""
        by_hand = self._services.settings.payments.provider == MANUAL
        return self._frame.render(visit, "new-product.html", currencies=sorted(EXPONENTS), by_hand=by_hand)

    async def one(self, visit: Visit) -> Answer:
        """Show a product."""
        found = await self._services.read_products.one(visit.number("product_id"))
        product = found.product
        samples = self._frame.parts.recent.samples()
        state, style = self._state(found)
        return self._frame.render(
            visit,
            "product.html",
            at=datetime.now(UTC),
            one=found,
            row={"product": product, "style": style},
            acts=stand(product.name, product.archived_at, style),
            state=state,
            plot_of=plots.stock(samples, {product.product_id: product.name}, time.monotonic()),
        )

    async def edit(self, visit: Visit) -> Answer:
        """Show the form that changes a product."""
        found = await self._services.read_products.one(visit.number("product_id"))
        product = found.product
        seen = visit.form.get("seen", product.updated_at.isoformat())
        return self._frame.render(
            visit, "edit-product.html", product=product, seen=seen, terms={**terms(product), **visit.form}
        )

    async def stock(self, visit: Visit) -> Answer:
        """Ask how many units, and show the effect."""
        found = await self._services.read_products.one(visit.number("product_id"))
        units = visit.form.get("units", visit.query.get("units", "")).strip()
        effect, error = None, visit.error
        if units and error is None:
            try:
                effect = restocking(found, units)
            except InvalidInput as wrong:
                error = wrong
        return self._frame.render(
            visit, "stock.html", one=found, units=units, effect=effect, wrong=error, action="stock"
        )

    async def create(self, visit: Visit, request: AdminRequest) -> str:
        """Create a product."""
        sent = typed(visit.form, NewProductIn, "a new product", checks=("refundableByBuyer",))
        product = await self._administer.create(new_product(sent), request)
        return f"{LIST}/{product.product_id}?done=created"

    async def change(self, visit: Visit, request: AdminRequest) -> str:
        """Change a product, if nobody changed it since the form was opened."""
        seen = instant_of(visit.field("seen"), "seen")
        if seen is None:
            raise InvalidInput(field="seen", problem="is missing")
        product_id = visit.number("product_id")
        product = (await self._services.read_products.one(product_id)).product
        wanted, shown = (
            product_change(typed(form, ProductChangeIn, "a change of a product", leave=("seen",))).fields
            for form in (visit.form, terms(product))
        )
        # A field that shows what stands is left out: a form has times without their parts of a second.
        changed = ProductChange(fields={name: value for name, value in wanted.items() if value != shown[name]})
        await self._administer.change(product_id, changed, unless_changed_since=[seen], request=request)
        return f"{LIST}/{product_id}?done=changed"

    async def change_stock(self, visit: Visit, request: AdminRequest) -> str:
        """Add units, take some away, or set their number."""
        product_id = visit.number("product_id")
        sign, units = _units(visit.field("units"))
        if sign:
            await self._administer.change_allotment(product_id, -units if sign == "-" else units, request)
        else:
            await self._administer.set_allotment(product_id, units, request)
        return f"{LIST}/{product_id}?done=stock"

    async def pause(self, visit: Visit, request: AdminRequest) -> str:
        """Refuse every order until the sale is resumed."""
        await self._administer.change(visit.number("product_id"), PAUSED, request=request)
        return f"{LIST}/{visit.ids['product_id']}?done=paused"

    async def resume(self, visit: Visit, request: AdminRequest) -> str:
        """Accept orders again."""
        await self._administer.change(visit.number("product_id"), RESUMED, request=request)
        return f"{LIST}/{visit.ids['product_id']}?done=resumed"

    async def close(self, visit: Visit, request: AdminRequest) -> str:
        """End the sale now."""
        await self._administer.close(visit.number("product_id"), request)
        return f"{LIST}/{visit.ids['product_id']}?done=closed"

    async def archive(self, visit: Visit, request: AdminRequest) -> str:
        """Take a product out of the lists."""
        await self._administer.archive(visit.number("product_id"), request)
        return f"{LIST}/{visit.ids['product_id']}?done=archived"

    def _asked(self, effect_of: Callable[[ProductFigures], Effect]) -> View:
        async def ask(visit: Visit) -> Answer:
            found = await self._services.read_products.one(visit.number("product_id"))
            return self._frame.render(visit, "confirm.html", one=found, effect=effect_of(found), wrong=visit.error)

        return ask

    def _state(self, found: ProductFigures) -> tuple[str, str]:
        product_id = found.product.product_id
        if found.product.archived_at is not None:
            return "archived", "ended"
        catalog = self._services.catalog
        closed = catalog.closed(product_id) if product_id in catalog else None
        return sale_state(closed, free=found.stock.free)


def terms(product: Product) -> dict[str, str]:
    """Return what of a product can be changed, as the fields of a form."""
    return {
        "name": product.name,
        "price": str(product.price),
        "startsAt": for_input(product.starts_at),
        "endsAt": for_input(product.ends_at),
        "limitPerBuyer": "" if product.limit_per_buyer is None else str(product.limit_per_buyer),
        "limitPer": product.limit_per.value,
        "paymentWindowS": str(product.payment_window_s),
        "cooldownS": str(product.cooldown_s),
    }


def pausing(found: ProductFigures) -> Effect:
    """Say what a pause does."""
    return Effect(
        title=f"Pause the sale of {found.product.name}?",
        lines=(
            "This sale is paused already."
            if found.product.paused
            else f"Nobody can buy until the sale is resumed. {number(found.stock.free)} units are free now.",
            "Accepted orders go on: they are paid, or expire.",
        ),
        button="Confirm pause",
        fields={},
    )


def resuming(found: ProductFigures) -> Effect:
    """Say what the end of a pause does."""
    product, now = found.product, datetime.now(UTC)
    if product.ends_at is not None and product.ends_at <= now:
        then = f"The sale has ended, at {instant(product.ends_at)} UTC: nobody can buy until its end is changed."
    elif product.starts_at is not None and product.starts_at > now:
        then = f"The sale opens at {instant(product.starts_at)} UTC: nobody can buy before."
    else:
        then = "Buyers can buy at once."
    return Effect(
        title=f"Resume the sale of {product.name}?",
        lines=(
            then if product.paused else "This sale is not paused.",
            f"{number(found.stock.free)} units are free now.",
        ),
        button="Confirm resume",
        fields={},
    )


def closing(found: ProductFigures) -> Effect:
    """Say what the end of a sale does."""
    ends_at = found.product.ends_at
    free = f"{number(found.stock.free)} units that are free stay unsold."
    return Effect(
        title=f"Close the sale of {found.product.name}?",
        lines=(
            f"The sale has ended already: {free}"
            if ends_at and ends_at <= datetime.now(UTC)
            else f"The sale ends now: {free}",
            f"{number(found.sold)} units are sold, and {number(found.claimed - found.sold)} are being paid.",
            "Accepted orders stay payable.",
            "To open the sale again, change its end.",
        ),
        button="Confirm close",
        fields={},
    )


def archiving(found: ProductFigures) -> Effect:
    """Say what archiving does."""
    return Effect(
        title=f"Archive {found.product.name}?",
        lines=(
            "The product leaves the lists, and never changes again. Nothing brings it back.",
            f"Its orders stay, and can be refunded: {number(found.sold)} units are sold.",
        ),
        button="Confirm archive",
        fields={},
    )


def restocking(found: ProductFigures, units: str) -> Effect:
    """Say what a change of the number of units does.

    Raises:
        InvalidInput: if it is no number of units.
    """
    sign, count = _units(units)
    before = found.product.allotment
    after = before + {"+": count, "-": -count}.get(sign, count - before)
    change = after - before
    title = f"{number(abs(change))} units {'less' if change < 0 else 'more'} of {found.product.name}?"
    if after < found.claimed:
        line = (
            f"Orders hold {number(found.claimed)} units, so at most {number(before - found.claimed)} can be taken away."
        )
        return Effect(title=title, lines=(line,), button=None, fields={})
    if after > ALLOTMENT_MAX:
        line = f"A product has at most {number(ALLOTMENT_MAX)} units."
        return Effect(title=title, lines=(line,), button=None, fields={})
    free = found.stock.free
    return Effect(
        title=title,
        lines=(
            f"{number(after)} for sale instead of {number(before)}.",
            f"{number(max(0, free + change))} free instead of {number(free)}; orders hold {number(found.claimed)}.",
        ),
        button=f"Confirm {number(abs(change))} units {'less' if change < 0 else 'more'}",
        fields={"units": units},
    )


def _units(text: str) -> tuple[str, int]:
    found = _UNITS.fullmatch(text)
    if found is None:
        raise InvalidInput(field="units", problem="must be a whole number, such as +20, -20 or 500")
    return found[1], int(found[2])
