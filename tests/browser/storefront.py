"""The storefront as a buyer uses it: by roles and names, as a screen reader says them."""

from __future__ import annotations

import re

from playwright.async_api import expect

PATIENCE_MS = 40_000
"""More than a page takes on a busy machine."""


class Storefront:
    """A visit of the storefront."""

    def __init__(self, visit):
        self.visit = visit
        self.page = visit.page

    @property
    def buy(self):
        return self.page.get_by_role("button", name="Buy", exact=False).first

    @property
    def stock(self):
        return self.page.locator("#stock")

    async def sign_in(self, buyer):
        await self.page.goto("/sign-in")
        await self.give(buyer)

    async def give(self, buyer):
        """Fill in the form for signing in, and send it."""
        await self.page.get_by_label("E-mail").fill(buyer.email)
        await self.page.get_by_label("Password", exact=False).first.fill(buyer.password)
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.page).not_to_have_url(re.compile("/sign-in"))

    async def open(self, product_id, state="open"):
        await self.page.goto(f"/p/{product_id}")
        await self.shows(state)

    async def shows(self, state):
        """Wait until the page says that it is in this state."""
        await expect(self.page.locator("main")).to_have_attribute("data-state", state, timeout=PATIENCE_MS)

    async def order_id(self):
        """Return the order whose page this is."""
        await expect(self.page).to_have_url(re.compile(r"/order/[0-9a-f-]{36}"), timeout=PATIENCE_MS)
        (found,) = re.findall(r"/order/([0-9a-f-]{36})", self.page.url)
        return found

    async def check(self, state, **more):
        await self.visit.check(state, **more)


async def without(context, guard, instead):
    """Serve the script of a product's page with something else in the place of a guard."""

    async def serve(route):
        answer = await route.fetch()
        script = await answer.text()
        assert script.count(guard) == 1, guard
        await route.fulfill(response=answer, body=script.replace(guard, instead))

    await context.route("**/assets/*/product.js", serve)
