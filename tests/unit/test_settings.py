"""Wrong values of every setting are generated: each is refused in one line that names its variable."""

import json
import typing

import pytest

from flashsale.settings import FILE, Settings, check_settings, secret_names, variable

BASE = {
    "FLASHSALE_POSTGRES__URL": "postgresql://u@127.0.0.1:9/x",
    "FLASHSALE_REDIS__URL": "redis://127.0.0.1:9/0",
    "FLASHSALE_AUTH__JWT_SECRET": "only-for-tests: 0123456789 abcdefgh",
}
FIELDS = {
    f"{group}.{name}": field.annotation
    for group, part in Settings.model_fields.items()
    for name, field in part.annotation.model_fields.items()
}
NUMBERS = sorted(name for name, kind in FIELDS.items() if kind in {int, float})
DURATIONS = sorted(name for name in NUMBERS if name.endswith("_s") and FIELDS[name] is float)
SECRETS = sorted(secret_names())
TEXTS = sorted(name for name, kind in FIELDS.items() if kind in {str, list[str]} and name not in SECRETS)

NO_NUMBERS = [
    "",
    " ",
    "five",
    "'5'",
    '"5"',
    "0x10",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1e18",
    "1e18",
    "99999999999999999999",
]
TEXT = "sk_test_abcdefghijklmnop0123456789QWER"
UNPRINTABLE = {
    "NUL": f"{TEXT}\0\n",
    "byte order mark": f"\ufeff{TEXT}",
    "two newlines": f"{TEXT}\n\n",
    "newline first": f"\n{TEXT}",
    "tab": f"{TEXT}\t",
    "blank that does not break": f"{TEXT}\u00a0",
}
BYTES = {"UTF-16": TEXT.encode("utf-16"), "Latin-1": f"{TEXT}é".encode("latin-1")}


@pytest.fixture
def environment(monkeypatch):
    for name, value in BASE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refusal(process="api"):
    _, lines = check_settings(process)
    assert len(lines) == 1, lines
    assert "\n" not in lines[0]
    return lines[0]


def test_every_kind_of_setting_is_known_here():
    known = {int, float, str, bool, list[str]}
    others = {name: kind for name, kind in FIELDS.items() if kind not in known and name not in SECRETS}
    assert all(typing.get_origin(kind) in {typing.Literal, list} for kind in others.values()), others


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_or_too_large_is_one_line(environment, name):
    for value in NO_NUMBERS:
        environment.setenv(variable(name), value)
        assert refusal().startswith(f"{variable(name)}: "), value


@pytest.mark.parametrize("name", DURATIONS)
def test_a_duration_that_a_server_would_round_to_no_limit_is_one_line(environment, name):
    for value in ("1e-320", "0.0004"):
        environment.setenv(variable(name), value)
        assert refusal().startswith(f"{variable(name)}: "), value


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_with_what_cannot_be_printed_is_one_line(environment, name):
    for text in ("https://a\udcff", "https://a\nb", "https://a\x1b[2J"):
        environment.setenv(variable(name), json.dumps([text]) if FIELDS[name] == list[str] else text)
        assert refusal().startswith(f"{variable(name)}: "), text


LIMITS = ["statement_timeout_s", "lock_timeout_s", "idle_transaction_timeout_s"]


@pytest.mark.parametrize("name", [*(f"postgres.{name}" for name in LIMITS), "audit.timeout_s"])
def test_a_limit_that_postgres_cannot_hold_is_one_line(environment, name):
    environment.setenv(variable(name), "2147484")
    assert refusal().startswith(f"{variable(name)}: ")
    environment.setenv(variable(name), "2147483")
    assert check_settings("api")[1] == []


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("text", UNPRINTABLE.values(), ids=UNPRINTABLE)
def test_a_secret_with_what_cannot_be_printed_is_one_line_that_does_not_show_it(environment, tmp_path, name, text):
    environment.delenv(variable(name), raising=False)
    (tmp_path / "secret").write_text(text, encoding="utf-8")
    environment.setenv(variable(name) + FILE, str(tmp_path / "secret"))
    line = refusal()
    assert line == f"{variable(name)}: holds a line break or another character that cannot be printed; take it away"


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_a_file_that_is_no_text_is_one_line(environment, tmp_path, name, content):
    environment.delenv(variable(name), raising=False)
    (tmp_path / "secret").write_bytes(content)
    environment.setenv(variable(name) + FILE, str(tmp_path / "secret"))
    assert refusal() == f"{variable(name)}{FILE}: {tmp_path / 'secret'}: is no text in UTF-8"


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_file_is_one_line_and_no_empty_secret(environment, tmp_path, name, content):
    environment.delenv(variable(name), raising=False)
    (tmp_path / "secret").write_text(content)
    environment.setenv(variable(name) + FILE, str(tmp_path / "secret"))
    assert refusal() == f"{variable(name)}{FILE}: {tmp_path / 'secret'}: is empty"


@pytest.mark.parametrize("name", SECRETS)
def test_an_empty_variable_does_not_hide_the_file(environment, tmp_path, name):
    (tmp_path / "secret").write_text("\x01")
    environment.setenv(variable(name), "")
    environment.setenv(variable(name) + FILE, str(tmp_path / "secret"))
    assert "cannot be printed" in refusal()
