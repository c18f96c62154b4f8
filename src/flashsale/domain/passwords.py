"""Passwords: one form for each, and which new ones are taken. NIST SP 800-63B-4, section 3.1.1.2, asks for both."""

from __future__ import annotations

import hashlib
import unicodedata
from functools import cache

from flashsale.domain.errors import InvalidInput

PASSWORD_MIN, PASSWORD_MAX = 8, 128

NAME_MIN = 3
"""Shortest local part of an address that a password must not hold: a shorter one is in many by chance."""


def normalised(password: str) -> str:
    """Return the form that is hashed: a keyboard decides whether an accent is a separate sign (NFD) or not (NFC)."""
    return password if password.isascii() else unicodedata.normalize("NFKC", password)


def check_password(password: str, *, email: str) -> None:
    """Check a new password.

    Raises:
        InvalidInput: unless it has a sane length and characters that can be seen, and is not among the first that
            anybody would try: the common ones, and those with the name in the e-mail address.
    """
    form = normalised(password)
    if not len(form) >= PASSWORD_MIN or not len(password) <= PASSWORD_MAX or "\x00" in password:
        raise InvalidInput(field="password", problem=f"must have {PASSWORD_MIN} to {PASSWORD_MAX} characters")
    if not form.strip():
        raise InvalidInput(field="password", problem="must not be spaces only")
    folded = form.casefold()
    if folded.strip() in common_passwords():
        raise InvalidInput(field="password", problem="is one of the most common passwords; choose another")
    name = normalised(email).casefold().rpartition("@")[0]
    for part in {name, name.partition("+")[0]}:
        if len(part) >= NAME_MIN and part in folded:
            raise InvalidInput(field="password", problem="must not hold the name in your e-mail address")


@cache
def common_passwords() -> frozenset[str]:
    """Return the common passwords that are long enough to be tried here, in lower case."""
    # 40 ms and 15 MiB: only where somebody registers.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # type: ignore[import-untyped]

    return frozenset(one for one in FREQUENCY_LISTS["passwords"] if len(one) >= PASSWORD_MIN)


def digest_of(code: str) -> bytes:
    """Return what the database keeps of a code for a new password.

    The code has 256 random bits, so it needs neither salt nor a slow hash.
    """
    return hashlib.sha256(code.encode()).digest()
