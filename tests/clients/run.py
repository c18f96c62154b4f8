"""Generate a client of a running stack's document, check its types, and buy with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import httpx

HERE = Path(__file__).parent
BINARIES = Path(sys.executable).parent
PYTHON_PACKAGE = "flashsale_client"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command; returns what it prints."""
    path = os.pathsep.join([str(BINARIES), os.environ["PATH"]])
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def save_document(base_url: str, folder: Path) -> Path:
    path = folder / "openapi.json"
    path.write_bytes(httpx.get(f"{base_url}/schema/openapi.json", timeout=30).raise_for_status().content)
    return path


def products(base_url: str, admin: dict[str, str]) -> tuple[str, str, str]:
    """Make a product and one that is sold out; returns their ids, and the name of the first."""
    name = f"Phone-{uuid.uuid4().hex}"
    ids = []
    for stock in (10, 0):
        body = {"name": name, "price": "999.99", "stock": stock}
        answer = httpx.post(f"{base_url}/api/admin/products", json=body, headers=admin, timeout=30)
        ids.append(str(answer.raise_for_status().json()["id"]))
    return ids[0], ids[1], name


def generate_python(base_url: str, folder: Path) -> None:
    """Make the package; a warning of the generator is a failure."""
    document = save_document(base_url, folder)
    run(
        "openapi-python-client", "generate", "--path", document, "--meta", "none", "--fail-on-warning",
        "--output-path", folder / PYTHON_PACKAGE, cwd=folder,
    )  # fmt: skip


def buy_with_python(base_url: str, admin: dict[str, str], folder: Path) -> None:
    bought, sold_out, name = products(base_url, admin)
    said = run(sys.executable, HERE / "buyer.py", base_url, bought, sold_out, cwd=folder, PYTHONPATH=str(folder))
    assert said.split() == ["confirmed", name, "999.99", "sold_out", "True"], said


def check_python_types(folder: Path) -> None:
    """Check all that depends on the document, and the buyer, strictly."""
    shutil.copy(HERE / "buyer.py", folder)
    # The same for every document: the generator writes `*args` into two methods that httpx types.
    (folder / "mypy.ini").write_text(f"[mypy]\nstrict = True\n[mypy-{PYTHON_PACKAGE}.client]\nignore_errors = True\n")
    run(
        "mypy", "--config-file", "mypy.ini", "--cache-dir", folder / "cache", PYTHON_PACKAGE, "buyer.py",
        cwd=folder,
    )  # fmt: skip


def generate_typescript(base_url: str, folder: Path) -> None:
    """Install the pinned packages, make the types, check and compile the buyer."""
    shutil.copytree(HERE / "typescript", folder, dirs_exist_ok=True)
    document = save_document(base_url, folder)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    run("npx", "--no-install", "openapi-typescript", document, "-o", "api.ts", cwd=folder)
    run("npx", "--no-install", "tsc", cwd=folder)


def buy_with_typescript(base_url: str, admin: dict[str, str], folder: Path) -> None:
    bought, sold_out, name = products(base_url, admin)
    said = run("node", "built/buyer.js", base_url, bought, sold_out, cwd=folder)
    assert said.split() == ["confirmed", name, "999.99", "sold_out", "True"], said
