"""Every field of a product that the API takes can be set on the command line."""

import json

import click
import pytest
from click.testing import CliRunner

from flashsale.cli import main
from flashsale.cli.products import change_product, create_product
from flashsale.http.admin_schemas import NewProductIn, ProductChangeIn

CREATED = {
    "name": "Phone from the command line",
    "price": "1200.500",
    "currency": "KWD",
    "stock": 7,
    "payment_mode": "by_buyer",
    "payment_window_s": 77,
    "limit_per_buyer": 3,
    "limit_per": "email_root",
    "cooldown_s": 5,
    "refundable_by_buyer": True,
    "starts_at": "2026-11-27T09:00:00Z",
    "ends_at": "2096-11-27T10:00:00Z",
}
"""A value for each field, none of which is the default."""

CHANGED = {
    "name": "Phone, second batch",
    "price": "1100.000",
    "payment_window_s": 99,
    "limit_per_buyer": 2,
    "limit_per": "account",
    "cooldown_s": 9,
    "starts_at": "2026-11-27T08:00:00Z",
    "ends_at": "2096-11-27T11:00:00Z",
}


def camel(name):
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def option_of(command, name):
    """Return the option, or None for an argument."""
    found = [one for one in command.params if one.name == name]
    assert found, f"{command.name} has no option for {name}"
    return found[0].opts[0] if found[0].param_type_name == "option" else None


def arguments_of(command, values):
    words = []
    for name, value in values.items():
        option = option_of(command, name)
        if option is None:
            words.append(str(value))
        elif value is True or option == "--by-buyer":
            words.append(option)
        else:
            words += [option, str(value)]
    return words


@pytest.fixture
def flashsale(stack, admin):
    """Run a command in this process; returns what it printed."""
    environment = {
        "FLASHSALE_URL": stack.base_url,
        "FLASHSALE_TOKEN": admin["Authorization"].removeprefix("Bearer "),
    }

    def run(*words, code=0):
        done = CliRunner().invoke(main, list(map(str, words)), env=environment, standalone_mode=not code)
        if code:
            assert isinstance(done.exception, click.UsageError)
            return done.exception.format_message()
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    return run


def as_sent(values, shown):
    """Return what a product shows of fields, under the names that they were sent by."""
    named = {name: shown[camel(name)] for name in values if name != "stock"}
    return named | ({"stock": shown["allotment"]} if "stock" in values else {})


def test_every_field_of_the_api_is_set_by_an_option(flashsale):
    """The lists of fields are those of the API; a field that a later release adds needs an option and a value here."""
    assert set(CREATED) == set(NewProductIn.__struct_fields__)
    assert set(CHANGED) == set(ProductChangeIn.__struct_fields__)
    made = flashsale("product", "create", *arguments_of(create_product, CREATED))
    assert as_sent(CREATED, made) == CREATED
    changed = flashsale("product", "change", made["id"], *arguments_of(change_product, CHANGED))
    assert as_sent(CHANGED, changed) == CHANGED
    for name in ("limit_per_buyer", "starts_at", "ends_at"):
        opened = flashsale("product", "change", made["id"], option_of(change_product, name), "none")
        assert opened[camel(name)] is None
        assert opened["name"] == CHANGED["name"]


def test_a_change_without_a_field_or_with_a_word_for_a_number_is_one_clear_line(flashsale):
    assert "give at least one option" in flashsale("product", "change", 1, code=2)
    assert "is no whole number" in flashsale("product", "change", 1, "--limit", "two", code=2)
