"""Makes an e-mail of a message: text and HTML, from the files in `messages/`."""

from __future__ import annotations

import html
import tomllib
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime, make_msgid
from functools import cache
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import idna

from flashsale.domain.emails import email_key
from flashsale.domain.messages import Event, refund_of, total_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashsale.domain.messages import Message

HERE = Path(__file__).parent
LANGUAGE = "en"


@cache
def texts(language: str) -> dict[str, Any]:
    """Read the messages of a language."""
    return tomllib.loads((HERE / "messages" / f"{language}.toml").read_text(encoding="utf-8"))


@cache
def _layout() -> Template:
    return Template((HERE / "layout.html").read_text(encoding="utf-8"))


def mail_of(message: Message, *, sender: str, address: str) -> EmailMessage:
    """Return the e-mail to one address.

    Raises:
        ValueError: if the address is not exactly one, or cannot be written.
    """
    facts = message.facts
    values = {
        "product": " ".join(str(facts["product_name"]).split()),
        "quantity": str(facts["quantity"]),
        "total": str(total_of(facts)),
        "currency": facts["currency"],
        "order": facts["order_id"],
        "refund": str(refund_of(facts)),
    }
    mail = _mail(_text_of(message), values, sender=sender, address=address)
    mail["Date"] = format_datetime(message.created_at)
    # The same at each try: mailboxes show one of several.
    mail["Message-ID"] = f"<{message.message_id}@{sender.rpartition('@')[2]}>"
    return mail


def code_mail(code: str, *, ttl_s: int, sender: str, address: str) -> EmailMessage:
    """Return the e-mail with a code for a new password.

    Raises:
        ValueError: if the address is not exactly one, or cannot be written.
    """
    values = {"code": code, "minutes": str(max(1, ttl_s // 60))}
    mail = _mail("account.password_reset", values, sender=sender, address=address)
    mail["Date"] = localtime()
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    return mail


def _mail(name: str, values: Mapping[str, str], *, sender: str, address: str) -> EmailMessage:
    if email_key(address) is None:
        raise ValueError("not one address")
    known = texts(LANGUAGE)
    told = known[name]
    footer = told.get("footer", known["footer"])
    subject = Template(told["subject"]).substitute(values)
    paragraphs = [Template(one).substitute(values) for one in told["paragraphs"]]
    mail = EmailMessage(policy=SMTP)
    mail["From"] = Address(addr_spec=sender)
    mail["To"] = Address(addr_spec=_ascii_domain(address))
    mail["Subject"] = subject
    # No out-of-office answers: RFC 3834.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n\n".join([*paragraphs, "-- \n" + footer]) + "\n")
    page = _layout().substitute(
        language=LANGUAGE,
        subject=html.escape(subject),
        paragraphs="\n".join(f"<p>{html.escape(one)}</p>" for one in paragraphs),
        footer=html.escape(footer),
    )
    mail.add_alternative(page, subtype="html")
    return mail


def _text_of(message: Message) -> str:
    """Return the name of the text: of money that was given back there are three."""
    if message.event is not Event.ORDER_REFUNDED or not message.facts.get("back_minor"):
        return message.event
    return f"{message.event}.unused" if message.facts.get("unused") else f"{message.event}.part"


def _ascii_domain(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return address if domain.isascii() else f"{local}@{idna.encode(domain, uts46=True).decode()}"
