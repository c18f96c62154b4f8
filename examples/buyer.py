"""Buy one unit and follow the order to its end, with nothing but the standard library.

A buyer that is safe to run again: it keeps one idempotency key for one wish to buy, and repeats a request that got no
definite answer. Example:

    python examples/buyer.py --host http://localhost:8000 --token "$TOKEN" --product 1
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

AGAIN = {429, 502, 503, 504}
"""Answers after which the same request is sent again: nothing is decided yet, or nobody knows."""

FINAL = {"confirmed", "payment_failed", "expired", "cancelled", "failed", "refunded"}


def call(request: urllib.request.Request) -> tuple[int, dict[str, str], float]:
    """Send a request; gives status (0: no answer), body and the seconds to wait before the next try."""
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - the address is the caller's
            return response.status, json.load(response), 0.0
    except urllib.error.HTTPError as error:
        after = error.headers.get("Retry-After", "1")
        body = error.read()
        is_json = "json" in error.headers.get("Content-Type", "")
        return error.code, json.loads(body) if is_json else {}, float(after) if after.isdigit() else 1.0
    except (OSError, ValueError):
        return 0, {}, 1.0


def buy(host: str, token: str, product: int, *, key: str, patience_s: float) -> str:
    """Return the order's id.

    Raises:
        SystemExit: if the shop says no, or says nothing definite for `patience_s` seconds.
    """
    until = time.monotonic() + patience_s
    while True:
        status, body, wait_s = call(
            urllib.request.Request(  # noqa: S310
                f"{host}/api/order/buy-flash",
                data=json.dumps({"productId": product}).encode(),
                headers={
                    "Authorization": f"Bearer {token}",
                    "Idempotency-Key": key,
                    "Flashsale-Product": str(product),
                    "Content-Type": "application/json",
                },
            )
        )
        if status == 202:  # noqa: PLR2004
            return body["orderId"]
        if status and status not in AGAIN:
            sys.exit(f"not bought: {status} {body.get('code', '')}: {body.get('detail', '')}")
        if time.monotonic() > until:
            sys.exit(f"no definite answer in {patience_s:.0f} s; run again with --key {key}")
        # Spread over time, so that ten thousand buyers who were refused together do not come back together.
        time.sleep(wait_s * random.uniform(0.5, 1.5))  # noqa: S311


def follow(host: str, token: str, order_id: str, *, patience_s: float) -> str:
    """Poll until the order is final; returns its last status."""
    until = time.monotonic() + patience_s
    state = "queued"
    while state not in FINAL and time.monotonic() < until:
        time.sleep(1)
        _, body, _ = call(
            urllib.request.Request(  # noqa: S310
                f"{host}/api/order/{order_id}/status", headers={"Authorization": f"Bearer {token}"}
            )
        )
        state = body.get("status", state)
    return state


def main() -> None:
    """Buy, follow, say what became of it."""
    parser = argparse.ArgumentParser(description="Buy one unit of a product.")
    parser.add_argument("--host", required=True, help="address of the shop")
    parser.add_argument("--token", required=True, help="the buyer's login token")
    parser.add_argument("--product", type=int, required=True, help="the product's id")
    parser.add_argument("--key", default=str(uuid.uuid4()), help="idempotency key; one for each wish to buy")
    parser.add_argument("--patience-s", type=float, default=60.0, help="how long to wait for a definite answer")
    given = parser.parse_args()
    order_id = buy(given.host, given.token, given.product, key=given.key, patience_s=given.patience_s)
    print(f"accepted: {order_id}")
    print(follow(given.host, given.token, order_id, patience_s=given.patience_s))


if __name__ == "__main__":
    main()
