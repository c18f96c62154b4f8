import json
from datetime import UTC, datetime

import msgspec
import pytest

from flashsale.domain import errors, payment_errors
from flashsale.http.problems import STATUS, problem_of
from flashsale.http.schemas import Problem


def every_error():
    todo = [errors.FlashSaleError]
    while todo:
        one = todo.pop()
        yield one
        todo += [sub for sub in one.__subclasses__() if sub.__module__ in (errors.__name__, payment_errors.__name__)]


def test_codes_tell_errors_apart():
    codes = [one.code for one in every_error()]
    assert len(set(codes)) == len(codes) - 1, "only Refused shares its base's"


@pytest.mark.parametrize("error", [one for one in every_error() if one is not errors.FlashSaleError])
def test_every_domain_error_has_a_status(error):
    assert any(base in STATUS for base in error.__mro__)


def test_a_rate_limit_says_the_policy_and_when_to_come_back():
    rendered = problem_of(errors.RateLimited(policy="buys", limit=20, window_s=1, retry_after_s=3))
    assert rendered.status == 429
    said = {b"retry-after": b"3", b"ratelimit-policy": b'"buys";q=20;w=1', b"ratelimit": b'"buys";r=0;t=3'}
    assert said.items() <= dict(rendered.headers).items()


def test_a_problem_is_a_complete_document():
    rendered = problem_of(errors.InvalidInput(field="quantity", problem="must be 1"))
    assert json.loads(rendered.body) == {
        "type": "/problems/invalid_input", "title": "Bad Request", "status": 400,
        "detail": "quantity must be 1", "code": "invalid_input", "field": "quantity",
    }  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        errors.PriceChanged(price="1.00", currency="USD"),
        errors.SaleNotStarted(datetime(2026, 11, 27, tzinfo=UTC)),
        errors.CoolingDown(datetime(2026, 11, 27, tzinfo=UTC)),
        errors.InvalidInput(field="quantity", problem="must be 1"),
    ],
    ids=lambda error: error.code,
)
def test_each_field_of_a_problem_is_one_that_the_document_names(error):
    named = {field.encode_name for field in msgspec.structs.fields(Problem)}
    assert json.loads(problem_of(error).body).keys() <= named
