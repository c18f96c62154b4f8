"""One stack and one browser for all tests; a window, a shop and their judgement for each."""

from __future__ import annotations

import shutil

import pytest
from playwright.async_api import async_playwright

from flashsale.local.stack import Stack
from tests.browser.checks import WINDOWS, Row, Visit
from tests.browser.shop import Shop
from tests.support.api import FAST

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROWS: list[Row] = []


def pytest_addoption(parser):
    parser.addoption("--pictures", action="store_true", help="keep what each page looks like in docs/pictures")


def pytest_collection_modifyitems(items):
    if CHROMIUM is None:
        skip = pytest.mark.skip(reason="no chromium on PATH; on Debian: apt-get install chromium")
        for item in items:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter):
    if not ROWS:
        return
    terminalreporter.section("pages in each state: faults (axe in light and dark, policy, console), shift, bytes")
    for row in sorted(ROWS, key=lambda one: (one.state, one.window)):
        terminalreporter.write_line(
            f"{row.state:<44} {row.window:<8} {len(row.faults):>2} faults  shift {row.shift:.4f}  {row.weight:>6,} B"
        )
    faults = sum(len(row.faults) for row in ROWS)
    terminalreporter.write_line(f"{len(ROWS)} states, {faults} faults")


@pytest.fixture(scope="session")
async def stack(tmp_path_factory):
    async with Stack(tmp_path_factory.mktemp("stack"), port=0, environment=FAST) as running:
        yield running


@pytest.fixture(scope="session")
async def chromium():
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
async def shop(stack):
    opened = Shop(stack)
    yield opened
    await opened.close()


@pytest.fixture(params=list(WINDOWS))
def window(request):
    """The name of a window's size; a test that does not ask for it has a desktop's."""
    return request.param


@pytest.fixture
async def visit(chromium, stack, request):
    """Open a window: `await visit()`; its page is judged by `check`."""
    contexts = []
    sized = request.getfixturevalue("window") if "window" in request.fixturenames else "desktop"

    async def begin(*, window=sized, weight_max=60_000, context=None, **more):
        if context is None:
            given = {"base_url": stack.base_url, "locale": "en-GB", **WINDOWS[window], **more}
            context = await chromium.new_context(**given)
            contexts.append(context)
        pictures = request.config.getoption("--pictures")
        return await Visit.begin(context, window=window, rows=ROWS, weight_max=weight_max, pictures=pictures)

    yield begin
    for context in contexts:
        await context.close()
