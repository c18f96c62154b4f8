"""Idempotency keys of API v1 and rate limits: what is decided before a call is looked at.

https://docs.stripe.com/api/idempotent_requests and https://docs.stripe.com/error-low-level: once the endpoint has
begun, a key keeps the first answer with its status, a 500 too; parameters are compared; rate limiters come before keys.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from flashsale.simulator.stripe.errors import StripeError, rate_limited

if TYPE_CHECKING:
    from flashsale.simulator.faults import Behaviour
    from flashsale.simulator.stripe.store import Kept, Store

KEY_CHARS_MAX = 255


class Keys:
    """Which keys are in use, and which have an answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._in_use: set[str] = set()

    def find(self, key: str, *, path: str, fingerprint: str) -> Kept | None:
        """Return the answer that a key keeps; None takes the key into use until `release`.

        Raises:
            StripeError: 400 for another endpoint or other parameters, 409 if the key is in use.
        """
        if len(key) > KEY_CHARS_MAX:
            raise StripeError(400, f"Idempotency keys can be at most {KEY_CHARS_MAX} characters long.")
        kept = self._store.kept(key)
        if kept is not None and kept.path != path:
            raise _mismatch(f"for the same endpoint they were first used for ('{kept.path}' vs '{path}')", key)
        if kept is not None and kept.fingerprint != fingerprint:
            raise _mismatch("with the same parameters they were first used with", key)
        if kept is not None:
            return kept
        if key in self._in_use:
            raise StripeError(
                409,
                "There is currently another in-progress request using this Idempotent Key (that probably means you "
                f"submitted twice, and the other request is still going through): {key}. Please try again later.",
                type_="idempotency_error",
                code="idempotency_key_in_use",
                headers={"Stripe-Should-Retry": "true"},
            )
        self._in_use.add(key)
        return None

    def release(self, key: str) -> None:
        """End the use of a key."""
        self._in_use.discard(key)


def _mismatch(how: str, key: str) -> StripeError:
    return StripeError(
        400,
        f"Keys for idempotent requests can only be used {how}. Try using a key other than '{key}' if you meant to "
        "execute a different request.",
        type_="idempotency_error",
    )


class Limits:
    """Calls in the present second, by operation and in all: https://docs.stripe.com/rate-limits."""

    def __init__(self) -> None:
        self._second = 0
        self._calls: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        """Calls by operation since the start."""
        self.refused = 0

    def take(self, operation: str, behaviour: Behaviour) -> None:
        """Count a call.

        Raises:
            StripeError: 429 if there were too many in this second.
        """
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._calls.clear()
        for name, limit, reason in (
            (operation, behaviour.rate_limit_per_s, "endpoint-rate"),
            ("", behaviour.account_limit_per_s, "global-rate"),
        ):
            if limit and self._calls[name] >= limit:
                self.refused += 1
                raise rate_limited(reason)
        self._calls[operation] += 1
        self._calls[""] += 1
        self.taken[operation] += 1
