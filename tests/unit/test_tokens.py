import base64
import json
import re
import time
from uuid import uuid4

import jwt
import pytest

from flashsale.domain.errors import FlashSaleError, Forbidden, Unauthenticated
from flashsale.domain.users import Principal, Role
from flashsale.http.auth import Tokens
from flashsale.http.messages import Request
from flashsale.http.problems import problem_of
from flashsale.settings.edge import AuthSettings

KEY = "only-for-tests: 0123456789 abcdefgh"
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
    token = made.issue(BUYER).encode()
    assert made.verify(token) == BUYER
    assert made.verify(token) == BUYER, "remembered"
    assert tokens().verify(token) == BUYER, "in another process"


def test_a_session_is_prolonged_until_its_longest_time_and_never_from_a_scripts_token(monkeypatch):
    made, began = tokens(jwt_ttl_s=100), int(time.time())
    clock = began

    def at(seconds):
        nonlocal clock
        clock = began + seconds

    monkeypatch.setattr(time, "time", lambda: clock)
    session, script = made.issue(BUYER), made.issue(BUYER, ttl_s=99)
    assert made.prolong(session.encode(), most_s=250) == (session, began + 100)
    ends = []
    for seconds in (90, 180, 240):
        at(seconds)
        session, ends_at = made.prolong(session.encode(), most_s=250)
        assert made.verify(session.encode()) == BUYER
        ends.append(ends_at - began)
    assert ends == [190, 250, 250]
    at(50)
    assert made.prolong(script.encode(), most_s=250) == (script, began + 99)


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
        tokens().verify(token if isinstance(token, bytes) else token.encode())


def test_a_remembered_token_expires():
    made = tokens(jwt_ttl_s=1)
    token = made.issue(BUYER).encode()
    made.verify(token)
    made._verified[token] = (BUYER, time.time() - 1)
    later = jwt.decode(token, options={"verify_signature": False})["exp"]
    assert later
    assert made.verify(token) == BUYER
    expired = jwt.encode(claims(exp=int(time.time()) - 1), KEY, algorithm="HS256").encode()
    made._verified[expired] = (BUYER, time.time() - 1)
    with pytest.raises(Unauthenticated):
        made.verify(expired)


def test_the_memory_of_tokens_is_bounded():
    made = tokens(verified_tokens_max=3)
    for _ in range(10):
        made.verify(made.issue(Principal(user_id=uuid4(), role=Role.BUYER)).encode())
    assert len(made._verified) == 3


def test_a_stream_token_opens_one_order_and_nothing_else():
    made, order_id = tokens(), uuid4()
    token, _ = made.issue_stream(BUYER, order_id)
    assert made.read_stream(token, order_id) == (BUYER, False)
    with pytest.raises(Unauthenticated):
        made.read_stream(token, uuid4())
    with pytest.raises(Unauthenticated):
        made.verify(token.encode())
    with pytest.raises(Unauthenticated):
        made.read_stream(made.issue(BUYER), order_id)


NOTHING_SENT = 'Bearer realm="flashsale"'


@pytest.mark.parametrize(
    ("sent", "status", "challenge"),
    [
        pytest.param([], 401, NOTHING_SENT, id="nothing"),
        pytest.param([b""], 401, NOTHING_SENT, id="an empty header"),
        pytest.param([b"Basic dTpw"], 401, NOTHING_SENT, id="another scheme"),
        pytest.param([b"Bearerx y"], 401, NOTHING_SENT, id="nearly the scheme"),
        pytest.param([b"Bearer"], 400, "invalid_request", id="no token"),
        pytest.param([b"Bearer   "], 400, "invalid_request", id="blanks"),
        pytest.param([b"Bearer " + b"x" * 5000], 400, "invalid_request", id="far too long"),
        pytest.param([b"Bearer a b"], 400, "invalid_request", id="two words"),
        pytest.param([b"Bearer \xff\xfe.a.b"], 400, "invalid_request", id="no ASCII"),
        pytest.param([b"Bearer a.b.c\xa0"], 400, "invalid_request", id="a blank of another alphabet"),
        pytest.param([b"Bearer a.b.c", b"Bearer a.b.c"], 400, "invalid_request", id="two headers"),
        pytest.param([b"Bearer a.b.c"], 401, "invalid_token", id="no token of ours"),
        pytest.param([b"bearer " + tokens(jwt_issuer="x").issue(BUYER).encode()], 401, "invalid_token", id="foreign"),
    ],
)
def test_what_is_sent_as_credentials_is_answered_as_rfc_6750_says(sent, status, challenge):
    headers = [(b"authorization", value) for value in sent]
    request = Request(method="GET", path="/", query=b"", headers=headers)
    made = tokens()
    for ask in (lambda: made.principal({"headers": headers}), lambda: made.sender(request)):
        with pytest.raises(FlashSaleError) as refused:
            ask()
        answer = problem_of(refused.value)
        said = dict(answer.headers)[b"www-authenticate"].decode()
        assert answer.status == status
        if challenge == NOTHING_SENT:
            assert said == NOTHING_SENT
        else:
            assert re.fullmatch(
                rf'Bearer realm="flashsale", error="{challenge}", error_description="[ !#-\[\]-~]+"', said
            )
    good = [(b"authorization", b"bEARER  " + made.issue(BUYER).encode())]
    assert made.principal({"headers": good}) == BUYER


def test_who_may_not_is_told_that_more_is_needed():
    answer = problem_of(Forbidden("Administrators only."))
    assert answer.status == 403
    assert b'error="insufficient_scope"' in dict(answer.headers)[b"www-authenticate"]
