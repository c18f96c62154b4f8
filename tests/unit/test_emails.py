"""An address is one account in whatever form it is typed, and holds nothing that nobody sees."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.domain.emails import check_email, email_key
from flashsale.domain.errors import InvalidInput

ONE = {
    "ada@example.com": [
        "Ada@Example.COM",
        "ａda@example.com",
        "ada＠example.com",
        "ada@ｅxample.com",
        "𝐚da@example.com",
    ],
    "é@example.com": ["e\u0301@example.com", "É@example.com", "E\u0301@EXAMPLE.com"],
    "ada@müller.example": ["ada@xn--mller-kva.example", "ada@MÜLLER.example", "ada@mu\u0308ller.example"],
    "strasse@example.com": ["straße@example.com", "STRASSE@example.com", "STRAẞE@example.com"],
    "σ@example.com": ["ς@example.com", "Σ@example.com"],
}
"""Forms of one address."""


@pytest.mark.parametrize("key", ONE)
def test_forms_of_one_address_are_one(key):
    assert {email_key(form) for form in [key, *ONE[key]]} == {key}


def test_names_that_are_registered_apart_are_apart():
    keys = [email_key(f"ada@{domain}.example") for domain in ("straße", "strasse", "müller", "muller", "xn--strae-oqa")]
    assert len(set(keys)) == 4
    assert keys[0] == keys[4]


@given(st.emails())
def test_a_common_address_is_taken_and_its_key_is_its_own_key(email):
    local, _, domain = email.rpartition("@")
    key = email_key(email)
    if key is None:
        # Of what the RFCs allow, only what nobody is given: quoted names, dotless and all-numeric domains.
        assert (
            len(local) > 64
            or "." not in domain
            or domain.rpartition(".")[2].isdigit()
            or "xn--" in email.lower()
            or "--" in domain
        )
    else:
        assert email_key(key) == key
        assert email_key(email.upper()) == key


HIDDEN = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"}
]


def test_no_character_that_shows_nothing_is_taken_anywhere():
    # Each of some thousands, and every one of those that have a use; those that have none are alike.
    tried = HIDDEN[:2000] + [one for one in HIDDEN if unicodedata.category(one) in {"Cf", "Zs", "Zl", "Zp"}]
    tried += [
        "\u034f",
        "\u115f",
        "\u1160",
        "\u17b4",
        "\u17b5",
        "\u180b",
        "\u2800",
        "\u3164",
        "\ufe0f",
        "\uffa0",
        "\U000e0100",
    ]
    for one in tried:
        for email in (
            f"a{one}da@example.com",
            f"{one}ada@example.com",
            f"ada{one}@example.com",
            f"ada@exa{one}mple.com",
            f"ada@example.com{one}",
        ):
            assert email_key(email) is None, ascii(email)


@pytest.mark.parametrize(
    "email",
    ["", "@", "a@", "@b.com", "a@b", "a b@c.com", "a..b@c.com", ".a@c.com", "a.@c.com", "a@b..com", "a@.com", "a@b.com.",
     "a@-b.com", "a@b-.com", "a@b_c.com", "a@b.1", "a@1.2.3.4", "a@[1.2.3.4]", '"a"@b.com', "a@b@c.com", "\u0301a@b.com",
     "a" * 65 + "@b.com", "é" * 33 + "@b.com", "a@" + "b" * 64 + ".com", "a@" + "b." * 126 + "com", "a@b.com\n", "a\x00@b.com",
     "\u202ea@b.com", "a@xn--a.com", "a@b.com" + "x" * 250],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_field(email):
    with pytest.raises(InvalidInput) as refused:
        check_email(email)
    assert refused.value.field == "email"
