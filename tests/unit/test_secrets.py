"""A key of the tokens that can be guessed is refused at start, in one line that names the variable."""

import secrets
import string
from urllib.parse import quote

import pytest

from flashsale.settings import FILE, PREFIX, SECRETS, read_settings, secret_names, variable

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


VALUES = {
    "postgres.url": "postgresql://u@127.0.0.1:9/x",
    "postgres.owner_url": "postgresql://owner@127.0.0.1:9/x",
    "cell.accounts_url": "postgresql://owner:password@127.0.0.1:9/x",
    "postgres.direct_url": "postgresql://u@127.0.0.1:8/x",
    "redis.url": "redis://127.0.0.1:9/0",
    "mail.url": "smtp://127.0.0.1:9",
    "stripe.secret_key": "sk_test_0123456789abcdef",
    "stripe.webhook_secret": "whsec_0123456789abcdef",
    "stripe.webhook_second_secret": "whsec_abcdef0123456789",
}
"""Values of secrets that are no plain text."""


@pytest.mark.parametrize("process", SECRETS)
def test_every_secret_of_every_process_may_be_in_a_file(monkeypatch, tmp_path, process):
    for name in SECRETS[process]:
        file = tmp_path / name
        file.write_text(VALUES.get(name, GOOD.replace("only", name)) + "\n")
        monkeypatch.setenv(variable(name) + FILE, str(file))
    settings = read_settings(process)
    for name in SECRETS[process]:
        group, _, field = name.partition(".")
        value = getattr(getattr(settings, group), field).get_secret_value()
        expected = VALUES.get(name, GOOD.replace("only", name))
        password = f"{group}.{'owner_' * ('owner' in field)}password"
        if field.endswith("url") and password in SECRETS[process]:
            scheme, _, rest = expected.partition("://")
            user, _, server = rest.rpartition("@")
            expected = f"{scheme}://{user}:{quote(GOOD.replace('only', password), safe='')}@{server}"
        assert value == expected, name


@pytest.mark.parametrize("name", sorted(secret_names()))
def test_a_file_of_a_secret_that_is_not_there_is_one_line(environment, tmp_path, name):
    environment.setenv(variable(name) + FILE, str(tmp_path / "none"))
    with pytest.raises(SystemExit) as refused:
        read_settings("api")
    line, _ = str(refused.value).splitlines()
    assert line == f"{variable(name)}{FILE}: {tmp_path / 'none'}: No such file or directory"


WRONG = {
    ("HTTP__TRUSTED_PROXIES", "10.0.0.0/8"): "expected a list in JSON",
    ("HTTP__TRUSTED_PROXIES", '["10.0.0.0/8"'): "expected a list in JSON",
    ("HTTP__TRUSTED_PROXIES", ""): "expected a list in JSON",
    ("HTTP__TRUSTED_PROXIES", '["::1", "10.0.0.1/8"]'): "10.0.0.1/8 has host bits set",
    ("HTTP__CORS_ORIGINS", "https://shop.example"): "expected a list in JSON",
    ("HTTP__PROCESSES", "two"): "Input should be a valid integer",
    ("POSTGRES__POOL_MIN", "9"): "pool_min 9 is more than pool_max 6",
    ("CELL__NUMBER", "3"): "number 3 is none of 1 cells",
    ("HTTP", "8000"): "is a group; set FLASHSALE_HTTP__<NAME> instead",
    ("HTTP", "on"): "is a group",
    ("GATE", "[]"): "is a group",
}


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_one_line_that_names_its_variable_and_no_other(environment, name, value):
    environment.setenv(f"{PREFIX}{name}", value)
    with pytest.raises(SystemExit) as refused:
        read_settings("api")
    line, _ = str(refused.value).splitlines()
    assert line.startswith(f"{PREFIX}{name}: ")
    assert WRONG[name, value] in line
