"""Check the manifests against the schemas of Kubernetes and KEDA, without a cluster: `nox -s charts`.

Renders the example, the same with the payment simulator, and the migration, with `kubectl kustomize`, and validates every object
strictly: an unknown field is an error. Prints a table.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import kubernetes_validate
import yaml
from rich.console import Console
from rich.table import Table

from tests.kubernetes.manifests import FOLDER, KEDA, rendered, written

VERSIONS = ("1.29", "1.31", "1.33", "1.35")
UNCHECKED = {"PodMonitor": "the schema of the Prometheus operator is not here"}


def with_simulator() -> Path:
    """Return a kustomization of the base with the simulator; kustomize wants it on the same file system."""
    folder = Path(tempfile.mkdtemp(prefix="simulator-", dir=FOLDER))
    text = yaml.safe_load((FOLDER / "example/kustomization.yaml").read_text())
    text["components"].append("../components/simulator")
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return folder


def check(one: dict[str, Any], version: str) -> str:
    """Validate an object; returns what was done."""
    kind = one["kind"]
    if kind in UNCHECKED:
        return UNCHECKED[kind]
    if kind == "ScaledObject":
        jsonschema_rs.validate(KEDA, one)
        return "KEDA 2.16"
    kubernetes_validate.validate(one, version, strict=True)
    return f"Kubernetes {version}"


def all_sets() -> dict[str, list[dict[str, Any]]]:
    """Return the sets of objects to check, by name."""
    files = {"files as they are written": written()}
    if rendered(FOLDER / "migrate") is None:
        click.echo("kubectl is not on PATH: the files are checked as they are written, without kustomize")
        return files
    folder = with_simulator()
    try:
        simulator = rendered(folder)
    finally:
        (folder / "kustomization.yaml").unlink()
        folder.rmdir()
    return {
        **files,
        "example": rendered(FOLDER / "example") or [],
        "example with the simulator": simulator or [],
        "migrate": rendered(FOLDER / "migrate") or [],
    }


@click.command()
def main() -> None:
    """Validate everything."""
    table = Table("set", "objects", "checked against")
    wrong = []
    for name, objects in all_sets().items():
        done: Counter[str] = Counter()
        for version in VERSIONS:
            for one in objects:
                try:
                    done[check(one, version)] += 1
                except (jsonschema_rs.ValidationError, kubernetes_validate.ValidationError) as error:
                    wrong.append(f"{name}: {one['kind']} {one['metadata']['name']} ({version}): {error.message}")
        table.add_row(name, str(len(objects)), ", ".join(f"{what}: {count}" for what, count in done.items()))
    Console(highlight=False, width=160).print(table)
    if wrong:
        raise click.ClickException("\n".join(wrong))


main()
