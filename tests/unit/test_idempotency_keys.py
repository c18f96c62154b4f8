"""The header Idempotency-Key: strings of RFC 9651, generated, and the same keys without quotes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashsale.domain.errors import InvalidInput
from flashsale.http.keys import sent_key

PRINTABLE = [chr(code) for code in range(0x20, 0x7F)]
KEYS = st.text(st.sampled_from(PRINTABLE), min_size=1, max_size=255)
BARE = st.text(st.sampled_from(PRINTABLE[1:]), min_size=1, max_size=255).filter(lambda key: not key.startswith('"'))
VALUES = st.one_of(
    st.integers(-(10**15) + 1, 10**15 - 1).map(str),
    st.decimals(-999_999_999_999, 999_999_999_999, places=3).map("{:.3f}".format),
    st.sampled_from(["?0", "?1", ":aGVsbG8=:", "::", "a/b:c", "*x", "@1659578233", '%"f%c3%bc"', r'"a\"b\\"', '""']),
)
NAMES = st.from_regex(r"\A[a-z*][a-z0-9_.*-]{0,8}\Z")
PARAMETERS = st.lists(st.tuples(NAMES, VALUES | st.none()), max_size=3)


def quoted(key):
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse(text):
    """RFC 9651, section 4.2.5, step by step; None if parsing fails or something follows."""
    if text[0] != '"':
        return None
    out, rest = "", iter(text[1:])
    for char in rest:
        if char == "\\":
            following = next(rest, None)
            if following not in {'"', "\\"}:
                return None
            out += following
        elif char == '"':
            return out if next(rest, None) is None else None
        elif not "\x20" <= char <= "\x7e":
            return None
        else:
            out += char
    return None


@settings(max_examples=200, deadline=None)
@given(KEYS, PARAMETERS)
def test_a_string_is_the_key_that_it_quotes_whatever_its_parameters(key, parameters):
    text = quoted(key) + "".join(f"; {name}" + (f"={value}" if value else "") for name, value in parameters)
    assert sent_key([text.encode()]) == key


@settings(max_examples=100, deadline=None)
@given(BARE)
def test_a_bare_key_is_the_same_key_as_in_quotes(key):
    assert sent_key([key.encode()]) == sent_key([quoted(key).encode()]) == key


@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from('"\\ a;=\x00\x7fé'), max_size=12))
def test_what_begins_like_a_string_is_one_or_is_refused(rest):
    text = '"' + rest
    wanted = parse(text)
    if wanted:
        assert sent_key([text.encode("latin-1")]) == wanted
    elif ";" not in text:
        with pytest.raises(InvalidInput):
            sent_key([text.encode("latin-1")])


@pytest.mark.parametrize(
    "text",
    ['"', '"a', '"a\\', '"a\\b"', '"a"b', '"a" ', '"a";', '"a";A=1', '"a";a=', '"a";a="', '"a";a=1.2345', '"a";1=1',
     '"a", "b"', '"a";a=:b', '"a";a=?2', '""', '"' + "x" * 256 + '"', "", " ", "x" * 256, "a\tb", "é", '"é"', "a\x7f"],
)  # fmt: skip
def test_bad_syntax_is_refused(text):
    with pytest.raises(InvalidInput):
        sent_key([text.encode("latin-1")])


def test_every_single_character_is_taken_or_refused_as_the_grammar_says():
    for code in range(256):
        text = b'"' + bytes([code]) + b'"'
        if 0x20 <= code < 0x7F and code not in b'"\\':
            assert sent_key([text]) == chr(code)
        else:
            with pytest.raises(InvalidInput):
                sent_key([text])


def test_two_headers_are_refused():
    with pytest.raises(InvalidInput):
        sent_key([b'"a"', b'"a"'])
