"""Generate a Python and a TypeScript client and buy with each, on a stack of its own: `nox -s clients`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from flashsale.local.stack import Stack
from tests.clients import run
from tests.support.api import FAST, admin_headers


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack", port=0, environment=FAST)
        await stack.start()
        try:
            await asyncio.to_thread(buy_with_each, stack.base_url, admin_headers(stack), Path(folder))
        finally:
            await stack.stop()


def buy_with_each(base_url: str, admin: dict[str, str], folder: Path) -> None:
    python, typescript = folder / "python", folder / "typescript"
    python.mkdir()
    run.generate_python(base_url, python)
    run.check_python_types(python)
    run.buy_with_python(base_url, admin, python)
    print("Python: generated, types strict, bought")  # noqa: T201
    run.generate_typescript(base_url, typescript)
    run.buy_with_typescript(base_url, admin, typescript)
    print("TypeScript: generated, types strict, bought")  # noqa: T201


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
