"""Ask a stack of its own for longer, as everybody, and print the table: `nox -s schema`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from flashsale.local.stack import Stack
from tests.contract.run import ask, seed_products, table
from tests.support.api import FAST, admin_headers, buyer_headers

PHASES = "examples,coverage,fuzzing,stateful"


async def main() -> int:
    """Return 1 if an answer was not documented."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=40, help="requests for each operation and step")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack", port=0, environment=FAST)
        await stack.start()
        try:
            admin = admin_headers(stack)
            callers = {"admin": admin, "buyer": buyer_headers(stack, 1)[0], "nobody": {}}
            reports = {}
            for who, headers in callers.items():
                seed_products(stack.base_url, admin)
                reports[who] = await asyncio.to_thread(
                    ask,
                    f"{stack.base_url}/schema/openapi.json",
                    headers,
                    Path(folder) / who,
                    examples=options.examples,
                    phases=PHASES,
                    seed=options.seed,
                )
                print(f"{who}: {'FAILED' if reports[who].failed else 'ok'}", flush=True)  # noqa: T201
                if reports[who].failed:
                    print(reports[who].text)  # noqa: T201
            print(table(reports))  # noqa: T201
        finally:
            await stack.stop()
    return int(any(report.failed for report in reports.values()))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
