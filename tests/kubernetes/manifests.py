"""The manifests of docker/kubernetes: as they are written, and as `kubectl kustomize` renders them."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "docker/kubernetes"
KEDA = json.loads((ROOT / "tests/kubernetes/keda/scaledobject.json").read_text())
"""Schema of a ScaledObject."""


def written() -> list[dict[str, Any]]:
    """Return every object of the files, without kustomizations."""
    return [
        document
        for path in sorted(FOLDER.rglob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]


def rendered(folder: Path) -> list[dict[str, Any]] | None:
    """Return the objects of a kustomization; None if there is no kubectl here."""
    if shutil.which("kubectl") is None:
        return None
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    """Return the objects of some kinds by their names."""
    return {one["metadata"]["name"]: one for one in objects if one["kind"] in kinds}


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    """Return the specification of a workload's pods."""
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def container_of(workload: dict[str, Any]) -> dict[str, Any]:
    """Return a workload's only container."""
    (container,) = pod_of(workload)["containers"]
    return dict(container)
