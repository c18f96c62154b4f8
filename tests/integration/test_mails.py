"""E-mails to buyers: a real mail server gets them, and a server that is away delays e-mails only."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
from contextlib import asynccontextmanager

import pytest

from flashsale.adapters.mail.sender import SmtpSender
from flashsale.adapters.mail.texts import HERE, mail_of, texts
from flashsale.adapters.postgres.outbox import PostgresOutbox
from flashsale.domain.messages import MAILED, Event, Message
from flashsale.domain.orders import OrderStatus
from flashsale.domain.payments import ChargeOutcome
from flashsale.local.mailbox import Mailbox, run_mailbox
from flashsale.settings.outbox import MailSettings
from tests.conftest import add_buyers, add_product
from tests.integration.test_outbox import delivering, orders_that_end, subscribe, until_told
from tests.support.accepting import accept_one
from tests.support.charging import Gateway, charging
from tests.support.receiver import receiving

SENDER = "shop@flashsale.example"


@pytest.fixture
def outbox(services):
    return PostgresOutbox(services.database)


@asynccontextmanager
async def mailbox(folder, sock=None):
    """The local stack's mail server; gives its URL."""
    if sock is None:
        sock = socket.create_server(("127.0.0.1", 0))
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(run_mailbox(folder, sock=sock, ready=ready.set, stop=stop))
    await ready.wait()
    try:
        yield f"smtp://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        stop.set()
        await running


def mails_in(folder):
    return [
        email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        for path in sorted(folder.glob("*.eml"))
    ]


def smtp(url):
    return SmtpSender(url, sender=SENDER, timeout_s=5)


async def test_each_buyer_is_told_what_became_of_the_order(services, outbox, db, tmp_path):
    async with mailbox(tmp_path) as url, delivering(outbox, mails=smtp(url)) as deliver:
        await deliver()
        product = await add_product(services, name="Phone <b> & Söhne\nBcc: x@example.com")
        users = await add_buyers(services, 2)
        confirmed, declined = [await accept_one(services, product, user) for user in users]
        await services.order_rows.process(sorted([confirmed, declined]), payment_due_s=30)
        charge = charging(services, Gateway(ChargeOutcome.CAPTURED, ChargeOutcome.DECLINED))
        await charge(confirmed)
        await charge(declined)
        _, (cancelled, expired) = await orders_that_end(services, 2)
        await services.order_rows.end([cancelled], OrderStatus.CANCELLED)
        await db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", expired)
        await services.order_rows.end([expired], OrderStatus.EXPIRED)
        await until_told(deliver, db)
    found = {mail["Subject"]: mail for mail in mails_in(tmp_path)}
    name = "Phone <b> & Söhne Bcc: x@example.com"
    assert set(found) == {
        f"Your order of {name} is confirmed", f"The payment of your order of {name} failed", "Your order of Phone has expired",
    }  # fmt: skip
    mail = found[f"Your order of {name} is confirmed"]
    address = await db.fetchval(
        "SELECT u.email FROM users u JOIN orders o USING (user_id) WHERE order_id = $1", confirmed
    )
    assert (mail["X-Envelope-To"], mail["To"], mail["From"], mail["Bcc"]) == (address, address, SENDER, None)
    text, page = [part.get_content() for part in mail.iter_parts()]
    assert f"1 x {name}, in all 999.99 USD." in text
    assert str(confirmed) in text
    assert "Phone &lt;b&gt; &amp; Söhne" in page
    assert "<b>" not in page


async def test_a_mail_server_that_is_away_delays_e_mails_only(services, outbox, db, tmp_path):
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"smtp://127.0.0.1:{sock.getsockname()[1]}"
    port = sock.getsockname()[1]
    sock.close()
    async with receiving() as receiver, delivering(outbox, mails=smtp(url)) as deliver:
        await deliver()
        await subscribe(outbox, receiver, Event.ORDER_EXPIRED)
        _, (order_id,) = await orders_that_end(services)
        await db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", order_id)
        await services.order_rows.end([order_id], OrderStatus.EXPIRED)
        await deliver()
        await receiver.arrived(1)
        await deliver.idle()
        row = await db.fetchrow("SELECT * FROM outbox WHERE target_id = 'mail'")
        assert (row["outcome"], row["attempts"] > 0) == (None, True)
        assert row["problem"].startswith("The mail server cannot be reached")
        async with mailbox(tmp_path, socket.create_server(("127.0.0.1", port))):
            await until_told(deliver, db)
    [mail] = mails_in(tmp_path)
    assert mail["Message-ID"] == f"<{row['message_id']}@flashsale.example>"


@pytest.mark.parametrize(
    "address",
    [
        "a@example.com, b@example.com",
        "a@example.com\r\nBcc: b@example.com",
        "a@example.com\nX: y",
        "a b@example.com",
        "@",
        "a",
    ],
)
async def test_an_address_that_is_not_one_gets_nothing(services, outbox, db, tmp_path, address):
    async with mailbox(tmp_path) as url, delivering(outbox, mails=smtp(url)) as deliver:
        await deliver()
        _, (order_id,) = await orders_that_end(services)
        await db.execute("UPDATE users SET email = rpad($1, 3)", address)
        await db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", order_id)
        await services.order_rows.end([order_id], OrderStatus.EXPIRED)
        await until_told(deliver, db)
    assert mails_in(tmp_path) == []
    assert await db.fetchval("SELECT outcome FROM outbox") == "dead"


async def test_a_worker_without_a_mail_server_makes_no_e_mails_and_loses_none(services, outbox, db, tmp_path):
    _, (never, first, second) = await orders_that_end(services, 3)
    await db.execute("UPDATE orders SET due_at = clock_timestamp()")
    async with delivering(outbox) as without:
        await without()
        await services.order_rows.end([never], OrderStatus.EXPIRED)
        async with mailbox(tmp_path) as url, delivering(outbox, mails=smtp(url)) as with_mails:
            await with_mails()
            await services.order_rows.end([first], OrderStatus.EXPIRED)
            async with receiving() as receiver, delivering(outbox) as another:
                await subscribe(outbox, receiver, Event.ORDER_EXPIRED)
                await services.order_rows.end([second], OrderStatus.EXPIRED)
                for deliver in (without, another):
                    await deliver()
                await receiver.arrived(1)
                await another.idle()
            waiting = await db.fetch(
                "SELECT order_id, attempts FROM outbox WHERE target_id = 'mail' ORDER BY created_at"
            )
            assert [tuple(row) for row in waiting] == [(first, 0), (second, 0)]
            await until_told(with_mails, db)
    assert len(mails_in(tmp_path)) == 2


async def test_an_operator_ends_the_e_mails(services, outbox, db, tmp_path):
    async with mailbox(tmp_path) as url, delivering(outbox, mails=smtp(url)) as with_mails:
        await with_mails()
    _, (first, second) = await orders_that_end(services, 2)
    await db.execute("UPDATE orders SET due_at = clock_timestamp()")
    await services.order_rows.end([first], OrderStatus.EXPIRED)
    assert await db.fetchval("SELECT count(*) FROM outbox") == 1
    assert await outbox.remove_endpoint("mail")
    assert not await outbox.remove_endpoint("mail")
    await services.order_rows.end([second], OrderStatus.EXPIRED)
    assert await db.fetchval("SELECT count(*) FROM outbox") == 0


async def test_the_mailbox_keeps_the_newest(tmp_path):
    handler = Mailbox(tmp_path, kept=3)

    class Envelope:
        rcpt_tos = ("a@example.com",)
        content = b"Subject: x\r\n\r\n"

    for _ in range(5):
        await handler.handle_DATA(None, None, Envelope)
    assert len(list(tmp_path.iterdir())) == 3


def a_message(event, **facts):
    from datetime import UTC, datetime
    from uuid import uuid4

    known = {
        "order_id": str(uuid4()), "product_name": "Phone", "quantity": 2, "unit_price_minor": 1050, "currency": "JPY",
    }  # fmt: skip
    return Message(
        message_id=uuid4(),
        event=event,
        order_id=uuid4(),
        facts={**known, **facts},
        created_at=datetime.now(UTC),
        attempts=1,
    )


PART, UNUSED = {"back_minor": 30, "refund_minor": 30}, {"back_minor": 30, "refund_minor": 30, "unused": True}
TOLD = {**{event: (event, {}) for event in MAILED},
        "order.refunded.part": (Event.ORDER_REFUNDED, PART), "order.refunded.unused": (Event.ORDER_REFUNDED, UNUSED)}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_each_language_has_a_text_for_each_event(name):
    for file in (HERE / "messages").glob("*.toml"):
        assert set(texts(file.stem)) == {"footer", "account.password_reset", *TOLD}
    event, facts = TOLD[name]
    mail = mail_of(a_message(event, **facts), sender=SENDER, address="ada@bücher.example")
    assert mail["Subject"] == texts("en")[name]["subject"].replace("$product", "Phone")
    assert ("30 JPY" in mail.get_body(("plain",)).get_content()) == bool(facts)
    assert mail["To"] == "ada@xn--bcher-kva.example"
    text = mail.get_body(("plain",)).get_content()
    assert "2 x Phone, in all 2100 JPY." in text
    assert "$" not in text + mail.get_body(("html",)).get_content() + mail["Subject"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://mail.example", "scheme"), ("smtp://", "host"), ("mail.example", "URL"), ("smtp://user@mail.example", "password"),
        ("smtp://a:b@mail.example/path", "host"), ("smtp://mail.example:0", "port"),
    ],
)  # fmt: skip
def test_a_wrong_mail_url_is_refused(url, problem):
    with pytest.raises(ValueError, match=problem):
        MailSettings(url=url)


@pytest.mark.parametrize("sender", ["", "shop", "a@b, c@d", "Shop <shop@example.com>", "a@b\r\nBcc: c@d"])
def test_a_wrong_sender_is_refused(sender):
    with pytest.raises(ValueError, match="sender"):
        MailSettings(sender=sender)
