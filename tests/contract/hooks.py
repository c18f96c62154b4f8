"""What schemathesis loads: what it may not know, one more check, and a record of every answer."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData

from tests.support.reference import Reference, Undocumented

RULES = re.compile(
    "requestId differs from the header Idempotency-Key"
    "|endsAt must be after startsAt"
    "|createdTo must be after createdFrom"
    "|until must not be before since"
    "|since must be within 366 days before until"
    # Of what is left of the money, not of the amount that is sent.
    "|restock needs a refund of all that is left"
    "|timeZone must be a time zone"
    "|must be in the years 1970 to 9998"
    # Of the allotment that there is, not of the number that is sent.
    "|change must leave at most"
    # JSON Schema counts 1.0 among the integers. Here an integer is written as one.
    r"|Expected `int( \| null)?`, got `float`"
    # Counted after Unicode normalisation.
    "|assword must have 8 to 128 characters"
    "|oldPassword is wrong"
    "|price must be more than 0 and at most"
    # Each currency has its own number.
    "|price must have at most"
    "|must be in the years 1970 to 9998"
)
"""Rules that a schema cannot say. The document says them in words; data that breaks one is refused all the same."""


references = {}


def reference(schema):
    """Return the judge of a document; one process reads one document."""
    if not references:
        references["it"] = Reference(schema.raw_schema)
    return references["it"]


@schemathesis.check
def named_in_every_detail(ctx, response, case):
    """Hold the answer to the document: no other header, field or problem code than those that it names."""
    content = {name: values[0] for name, values in response.headers.items()}
    path = urlsplit(response.request.url).path
    try:
        reference(case.operation.schema).check(
            response.request.method, path, response.status_code, content, response.content
        )
    except Undocumented as difference:
        raise AssertionError(str(difference)) from None


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Leave out what is no failure."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = response.json()
    return problem["code"] not in {"idempotency_key_reused", "stale"} and RULES.search(problem["detail"]) is None


@schemathesis.hook
def before_call(context, case, kwargs):
    """Send no token for one who has none: schemathesis would register and log in."""
    if "NOBODY" in os.environ:
        case.headers.pop("Authorization", None)
        kwargs.get("headers", {}).pop("Authorization", None)


@schemathesis.hook
def after_call(context, case, response):
    """Note each answer for the table."""
    phase = case.meta.phase.name.value if case.meta else "probe"
    mode = case.meta.generation.mode.value if case.meta else "-"
    with Path(os.environ["ANSWERS"]).open("a", encoding="ascii") as record:
        record.write(f"{case.operation.label}\t{phase}\t{mode}\t{response.status_code}\n")
