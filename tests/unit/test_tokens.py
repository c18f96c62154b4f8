import base64
import json
import time
from uuid import uuid4

import jwt
import pytest

from flashsale.domain.errors import Unauthenticated
from flashsale.domain.users import Principal, Role
from flashsale.http.auth import Tokens
from flashsale.settings import AuthSettings

KEY = "k" * 40
BUYER = Principal(user_id=uuid4(), role=Role.BUYER)


def tokens(**changes):
    return Tokens(AuthSettings(jwt_secret=KEY, **changes))


def claims(**changes):
    now = int(time.time())
    base = {
        "sub": str(BUYER.user_id), "role": "buyer", "use": "login", "iss": "flashsale", "aud": "flashsale-api",
        "iat": now, "exp": now + 60,
    }  # fmt: skip
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def unsigned(header, payload):
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, payload)]
    return ".".join(parts) + "."


def test_a_token_says_who_it_was_made_for():
    made = tokens()
    token = made.issue(BUYER)
    assert made.verify(token) == BUYER
    assert made.verify(token) == BUYER, "remembered"
    assert tokens().verify(token) == BUYER, "in another process"


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(unsigned({"alg": "none", "typ": "JWT"}, claims()), id="alg none"),
        pytest.param(jwt.encode(claims(), "x" * 40, algorithm="HS256"), id="another key"),
        pytest.param(jwt.encode(claims(), KEY * 2, algorithm="HS512"), id="another algorithm"),
        pytest.param(jwt.encode(claims(exp=int(time.time()) - 1), KEY, algorithm="HS256"), id="expired"),
        pytest.param(jwt.encode(claims(aud="other"), KEY, algorithm="HS256"), id="foreign audience"),
        pytest.param(jwt.encode(claims(iss="other"), KEY, algorithm="HS256"), id="foreign issuer"),
        pytest.param(jwt.encode(claims(use="stream"), KEY, algorithm="HS256"), id="stream token"),
        pytest.param(jwt.encode(claims(role="root"), KEY, algorithm="HS256"), id="unknown role"),
        pytest.param(jwt.encode(claims(sub="me"), KEY, algorithm="HS256"), id="sub no uuid"),
        *(
            pytest.param(jwt.encode(claims(**{name: None}), KEY, algorithm="HS256"), id=f"no {name}")
            for name in ("exp", "iat", "iss", "aud", "sub", "use")
        ),
        pytest.param("", id="empty"),
        pytest.param("a.b.c", id="no token"),
    ],
)
def test_a_token_that_does_not_hold_is_refused(token):
    with pytest.raises(Unauthenticated):
        tokens().verify(token)


def test_a_remembered_token_expires():
    made = tokens(jwt_ttl_s=1)
    token = made.issue(BUYER)
    made.verify(token)
    made._verified[token] = (BUYER, time.time() - 1)
    later = jwt.decode(token, options={"verify_signature": False})["exp"]
    assert later
    assert made.verify(token) == BUYER
    expired = jwt.encode(claims(exp=int(time.time()) - 1), KEY, algorithm="HS256")
    made._verified[expired] = (BUYER, time.time() - 1)
    with pytest.raises(Unauthenticated):
        made.verify(expired)


def test_the_memory_of_tokens_is_bounded():
    made = tokens(verified_tokens_max=3)
    for _ in range(10):
        made.verify(made.issue(Principal(user_id=uuid4(), role=Role.BUYER)))
    assert len(made._verified) == 3


def test_a_stream_token_opens_one_order_and_nothing_else():
    made, order_id = tokens(), uuid4()
    token, _ = made.issue_stream(BUYER, order_id)
    assert made.read_stream(token, order_id) == (BUYER, False)
    with pytest.raises(Unauthenticated):
        made.read_stream(token, uuid4())
    with pytest.raises(Unauthenticated):
        made.verify(token)
    with pytest.raises(Unauthenticated):
        made.read_stream(made.issue(BUYER), order_id)


@pytest.mark.parametrize("header", [None, b"", b"Basic x", b"Bearer", b"Bearer " + b"x" * 5000])
def test_a_request_without_a_bearer_token_is_anonymous(header):
    headers = [] if header is None else [(b"authorization", header)]
    with pytest.raises(Unauthenticated):
        tokens().principal({"headers": headers})
