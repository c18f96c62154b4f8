"""New passwords are not the first that anybody would try, and one password is one in every form."""

import unicodedata

import pytest

from flashsale.domain.errors import InvalidInput
from flashsale.domain.passwords import check_password, common_passwords, normalised

ADA = "ada.lovelace+phone@example.com"


def refused(password, email=ADA):
    try:
        check_password(password, email=email)
    except InvalidInput as error:
        return error.field, error.detail
    return None


def test_every_common_password_is_refused_in_every_case():
    assert len(common_passwords()) > 10_000
    for password in common_passwords():
        for form in (password, password.upper(), password.title()):
            field, detail = refused(form)
            assert (field, "common" in detail) == ("password", True), form


@pytest.mark.parametrize(
    "password", ["password", "Password1", "iloveyou", "qwertyuiop", "ｐａｓｓｗｏｒｄ", " password "]
)
def test_common_passwords_that_people_think_of_are_refused(password):
    assert "common" in refused(password)[1]


@pytest.mark.parametrize(
    "password", ["ada.lovelace1815", "ADA.LOVELACE!", "my-ada.lovelace-pw", "ada.lovelace+phone", "ａda.lovelace99"]
)
def test_a_password_with_the_name_of_the_address_is_refused(password):
    assert "name in your e-mail" in refused(password)[1]
    assert refused(password, email="bob@example.com") is None


def test_a_name_that_is_in_many_words_by_chance_is_no_reason():
    assert refused("correct horse", email="or@example.com") is None


@pytest.mark.parametrize("password", ["", "short 7", "x" * 129, "        ", "nul\x00 nul nul", "e\u0301" * 4])
def test_a_length_that_is_none_is_refused(password):
    assert refused(password) is not None


@pytest.mark.parametrize("password", ["correct horse", "x" * 8 + "yz" * 60, "pässwörtér", "密码密码密码密码", "🐎" * 8])
def test_other_passwords_are_taken_and_their_forms_are_one(password):
    assert refused(password) is None
    assert len({normalised(unicodedata.normalize(form, password)) for form in ("NFC", "NFD", "NFKC", "NFKD")}) == 1
