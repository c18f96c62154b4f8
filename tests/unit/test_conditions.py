"""Entity tags: which lists of them are understood, and what holds."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashsale.domain.errors import InvalidInput
from flashsale.http.conditions import is_known, tag_of, wanted_tags

OPAQUE = st.binary(max_size=8).filter(lambda text: all(byte == 0x21 or (byte > 0x22 and byte != 0x7F) for byte in text))
TAGS = st.tuples(st.booleans(), OPAQUE).map(lambda made: (b"W/" if made[0] else b"") + b'"' + made[1] + b'"')
GAPS = st.sampled_from([b",", b", ", b" ,", b" , ,\t"])


@st.composite
def lists(draw):
    """A list of tags with gaps as RFC 9110 lets recipients take them, cut into one or two headers."""
    tags = draw(st.lists(TAGS, min_size=1, max_size=4))
    text = draw(st.sampled_from([b"", b" ,", b","])) + tags[0]
    for tag in tags[1:]:
        text += draw(GAPS) + tag
    cut = draw(st.booleans())
    return tags, [text] if not cut else [text, draw(TAGS)]


@settings(max_examples=200, deadline=None)
@given(lists())
def test_every_tag_of_a_list_is_found(made):
    tags, sent = made
    for tag in tags:
        strong = tag.removeprefix(b"W/")
        assert is_known(strong, sent), "If-None-Match compares weakly"
        assert is_known(b"W/" + strong, sent)
    wanted = wanted_tags(sent)
    assert set(wanted) >= {tag for tag in tags if not tag.startswith(b"W/")}, "If-Match compares strongly"
    assert not [tag for tag in wanted if tag.startswith(b"W/")]
    assert not is_known(b'"not among them"', sent)


def test_a_star_holds_for_anything():
    assert is_known(b'"x"', [b"*"])
    assert wanted_tags([b"*"]) is None
    assert wanted_tags([]) is None


@pytest.mark.parametrize(
    "text", [b"", b",", b"x", b'"x', b'x"', b'w/"x"', b'W/ "x"', b'"a" "b"', b'"a",b', b'*, "a"', b'"a b"', b'"a";x']
)
def test_what_is_no_list_is_ignored_by_a_look_and_refused_by_a_change(text):
    assert not is_known(b'"x"', [text])
    assert not is_known(b'"a"', [text])
    with pytest.raises(InvalidInput):
        wanted_tags([text])


@pytest.mark.parametrize("gap", [b",", b", ", b" ", b"\t,", b',"a"', b', W/"b" ,'])
def test_the_longest_list_that_ends_wrongly_is_read_in_no_time(gap):
    """Anybody may send it, and while it is read the process answers nobody else."""
    sent = b'"a"' + gap * (16_000 // len(gap)) + b"x"
    began_s = time.process_time()
    assert not is_known(b'"z"', [sent])
    assert time.process_time() - began_s < 0.5


def test_a_tag_changes_with_each_byte():
    body = b'{"stock":10,"stockVersion":7}'
    changed = {tag_of(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]) for at in range(len(body))}
    assert len(changed | {tag_of(body)}) == len(body) + 1
