"""Schemathesis finds no answer that the OpenAPI document does not describe for any role, with valid and invalid data.

`--log-cli-level=INFO` shows what was asked and answered; `nox -s schema` asks longer.
"""

import json
import logging

import httpx
import pytest

from tests.contract.run import ask, seed_products, table

log = logging.getLogger(__name__)

PHASES = {
    # Data for which every other caller is refused.
    "admin": "examples,coverage,fuzzing,stateful",
    "buyer": "examples,fuzzing,stateful",
    "nobody": "fuzzing,stateful",
}


@pytest.mark.parametrize("who", PHASES)
def test_schemathesis_finds_nothing_that_is_not_documented(stack, admin, buyer, tmp_path, who):
    seed_products(stack.base_url, admin)
    headers = {"admin": admin, "buyer": buyer, "nobody": {}}[who]
    report = ask(f"{stack.base_url}/schema/openapi.json", headers, tmp_path, examples=3, phases=PHASES[who], seed=1)
    log.info("\n%s", table({who: report}))
    assert not report.failed, report.text
    statuses = {status for _, _, _, status in report.answers}
    assert (
        statuses
        >= {"admin": {200, 201, 204, 400, 401, 404, 405, 415}, "buyer": {200, 403, 404}, "nobody": {200, 401}}[who]
    )
    assert {phase for _, phase, _, _ in report.answers} >= set(PHASES[who].split(","))
    assert {mode for _, _, mode, _ in report.answers} >= {"positive", "negative"}


@pytest.mark.parametrize("lie", ["status", "field"])
def test_a_document_that_is_wrong_in_one_place_is_found_out(stack, admin, tmp_path, lie):
    """A control: what the run above would say."""
    document = httpx.get(f"{stack.base_url}/schema/openapi.json", timeout=30).json()
    document["paths"] = {"/health/live": document["paths"]["/health/live"]}
    answers = document["paths"]["/health/live"]["get"]["responses"]
    alive = document["components"]["schemas"]["AliveOut"]
    if lie == "status":
        answers["299"] = answers.pop("200")
    else:
        alive["properties"] = {"alive": alive["properties"].pop("live")}
        alive["required"] = []
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document))
    report = ask(str(path), admin, tmp_path, examples=1, phases="fuzzing", seed=1, base_url=stack.base_url)
    assert report.failed
    assert "GET /health/live" in report.text
