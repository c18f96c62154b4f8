"""Write down nginx' own problem documents: `python -m tests.nginx_problems` makes `docker/nginx/problems.conf`.

They come from the same place as the API's, so that a client cannot tell who refused it.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

from flashsale.domain import errors
from flashsale.http import problems
from flashsale.http.messages import Answer

FILE = Path(__file__).parents[1] / "docker" / "nginx" / "problems.conf"

RETRY = (b"retry-after", b"1")

ALLOW = (b"allow", b"GET, HEAD, POST, PATCH, OPTIONS")

UNAVAILABLE = problems.problem_of(errors.Unavailable("No answer from the API; send the same request again."))

RATE_LIMITED = problems.problem(
    HTTPStatus.TOO_MANY_REQUESTS, "rate_limited", "Too many requests from this account or address.", [RETRY]
)

ANSWERS: dict[str, tuple[Answer, tuple[int, ...]]] = {
    "no_such_path": (problems.NO_SUCH_PATH, (403, 404)),
    "method_not_allowed": (problems.method_not_allowed(ALLOW[1]), (405,)),
    "body_too_large": (problems.BODY_TOO_LARGE, (413,)),
    "rate_limited": (RATE_LIMITED, (429,)),
    "internal": (problems.INTERNAL, (500,)),
    # A process died or is away: what was sent may have been done, so the client sends it again under the same key.
    "unavailable": (UNAVAILABLE, (502, 503, 504)),
    # Before nginx knows a path: also another transfer coding or version, and what TLS refuses.
    "invalid_request": (problems.MALFORMED, (400, 411, 495, 496, 497, 501, 505)),
    "target_too_long": (problems.TARGET_TOO_LONG, (414,)),
    "head_too_large": (problems.HEAD_TOO_LARGE, (431, 494)),
}
"""By code: the answer, and the statuses of nginx in whose place it stands."""

PATHLESS = {"invalid_request", "target_too_long", "head_too_large"}
"""What nginx says before it has a path: it cannot go to a named location then."""

LENGTHS = {b"content-type", b"content-length"}


def written() -> str:
    """Return the text of `problems.conf`."""
    lines = [
        "# Written by tests/nginx_problems.py: the problem documents of docs/reference/problems.md for what nginx says itself.",
    ]
    for code, (answer, statuses) in ANSWERS.items():
        place = f"/.problems/{code}" if code in PATHLESS else f"@{code}"
        body = answer.body.decode()
        assert "'" not in body
        assert "$" not in body
        headers = [(name.decode(), value.decode()) for name, value in answer.headers if name not in LENGTHS]
        lines += [
            f"error_page {' '.join(map(str, statuses))} ={answer.status} {place};",
            f"location {'= ' if code in PATHLESS else ''}{place} {{",
            *(["    internal;"] if code in PATHLESS else []),
            *(["    include /run/flashsale/count.conf;"] if code == "rate_limited" else []),
            "    default_type application/problem+json;",
            "    add_header X-Request-ID $sane_request_id always;",
            *(f'    add_header {name.title()} "{value}" always;' for name, value in headers),
            f"    return {answer.status} '{body}';",
            "}",
        ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    FILE.write_text(written())
