"""Sends e-mails by SMTP."""

from __future__ import annotations

import ssl
from email.errors import MessageError
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import aiosmtplib

from flashsale.adapters.mail.texts import code_mail, mail_of
from flashsale.domain.messages import Failure

if TYPE_CHECKING:
    from email.message import EmailMessage

    from flashsale.domain.messages import Message

NOT_ONE = Failure(problem="The buyer's address is not one address.", final=True)

PERMANENT = 500
"""From this code on a repetition is no use: RFC 5321, 4.2.1."""


class SmtpSender:
    """Implements `usecases.deliver.MailSender`."""

    def __init__(self, url: str, *, sender: str, timeout_s: float) -> None:
        """Send through the server of a URL; one connection for each e-mail."""
        parts = urlsplit(url)
        self._sender = sender
        self._host = parts.hostname or ""
        self._tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._tls else 587)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._timeout_s = timeout_s

    async def check(self) -> str | None:
        """Connect and log in without sending anything; returns what is wrong."""
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            use_tls=self._tls,
            start_tls=None if self._user is None or self._tls else True,
            tls_context=ssl.create_default_context(),
            timeout=self._timeout_s,
        )
        try:
            async with client:
                await client.noop()
        except aiosmtplib.SMTPResponseException as error:
            return f"The mail server refuses ({error.code})."
        except (aiosmtplib.SMTPException, OSError) as error:
            return f"The mail server cannot be reached ({type(error).__name__})."
        return None

    async def send(self, address: str, message: Message) -> Failure | None:
        """Hand an e-mail to the server. Only its refusal of this e-mail is final: a server that refuses all may be
        set right.
        """
        try:
            mail = mail_of(message, sender=self._sender, address=address)
        except (ValueError, MessageError, LookupError):
            # What the library raises for addresses that it cannot read.
            return NOT_ONE
        return await self._hand_over(mail)

    async def send_code(self, address: str, code: str, *, ttl_s: int) -> Failure | None:
        """Hand an e-mail with a code for a new password to the server; failures are those of `send`."""
        try:
            mail = code_mail(code, ttl_s=ttl_s, sender=self._sender, address=address)
        except (ValueError, MessageError, LookupError):
            return NOT_ONE
        return await self._hand_over(mail)

    async def _hand_over(self, mail: EmailMessage) -> Failure | None:
        try:
            await aiosmtplib.send(
                mail,
                hostname=self._host,
                port=self._port,
                username=self._user,
                password=self._password,
                use_tls=self._tls,
                # None: TLS if the server offers it. A password is never sent without.
                start_tls=None if self._user is None or self._tls else True,
                tls_context=ssl.create_default_context(),
                timeout=self._timeout_s,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [one.code for one in error.recipients]
            final = bool(codes) and min(codes) >= PERMANENT
            return Failure(problem=f"The mail server refused the address ({', '.join(map(str, codes))}).", final=final)
        except aiosmtplib.SMTPResponseException as error:
            return Failure(problem=f"The mail server refused the e-mail ({error.code}).")
        except (aiosmtplib.SMTPException, OSError) as error:
            return Failure(problem=f"The mail server cannot be reached ({type(error).__name__}).")
        return None
