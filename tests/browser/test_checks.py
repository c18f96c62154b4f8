"""The judgement of a page finds each kind of fault; without this, pages without faults would prove nothing."""

import pytest

POLICY = "default-src 'none'; style-src 'self'; img-src data:"
HEAD = {"content-type": "text/html; charset=utf-8", "content-security-policy": POLICY}
SOUND = (
    '<!doctype html><html lang="en"><title>A page</title><link rel="icon" href="data:,"><main><h1>A page</h1>%s</main>'
)
FAULTS = {
    "an inline script": ("<script>1</script>", "Content-Security-Policy: script-src-elem"),
    "an inline style": ('<p style="color: red">x</p>', "Content-Security-Policy: style-src-attr"),
    "an image without a text": ('<img src="data:,">', "image-alt"),
    "a field without a label": ("<input>", "label"),
    "a button without a name": ("<button></button>", "button-name"),
    "a weak colour": ('<link rel="stylesheet" href="/weak.css"><p class="weak">A weak text</p>', "color-contrast"),
    "a weak colour in the dark": ('<link rel="stylesheet" href="/weak.css"><p class="night">A weak text</p>', "dark: color-contrast"),
    "a wide box": ('<link rel="stylesheet" href="/weak.css"><p class="wide">x</p>', "pixels wide in a window of"),
    "a file that is missing": ('<link rel="stylesheet" href="/gone.css">', "404"),
    "many bytes": (f"<p>{'word ' * 12_500}</p>", "are too many"),
}  # fmt: skip
SHEET = """
.weak { color: #999; background: #fff } .wide { width: 4000px }
@media (prefers-color-scheme: dark) { .night { color: #333; background: #000 } }
"""


@pytest.fixture
async def shown(visit):
    """Show a page with this content."""

    async def show(content):
        one = await visit()

        async def answer(route):
            path = route.request.url.partition(".example")[2]
            if path == "/":
                await route.fulfill(headers=HEAD, body=SOUND % content)
            elif path == "/weak.css":
                await route.fulfill(content_type="text/css", body=SHEET)
            else:
                await route.fulfill(status=404, body="")

        await one.page.route("http://shop.example/**", answer)
        await one.page.goto("http://shop.example/")
        return one

    return show


async def test_a_sound_page_is_found_to_be_sound(shown):
    one = await shown("<p>All is well.</p>")
    await one.check("a sound page")
    one.rows.pop()


@pytest.mark.parametrize("name", FAULTS)
async def test_each_kind_of_fault_is_found(shown, name):
    content, said = FAULTS[name]
    one = await shown(content)
    with pytest.raises(AssertionError) as found:
        await one.check(name)
    assert said in str(found.value)
    one.rows.pop()


async def test_a_shift_is_found(shown):
    one = await shown('<p id="late"></p><p>Below it.</p>')
    # No input of a person: chromium does not count shifts in the half second after one.
    await one.page.evaluate("() => { late.textContent = 'late'; late.style.height = '300px' }")
    await one.page.wait_for_function("() => window.__seen.shifts.length > 0")
    with pytest.raises(AssertionError, match="layout shift"):
        await one.check("a shift")
    one.rows.pop()


async def test_an_exception_is_found(shown):
    one = await shown("")
    await one.page.evaluate("() => setTimeout(() => { throw new Error('seen') })")
    await one.page.wait_for_timeout(50)
    with pytest.raises(AssertionError, match=r"exception: .*seen"):
        await one.check("an exception")
    one.rows.pop()
