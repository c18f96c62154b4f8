"""A key of the tokens that can be guessed is refused at start, in one line that names the variable."""

import secrets
import string

import pytest

from flashsale.settings import read_settings

SECOND, FIRST = "FLASHSALE_AUTH__JWT_SECOND_SECRET", "FLASHSALE_AUTH__JWT_SECRET"
GOOD = "only-for-tests: 0123456789 abcdefgh"

WEAK = {
    "one letter": "k" * 40,
    "one letter and a tail": "k" * 40 + "1234567",
    "two letters": "ab" * 32,
    "a random choice of two digits": "0110100110010110100101100110100101101001",
    "a word": "password" * 4,
    "a word and a number": "password123" * 4,
    "a row of digits": "0123456789" * 4,
    "a phrase": "top-secret-key-" * 3,
    "the example": "change-me-change-me-change-me-change-me",
    "the example without dashes": "changeme" * 6,
    "the example in between": "0197a3c2-7d10-7c5e-9a44-ChangeMe-3f0b6e1d2c58",
    "the example in other dashes": "please change_me before you start this, 0123456789",
    "blanks": " " * 64,
    "too short": "0123456789abcdef",
}


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("FLASHSALE_POSTGRES__URL", "postgresql://u:p@127.0.0.1:9/x")
    monkeypatch.setenv("FLASHSALE_REDIS__URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv(FIRST, GOOD)
    return monkeypatch


@pytest.mark.parametrize("variable", [FIRST, SECOND])
@pytest.mark.parametrize("secret", WEAK.values(), ids=WEAK)
def test_a_weak_key_is_refused_in_one_line_that_names_it_and_does_not_show_it(environment, variable, secret):
    environment.setenv(variable, secret)
    with pytest.raises(SystemExit) as refused:
        read_settings("api")
    line, *rest = str(refused.value).splitlines()
    assert line.startswith(f"{variable}: ")
    assert secret not in line
    assert len(rest) == 1, "and where the settings are described"


RECIPES = {
    "openssl rand -hex 32": lambda: secrets.token_hex(32),
    "openssl rand -hex 16": lambda: secrets.token_hex(16),
    "openssl rand -base64 24": lambda: secrets.token_urlsafe(24),
    "what `flashsale up` makes": lambda: secrets.token_urlsafe(48),
    "digits": lambda: "".join(secrets.choice(string.digits) for _ in range(32)),
}


@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES)
def test_random_keys_of_every_usual_recipe_are_taken(environment, make):
    for _ in range(50):
        environment.setenv(FIRST, make())
        environment.setenv(SECOND, make())
        read_settings("api")


def test_an_empty_second_key_is_none(environment):
    environment.setenv(SECOND, "")
    assert not read_settings("api").auth.jwt_second_secret.get_secret_value()
