"""E-mail addresses: which are taken, when two are the same, and whose tags are one buyer's."""

from __future__ import annotations

import re
import unicodedata

import idna

from flashsale.domain.errors import InvalidInput

EMAIL_MAX = 254
"""Characters of an address: RFC 5321, section 4.5.3.1.3, without the angle brackets."""
LOCAL_BYTES_MAX = 64
DOMAIN_CHARS_MAX = 253

_LOCAL = re.compile(r"[\w!#$%&'*+/=?^`{|}~\u0300-\U000e0fff-]+(?:\.[\w!#$%&'*+/=?^`{|}~\u0300-\U000e0fff-]+)*")
"""RFC 5322's dot-atom, with letters, digits and marks of any script (RFC 6531)."""

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
"""What shows nothing and is neither a control nor a format character: Unicode's Default_Ignorable_Code_Point, and the
empty Braille pattern."""


def check_email(email: str) -> str:
    """Return the form of an address under which it is one account.

    Raises:
        InvalidInput: if it is no address, or holds characters that nobody sees.
    """
    key = email_key(email)
    if key is None:
        raise InvalidInput(field="email", problem="must be an address such as ada@example.com")
    return key


def email_key(email: str) -> str | None:
    """Return the form under which an address is one account, or None if it is no address.

    Compatibility forms are one (NFKC), and so are cases, in the part before the @ too: no provider in wide use tells
    them apart. A domain is the same in ASCII (IDNA 2008, UTS 46) and in its own script, which the form has.
    """
    if len(email) > EMAIL_MAX or _hidden(email):
        return None
    composed = unicodedata.normalize("NFKC", email)
    local, at, domain = composed.rpartition("@")
    # Folding can bring about what is composed differently: Unicode 3.13, toNFKC_Casefold.
    local = unicodedata.normalize("NFKC", local.casefold())
    if not at or _hidden(composed) or _LOCAL.fullmatch(local) is None or not _visible(local):
        return None
    if len(local.encode()) > LOCAL_BYTES_MAX:
        return None
    host = _domain(domain)
    return None if host is None or len(local) + len(host) >= EMAIL_MAX else f"{local}@{host}"


def _domain(domain: str) -> str | None:
    try:
        ascii_form = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        shown = idna.decode(ascii_form)
    except (idna.IDNAError, UnicodeError):
        return None
    labels = ascii_form.split(".")
    if len(ascii_form) > DOMAIN_CHARS_MAX or len(labels) < 2 or not labels[-1] or labels[-1].isdigit():  # noqa: PLR2004
        return None
    return shown


def _hidden(text: str) -> bool:
    """Whether something in it shows nothing: controls, format and bidi characters, separators, unassigned ones."""
    if text.isascii():
        return not text.isprintable() or " " in text
    return _INVISIBLE.search(text) is not None or any(unicodedata.category(one)[0] in "CZ" for one in text)


def _visible(local: str) -> bool:
    """Whether marks stand on something, and other signs than ASCII's are letters, digits or marks."""
    if local.isascii():
        return True
    categories = [unicodedata.category(one)[0] for one in local]
    signs = zip(local, categories, strict=True)
    return categories[0] != "M" and all(one.isascii() or category in "LMN" for one, category in signs)
