"""The fast reading of a token accepts exactly what PyJWT and the checks of the claims accept, and reads the same."""

import base64
import hashlib
import hmac
import json
import time
from uuid import uuid4

import jwt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flashsale.domain.errors import Unauthenticated
from flashsale.domain.users import GENERATION_MAX, Principal, Role
from flashsale.http.auth import Tokens, _principal
from flashsale.http.token_keys import Key, Keys
from flashsale.settings.edge import AuthSettings

KEY, SECOND, FOREIGN = (f"{name} for tests: 0123456789 abcdefgh" for name in ("first", "second", "foreign"))
SETTINGS = AuthSettings(jwt_secret=KEY, jwt_second_secret=SECOND)
BUYER = Principal(user_id=uuid4(), role=Role.BUYER, generation=3)
SUBJECT = str(BUYER.user_id)
NOW = int(time.time())
CLAIMS = {
    "sub": SUBJECT, "role": "buyer", "gen": 3, "use": "login", "iss": "flashsale", "aud": "flashsale-api",
    "iat": NOW, "exp": NOW + 3600,
}  # fmt: skip


def b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def header(key: str, **changes: object) -> bytes:
    whole = {"alg": "HS256", "kid": Key(key).kid, "typ": "JWT", **changes}
    return json.dumps(
        {name: value for name, value in whole.items() if value != "left out"}, separators=(",", ":")
    ).encode()


def signed(head: bytes, body: bytes, key: str) -> bytes:
    """Sign two segments as they are, whatever they hold."""
    return b".".join([head, body, b64(hmac.digest(key.encode(), head + b"." + body, hashlib.sha256))])


def authority(token: bytes) -> Principal | None:
    """What PyJWT and the checks of the claims say."""
    try:
        return _principal(Keys(SETTINGS).claims(token.decode("latin-1"), use="login"))
    except Unauthenticated:
        return None


def fast(token: bytes) -> Principal | None:
    read = Keys(SETTINGS).login(token, now_s=time.time())
    return None if read is None else Principal(user_id=read.sub, role=read.role, generation=read.gen)


def whole(token: bytes) -> Principal | None:
    try:
        return Tokens(SETTINGS).verify(token)
    except Unauthenticated:
        return None


def agree(token: bytes) -> Principal | None:
    """Check that all three say the same, the fast one at most."""
    said = authority(token)
    quick = fast(token)
    assert quick is None or quick == said, token
    assert whole(token) == said, token
    return said


numbers = st.one_of(
    st.integers(),
    st.integers(NOW - 2, NOW + 4000).filter(lambda exp: abs(exp - time.time()) > 1),
    st.floats(),
    st.integers(min_value=2**63).map(lambda number: number * 10**300),
    st.just(-1),
)
odd = st.one_of(
    st.none(), st.booleans(), numbers, numbers.map(str), st.text(max_size=12), st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), st.sampled_from(list(CLAIMS.values())),
    st.sampled_from([[CLAIMS["aud"]], [CLAIMS["aud"], "other"], SUBJECT.upper(), SUBJECT.replace("-", ""),
                     f"{{{SUBJECT}}}", f"urn:uuid:{SUBJECT}", "admin", "Buyer", "stream", "flashsale\x00",
                     GENERATION_MAX, GENERATION_MAX + 1, 3.0, "3", True]),
)  # fmt: skip
"""Values that a claim could hold, many of them of a wrong type."""
names = st.one_of(st.sampled_from([*CLAIMS, "nbf", "jti", "crit", "kid"]), st.text(max_size=4))
keys = st.sampled_from([KEY, SECOND, FOREIGN])


@st.composite
def bodies(draw):
    """JSON of the claims with some members changed, left out, added or said twice, in any order and spacing."""
    members = [*CLAIMS.items()]
    for name in draw(st.lists(names, max_size=2)):
        members = [member for member in members if member[0] != name]
        members += [(name, value) for value in draw(st.lists(odd, max_size=2))]
    if draw(st.booleans()):
        members = draw(st.permutations(members))
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), (",\n", ":\t")]))
    ascii_only = draw(st.booleans())
    text = comma.join(json.dumps(name, ensure_ascii=ascii_only) + colon + json.dumps(value, ensure_ascii=ascii_only) for name, value in members)  # fmt: skip
    return ("{" + text + "}").encode("utf-8", "surrogatepass")


@settings(max_examples=600, deadline=None)
@given(body=bodies(), key=keys)
@example(body=json.dumps(CLAIMS).encode(), key=KEY)
@example(body=json.dumps(CLAIMS).encode(), key=SECOND)
@example(body=b'{"exp":1e400,' + json.dumps(CLAIMS).encode()[1:], key=KEY)
@example(body=json.dumps({**CLAIMS, "exp": 10**400}).encode(), key=KEY)
@example(body=json.dumps({**CLAIMS, "exp": float("inf")}).encode(), key=KEY)
@example(body=json.dumps({**CLAIMS, "exp": "9" * 4400}).encode(), key=KEY)
def test_whatever_the_claims_say_both_readings_agree(body, key):
    agree(signed(b64(header(key)), b64(body), key))


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "zip"]),
        st.one_of(
            odd, st.sampled_from(["left out", "none", "None", "HS512", "RS256", "jwt", "at+jwt", Key(SECOND).kid])
        ),
        max_size=2,
    ),
    key=keys,
    named=keys,
)
@example(changes={"kid": "left out"}, key=KEY, named=KEY)
@example(changes={"kid": "left out"}, key=SECOND, named=KEY)
def test_whatever_the_header_says_both_readings_agree(changes, key, named):
    agree(signed(b64(header(named, **changes)), b64(json.dumps(CLAIMS).encode()), key))


ISSUED = Tokens(SETTINGS).issue(BUYER).encode()


@pytest.mark.parametrize("flip", [1, 2, 32, 128])
def test_whichever_byte_is_changed_both_readings_refuse(flip):
    for place in range(len(ISSUED)):
        changed = bytes([*ISSUED[:place], ISSUED[place] ^ flip, *ISSUED[place + 1 :]])
        assert agree(changed) is None, (place, changed)


PADDINGS = [b"", b"=", b"==", b"===", b"\n", b" ", b".", b"A", b"%3D"]


@pytest.mark.parametrize("key", [KEY, FOREIGN])
def test_however_segments_are_padded_both_readings_agree(key):
    tried = set()
    for blank in range(3):  # so that the body ends with 0, 1 and 2 bytes over
        head, body = b64(header(key)), b64(json.dumps(CLAIMS).encode() + b" " * blank)
        for before in PADDINGS:
            for within in PADDINGS:
                token = signed(head + before, body + within, key)
                tried |= {agree(token + after) for after in PADDINGS}
        # Other bits behind the last byte: the same bytes, spelled otherwise.
        tried |= {
            agree(signed(head, body[:-1] + bytes([last]), key)) for last in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
        }
    assert tried == ({BUYER, None} if key is KEY else {None})


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.builds(lambda *parts: b".".join(parts), *[st.binary(max_size=60)] * 3)))
def test_bytes_that_are_no_token_are_refused_by_both(token):
    assert agree(token) is None


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("generation", [0, 3, GENERATION_MAX])
def test_every_token_of_the_issuer_is_read_without_pyjwt(monkeypatch, role, generation):
    made = Tokens(SETTINGS)
    wanted = Principal(user_id=uuid4(), role=role, generation=generation)
    token = made.issue(wanted).encode()
    assert authority(token) == wanted
    monkeypatch.setattr(jwt, "decode", None)
    monkeypatch.setattr(jwt, "get_unverified_header", None)
    assert made.verify(token) == wanted
    other_way_round = AuthSettings(jwt_secret=SECOND, jwt_second_secret=KEY)
    assert Tokens(other_way_round).verify(token) == wanted, "signed with the second key"


def test_a_token_names_its_key_and_an_unknown_key_opens_nothing():
    assert jwt.get_unverified_header(ISSUED)["kid"] == Key(KEY).kid
    assert KEY.encode() not in base64.urlsafe_b64decode(Key(KEY).kid + "==")
    assert len({Key(key).kid for key in (KEY, SECOND, FOREIGN)}) == 3
    with pytest.raises(Unauthenticated):
        Tokens(AuthSettings(jwt_secret=SECOND)).verify(ISSUED)
    wrongly_named = signed(b64(header(SECOND)), b64(json.dumps(CLAIMS).encode()), KEY)
    assert agree(wrongly_named) is None


def test_an_exp_beyond_every_clock_is_remembered_like_any_other():
    made = Tokens(SETTINGS)
    token = signed(b64(header(KEY)), b64(json.dumps({**CLAIMS, "exp": 10**400}).encode()), KEY)
    assert made.verify(token) == made.verify(token) == BUYER
