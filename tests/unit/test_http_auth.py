import time
from uuid import uuid4

import jwt
import pytest

from flashsale.domain.errors import Unauthenticated
from flashsale.domain.users import Principal, Role
from flashsale.http.auth import Tokens
from flashsale.settings.edge import AuthSettings

KEY = "only-for-tests: 0123456789 abcdefgh"
BUYER = Principal(user_id=uuid4(), role=Role.BUYER)


def signed(*, iat, exp):
    claims = {"sub": str(BUYER.user_id), "role": "buyer", "use": "login", "iss": "flashsale", "aud": "flashsale-api"}
    return jwt.encode({**claims, "iat": iat, "exp": exp}, KEY, algorithm="HS256").encode()


def test_a_token_from_a_machine_whose_clock_is_ahead_holds():
    ahead = int(time.time()) + 5
    assert Tokens(AuthSettings(jwt_secret=KEY)).verify(signed(iat=ahead, exp=ahead + 60)) == BUYER


def test_the_clocks_tolerance_does_not_lengthen_a_tokens_life():
    now = int(time.time())
    with pytest.raises(Unauthenticated):
        Tokens(AuthSettings(jwt_secret=KEY)).verify(signed(iat=now - 60, exp=now - 1))
