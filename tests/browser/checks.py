"""What holds of every page in every state, whatever the test does with it."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from PIL import Image
from playwright.async_api import expect

from flashsale.local.stack import ROOT

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
SHIFT_MAX = 0.01
PICTURES = ROOT / "docs/pictures"
PICTURE_BYTES_MAX = 100_000
PICTURE_COLOURS = 48
PICTURE_ROWS_MAX = 4_000

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
WINDOWS = {"phone": PHONE, "desktop": DESKTOP}

LISTEN = """
(() => {
  const seen = window.__seen = { shifts: [], violations: [] };
  addEventListener("securitypolicyviolation", (event) => {
    seen.violations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`);
  }, true);
  new PerformanceObserver((list) => {
    for (const shift of list.getEntries()) if (!shift.hadRecentInput) {
      const nodes = shift.sources.map(({ node }) => (node?.outerHTML ?? node?.textContent ?? "?").slice(0, 90));
      seen.shifts.push({ value: shift.value, nodes });
    }
  }).observe({ type: "layout-shift", buffered: true });
})()
"""
"""Runs before any script of the page, and outside its Content-Security-Policy."""

JUDGE = """
async (rules) => {
  const options = { resultTypes: ["violations"], rules: { "target-size": { enabled: true } } };
  if (rules) options.runOnly = { type: "rule", values: rules };
  const { violations } = await axe.run(document, options);
  return violations.map(({ id, help, nodes }) =>
    `${id}: ${help}: ${nodes.map(({ html, any }) => html.slice(0, 120) + " " + (any[0]?.message ?? "")).join(" | ")}`);
}
"""
OF_COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules of axe that depend on the colour scheme."""

FAILED_LOAD = re.compile(r"Failed to load resource: (?:the server responded with a status of (\d+)|(net::ERR_\w+))")
"""chromium writes this by itself for each answer of 400 and above, and for each answer that it did not get."""


CUT = tuple(
    f"net::ERR_{name}"
    for name in (
        "ABORTED", "CONNECTION_CLOSED", "CONNECTION_REFUSED", "CONNECTION_RESET", "EMPTY_RESPONSE", "FAILED",
        "HTTP2_PROTOCOL_ERROR", "INCOMPLETE_CHUNKED_ENCODING", "TIMED_OUT",
    )
)  # fmt: skip
"""What chromium says of answers that do not come, or not whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a page was like in one state."""

    state: str
    window: str
    faults: tuple[str, ...]
    shift: float
    weight: int


class Visit:
    """A window with a page, and all that went wrong in it."""

    def __init__(self, page, *, window, rows, weight_max, pictures):
        self.page = page
        self.rows = rows
        self._window = window
        self._weight_max = weight_max
        self._pictures = pictures
        self._console: list[str] = []
        self._allowed: set[str] = set()
        self._urls: dict[str, str] = {}
        self._weights: dict[str, dict[str, int]] = {}
        self._weighed: int | None = None

    @classmethod
    async def begin(cls, context, *, window, rows, weight_max=60_000, pictures=False):
        """Open a page and listen to it."""
        page = await context.new_page()
        visit = cls(page, window=window, rows=rows, weight_max=weight_max, pictures=pictures)
        await page.add_init_script(LISTEN)
        page.on("console", lambda message: visit._note(message.type, message.text))
        page.on("pageerror", lambda error: visit._console.append(f"exception: {error}"))
        session = await context.new_cdp_session(page)
        session.on("Network.requestWillBeSent", visit._asked)
        session.on("Network.dataReceived", visit._received)
        await session.send("Network.enable")
        return visit

    def allow(self, *problems):
        """Take these statuses and network errors of answers as a part of the test."""
        self._allowed |= {str(one) for one in problems}

    def _note(self, kind, text):
        failed = FAILED_LOAD.match(text)
        if kind in {"error", "warning"} and not (failed and {failed[1], failed[2]} & self._allowed):
            self._console.append(f"{kind}: {text}")

    def _asked(self, event):
        if event["type"] == "Document" and event["requestId"] == event["loaderId"] and "redirectResponse" not in event:
            self._urls, self._weights, self._weighed = {}, {}, None
        self._urls[event["requestId"]] = event["request"]["url"].partition("?")[0]

    def _received(self, event):
        one = event["requestId"]
        answers = self._weights.setdefault(self._urls.get(one, "?"), {})
        answers[one] = answers.get(one, 0) + event["dataLength"]

    def _weigh(self):
        """Sum the bytes of all that the page consists of; what it asks for again and again counts once."""
        return sum(max(answers.values()) for answers in self._weights.values())

    async def check(self, state, *, picture=None, dark_picture=None):
        """Judge the page as it is now; `picture` is the name under which `--pictures` keeps what it looks like."""
        page = self.page
        faults = await self._faults_of_light_and_dark(picture, dark_picture)
        seen = await page.evaluate("() => window.__seen")
        shift = sum(one["value"] for one in seen["shifts"])
        if shift >= SHIFT_MAX:
            faults += [f"layout shift of {one['value']:.4f}: {one['nodes']}" for one in seen["shifts"]]
        faults += [f"Content-Security-Policy: {one}" for one in seen["violations"]]
        faults += self._console
        if self._weighed is None:
            self._weighed = self._weigh()
        if self._weighed >= self._weight_max:
            faults.append(f"{self._weighed} bytes, and {self._weight_max} are too many: {self._weights}")
        wide, window = await page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        if wide > window:
            faults.append(f"{wide} pixels wide in a window of {window}")
        row = Row(state=state, window=self._window, faults=tuple(faults), shift=shift, weight=self._weighed)
        self.rows.append(row)
        assert not faults, f"{state} ({self._window}):\n" + "\n".join(faults)

    async def _faults_of_light_and_dark(self, picture, dark_picture):
        page = self.page
        await page.emulate_media(color_scheme="light", reduced_motion="reduce")
        if not await page.evaluate("() => 'axe' in window"):
            await page.evaluate(AXE)
        found = await page.evaluate(JUDGE, None)
        await self._keep(picture)
        await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        found += [f"dark: {one}" for one in await page.evaluate(JUDGE, OF_COLOURS)]
        await self._keep(dark_picture)
        await page.emulate_media(color_scheme="light", reduced_motion="reduce")
        return found

    async def _keep(self, name):
        if name is None or not self._pictures:
            return
        shot = await self.page.screenshot(full_page=True, animations="disabled", caret="hide")
        with Image.open(io.BytesIO(shot)) as image:
            # A list grows with the tests that ran before; its first products show what it is.
            top = image.crop((0, 0, image.width, min(image.height, PICTURE_ROWS_MAX)))
            small = top.convert("RGB").quantize(PICTURE_COLOURS, dither=Image.Dither.NONE)
        PICTURES.mkdir(exist_ok=True)
        path = PICTURES / f"{name}-{self._window}.png"
        small.save(path, optimize=True)
        assert path.stat().st_size < PICTURE_BYTES_MAX, path


FOCUS = """
() => {
  const one = document.activeElement, style = getComputedStyle(one);
  return [one === document.body, parseFloat(style.outlineWidth) > 0 && style.outlineStyle !== "none"];
}
"""


async def tab_to(page, wanted, *, steps_max=40):
    """Press Tab until the element has the focus, which must be visible at each step."""
    for _ in range(steps_max):
        await page.keyboard.press("Tab")
        outside, visible = await page.evaluate(FOCUS)
        assert outside or visible, await page.evaluate("() => document.activeElement.outerHTML")
        if await wanted.evaluate("(one) => one === document.activeElement"):
            return
    await expect(wanted).to_be_focused()
