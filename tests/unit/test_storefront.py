"""The storefront's texts and templates: every language has every text, and no text is anywhere else."""

import json
import re
import string
import tomllib
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib import import_module
from types import SimpleNamespace

import pytest

from flashsale.domain.errors import TooManyLogins
from flashsale.domain.products import LiveStock, PaymentMode
from flashsale.http.messages import Request
from flashsale.pages.assets import Assets, policy
from flashsale.pages.storefront.order_pages import STATES, WITH_STRIPE
from flashsale.pages.storefront.product_pages import KEPT_MAX, ProductPages, _terms
from flashsale.pages.storefront.routes import ASSETS
from flashsale.pages.storefront.shop import TEMPLATES, next_path, told
from flashsale.pages.storefront.texts import LANGUAGES, texts_of
from flashsale.usecases.catalog import Catalog

FOLDER = TEMPLATES.parent
SOURCES = {path.name: path.read_text() for path in FOLDER.rglob("*") if path.suffix in {".py", ".html", ".js"}}
MAILS = FOLDER.parents[1] / "adapters/mail/messages"
BEGUN = ("state.", "told.", "products.", "error.", "error.invalid.", "js.refused.", "js.")
"""Beginnings of keys whose ends are states, fields and codes."""
SHOWN = ("alt", "aria-label", "content", "placeholder", "title", "value")


def test_every_language_has_the_same_texts_with_the_same_values():
    english = LANGUAGES["en"]
    assert set(LANGUAGES) == {"en", "de"}
    for texts in LANGUAGES.values():
        assert list(texts) == list(english)
        for key, text in texts.items():
            values = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
            assert values == {name for _, name, _, _ in string.Formatter().parse(english[key]) if name is not None}, key
            assert text.strip() == text != ""


UNKNOWN = {
    "payment_failed": ("declined", "abgelehnt"),
    "refund_pending": ("on its way", "auf dem Weg", "sent back"),
}
"""What a state does not say: a payment without an answer is cancelled at last, and a refund may be asked for only."""


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("state", UNKNOWN)
def test_no_text_of_a_state_claims_what_the_state_does_not_say(language, state):
    texts = LANGUAGES[language]
    for claim in UNKNOWN[state]:
        assert claim not in texts[f"state.{state}"] + texts[f"told.{state}"]


@pytest.mark.parametrize("state", ["payment_failed", "expired"])
def test_no_e_mail_says_that_nothing_was_charged_while_money_may_still_come(state):
    (said, *_) = tomllib.loads((MAILS / "en.toml").read_text())[f"order.{state}"]["paragraphs"]
    assert "declined" not in said
    assert "not charged" not in said
    assert said.endswith("Money that comes too late is sent back.")


def ends():
    """Return the ends of keys that the code puts together."""
    from flashsale.domain import errors
    from flashsale.domain.orders import OrderStatus
    from flashsale.pages.storefront.product_pages import CLOSED

    todo, codes = [errors.FlashSaleError], {"other"}
    while todo:
        todo += (one := todo.pop()).__subclasses__()
        codes.add(one.code)
    return (
        codes
        | {one.value for one in OrderStatus}
        | set(CLOSED.values())
        | {"open", "sold_out", "pay"}
        | set(STATES.values())
        | {"email", "password", "name", "unreachable"}
    )


def test_every_text_is_used_and_every_text_that_is_used_exists():
    everything = "".join(SOURCES.values())
    named = set(re.findall(r"[\"'`]((?:[a-z_]+\.)+[a-z_]+)[\"'`]", everything))
    made = {begun + end for begun in BEGUN for end in ends()}
    keys = set(LANGUAGES["en"])
    assert keys - named - made == set()
    begun = {key.split(".")[0] for key in keys}
    files = {name for name in named if name.endswith((".html", ".js", ".css"))}
    assert {name for name in named - files if name.split(".")[0] in begun} - keys == set()


OF_STAFF = {
    "allotment_below_claimed", "buyer_not_found", "open_orders", "outcome_unknown", "other_schema", "product_archived",
    "product_open", "sale_open", "stale", "not_ready", "refund_too_large", "refund_not_found", "refund_ended",
    "refund_begun", "payment_differs", "recorded_otherwise", "reference_used", "paid_elsewhere", "provider_not_found",
    "webhook_refused",
}  # fmt: skip
"""Codes that no page of a buyer meets."""
BASES = {"error", "not_found", "not_on_sale", "bad_credentials", "unsupported_media_type", "gateway_misuse"}
"""Codes of no refusal, of one that has a text of its own, and of a form that no page has."""


def test_each_refusal_that_a_buyer_may_meet_has_a_text_of_its_own():
    """Without one the page would say that something went wrong, and that the buyer may try again."""
    from flashsale.domain import errors, payment_errors  # noqa: F401 - has subclasses

    todo, found = [errors.FlashSaleError], set()
    while todo:
        todo += (one := todo.pop()).__subclasses__()
        if one.code not in BASES | OF_STAFF | {"invalid_input"}:
            found.add(f"{'js.refused' if issubclass(one, errors.Refused) else 'error'}.{one.code}")
    assert found - set(LANGUAGES["en"]) == set()


class Visible(HTMLParser):
    """Collects what a visitor reads or hears."""

    def __init__(self):
        super().__init__()
        self.found, self.style = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in SHOWN and tag != "meta"]
        self.style += [name for name, _ in attrs if name == "style" or name.startswith("on")]
        self.style += [tag] if tag == "style" or (tag == "script" and not dict(attrs).keys() & {"src", "type"}) else []

    def handle_data(self, data):
        self.found.append(data)


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if name.endswith(".html")))
def test_no_template_has_a_text_style_or_script_of_its_own(name):
    parser = Visible()
    parser.feed(re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", "", SOURCES[name], flags=re.DOTALL))
    assert [text for text in parser.found if re.search("[A-Za-z]{2}", text or "")] == []
    assert parser.style == []


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if name.endswith(".js")))
def test_no_script_has_a_text_of_its_own_or_makes_code_of_text(name):
    code = re.sub(r"^\s*//.*$|\s//.*$|/\*.*?\*/", "", SOURCES[name], flags=re.MULTILINE)
    texts = re.findall(r'"([^"\n]*)"|`([^`]*)`', code)
    said = [text for pair in texts for text in pair if re.search(r"[A-Za-z]{2,} [A-Za-z]{2,} ?[A-Za-z]*", text)]
    assert said == []
    assert not re.search(r"\beval\(|new Function|setTimeout\(\"|\.style\b|insertAdjacentHTML|document\.write", code)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"), ("de", "de"), ("DE-ch", "de"), ("fr, de;q=0.5, en;q=0.4", "de"), ("en, de;q=0.9", "en"),
        ("de;q=0, en;q=0.1", "en"), ("*", "en"), ("de;q=x", "en"), ("x" * 9000, "en"), ("\xe9, de", "de"),
    ],
)  # fmt: skip
def test_the_browsers_languages_choose_the_language(header, language):
    request = Request(method="GET", path="/", query=b"", headers=[(b"accept-language", header.encode("latin-1"))])
    texts = texts_of(request)
    assert (texts.language, texts.url("/orders")) == (language, "/orders")


@pytest.mark.parametrize(("query", "language"), [(b"lang=de", "de"), (b"a=1&lang=en", "en"), (b"lang=../x", None)])
def test_a_visitor_may_choose_the_language_and_links_keep_it(query, language):
    texts = texts_of(Request(method="GET", path="/", query=query, headers=[]))
    assert texts.url("/orders") == ("/orders" if language is None else f"/orders?lang={language}")
    assert texts.url("/sign-in?next=/p/7") == "/sign-in?next=/p/7" + ("" if language is None else f"&lang={language}")


def test_a_text_shows_values_as_text():
    texts = texts_of(Request(method="GET", path="/", query=b"", headers=[]))
    assert texts("buy.title", product="<b>&") == "Buy &lt;b&gt;&amp;"


@pytest.mark.parametrize(
    ("window_s", "key"), [(59, "js.window_s"), (60, "js.window_s"), (120, "js.window"), (300, "js.window")]
)
def test_times_to_pay_are_told_without_a_singular(window_s, key):
    product = SimpleNamespace(
        limit_per_buyer=None, payment_mode=PaymentMode.BY_BUYER, payment_window_s=window_s, refundable_by_buyer=False
    )
    assert [one for one, _ in _terms(product)] == [key]
    texts = texts_of(Request(method="GET", path="/", query=b"", headers=[]))
    assert told(texts, TooManyLogins(1)) == "Too many tries. Please wait 2 seconds."


@pytest.mark.parametrize(
    "elsewhere",
    ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "", "orders", "/a\nb", "/\t/evil",
     "\\\\evil.example", " /orders", "/a b", "/\u2028", "/%0d\r\n"],
)  # fmt: skip
def test_a_sign_in_leads_to_no_other_site(elsewhere):
    assert next_path(elsewhere) == "/"


@pytest.mark.parametrize("own", ["/", "/orders", "/p/7?lang=de", "/order/1?x=%2F%2F"])
def test_a_sign_in_leads_to_where_the_visitor_came_from(own):
    assert next_path(own) == own


def test_only_the_page_with_stripes_element_lets_stripe_in():
    assert b"stripe" not in policy()
    for directive in WITH_STRIPE.decode().split("; "):
        name, *sources = directive.split()
        assert ("stripe" in directive) == (name in {"script-src", "frame-src", "connect-src", "img-src"})
        assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "https:"} & set(sources)


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.css").write_text("a{}")
    with pytest.raises(ValueError, match=r"x\.css"):
        Assets([tmp_path / "a", tmp_path / "b"])


def test_another_content_has_another_digest(tmp_path):
    (tmp_path / "x.css").write_text("a{}")
    before = Assets([tmp_path]).digest
    (tmp_path / "x.css").write_text("b{}")
    assert before != Assets([tmp_path]).digest == Assets([tmp_path]).digest


def test_every_script_that_a_script_or_template_names_is_there():
    assets = Assets([ASSETS])
    for source in SOURCES.values():
        for name in re.findall(r"""from "\./([\w.]+)"|asset\('([\w.]+)'\)""", source):
            assert assets.url(name[0] or name[1])


def test_texts_of_scripts_are_json_that_no_page_can_end():
    assert "</" not in json.dumps([text for texts in LANGUAGES.values() for text in texts.values()])


@pytest.fixture
def long_kept(monkeypatch):
    """Lists are kept for longer than a test takes."""
    monkeypatch.setattr(import_module(ProductPages.__module__), "KEPT_S", 3600)


async def lists(ids):
    """Return the pages of the list of products, and the first product of each page that was rendered."""
    rendered = []

    async def products(_):
        shown = {
            "starts_at": None,
            "ends_at": None,
            "archived_at": None,
            "moved_to": None,
            "paused": True,
            "paused_at": None,
        }
        return [(SimpleNamespace(product_id=one, **shown), datetime.now(UTC)) for one in ids]

    async def stocks(_):
        return [LiveStock(product_id=one, free=5, version=1) for one in ids]

    def render(_request, _template, values):
        shown = values["products"]
        rendered.append(shown[0][0].product_id if shown else None)
        return str(rendered[-1])

    catalog = Catalog(SimpleNamespace(all=products, stocks=stocks), poll_s=3600)
    await catalog.refresh()
    shop = SimpleNamespace(services=SimpleNamespace(catalog=catalog), render=render, public=lambda _, body: body)
    return ProductPages(shop), rendered


async def first_of(pages, query=b""):
    return await pages.products(Request(method="GET", path="/", query=query, headers=[]))


async def test_invented_numbers_share_a_page_of_the_list(long_kept):
    pages, rendered = await lists(range(10, 13))
    for number in [*range(13, 200), 9_999_999_999]:
        assert await first_of(pages, b"before=%d" % number) == "12"
    assert await first_of(pages) == "12"
    for number in range(1, 11):
        assert await first_of(pages, b"before=%d" % number) == "None"
    assert await first_of(pages, b"before=12") == "11"
    assert rendered == [12, None, 11]


async def test_of_many_pages_of_the_list_the_newest_are_kept(long_kept):
    newest = 2 * KEPT_MAX
    pages, rendered = await lists(range(1, newest + 1))
    for number in range(2, KEPT_MAX + 2):
        await first_of(pages, b"before=%d" % number)
    await first_of(pages)
    for number in range(3, KEPT_MAX + 2):
        await first_of(pages, b"before=%d" % number)
    await first_of(pages)
    assert rendered == [*range(1, KEPT_MAX + 1), newest]
    await first_of(pages, b"before=2")
    assert rendered[-1] == 1
