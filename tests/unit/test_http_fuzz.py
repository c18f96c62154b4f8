"""Generated requests against RFC 9112: a short run of `nox -s fuzz`, and that the oracle itself can tell."""

import pytest
import uvloop
from rich.console import Console

from tests.fuzz.__main__ import fuzz
from tests.fuzz.oracle import judge
from tests.fuzz.target import NGINX

SEEDS = (1, 2)
CASES = 350


def run(seed, *, cases, behind):
    tally, grown_mb = uvloop.run(fuzz(seed=seed, seconds=120, cases=cases, say=Console(quiet=True), behind=behind))
    assert not tally.differences, {what: found[:2] for what, found in tally.differences.items()}
    assert tally.cases == cases
    assert min(tally.accepted, sum(tally.refused.values())) > cases / 5, "some of both are tried"
    return tally, grown_mb


@pytest.mark.parametrize("seed", SEEDS)
def test_each_allowed_request_has_one_answer_and_any_other_is_refused(seed):
    _, grown_mb = run(seed, cases=CASES, behind=False)
    assert grown_mb < 8


@pytest.mark.skipif(NGINX is None, reason="needs nginx (apt-get install nginx)")
def test_behind_nginx_each_answer_belongs_to_its_request():
    tally, _ = run(3, cases=100, behind=True)
    assert tally.behind == 200
    assert tally.behind_answers[200] > 50


GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "served", "end"),
    [
        (GET * 2, 2, "open"),
        (GET + b"GET /b HTTP/1.0\r\n\r\n" + GET, 2, "closed"),
        (GET + b"GET /b HTTP/1.1\r\n\r\n" + GET, 1, "refused"),
        (GET + b"GET /b HTTP/1.1\nHost: x\r\n\r\n" + GET, 1, "refused"),
        (GET[:-2], 0, "unfinished"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 29\r\n\r\n" + GET, 1, "open"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1c\r\n" + GET + b"\r\n0\r\n\r\n", 1, "open"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n", 0, "refused"),
    ],
)
def test_the_oracle_tells_requests_apart(sent, served, end):
    sent = sent.replace(b"Content-Length: 29", b"Content-Length: %d" % len(GET)).replace(
        b"1c\r\n", b"%x\r\n" % len(GET)
    )
    verdict = judge(sent, head_max=2048, body_max=4096)
    assert (len(verdict.served), verdict.end) == (served, end)
