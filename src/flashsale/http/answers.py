"""A whole answer, rendered: what a direct route gives, and what a refusal is before it is sent."""

from __future__ import annotations

from dataclasses import dataclass

Headers = list[tuple[bytes, bytes]]

NOSNIFF = (b"x-content-type-options", b"nosniff")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, all headers but the request's id, and body."""

    status: int
    headers: Headers
    body: bytes


def rendered(
    status: int, body: bytes, *headers: tuple[bytes, bytes], media_type: bytes = b"application/json"
) -> Answer:
    """Make an answer of a body and what goes beside its type and length."""
    described = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), NOSNIFF]
    return Answer(status, [*described, *headers], body)
