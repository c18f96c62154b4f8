"""The image: how large it is over its base, what is not in it, and its bill of materials: `nox -s image`.

Without a Docker engine only the bill of materials is written, from the pinned requirements. Example:

    python -m tests.docker.image --tool cyclonedx-py --bill sbom.json
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker/Dockerfile"
OVER_BASE_MB_MAX = 110
NAME = "flashsale:measured"
WITHOUT = {
    "setuid and setgid files": "find / -xdev -type f -perm /6000",
    "pip": "find / -xdev -name 'pip*' -path '*bin*'; python3 -m pip --version 2> /dev/null",
    "what only tests use": "ls -d /venv/lib/python3*/site-packages/{faker,polyfactory,pytest} 2> /dev/null",
    "secrets and tests": "ls -d /app/tests /app/docker /app/.git /app/.env 2> /dev/null",
}
"""Shell commands that must print nothing."""
PACKAGES = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"


def left_out() -> set[str]:
    """Return the packages that the Dockerfile takes away."""
    return set(re.findall(r"uninstall --yes ([\w ]+)", DOCKERFILE.read_text())[0].split())


def bill_of_materials(tool: str) -> dict[str, Any]:
    """Return a CycloneDX document of what the image installs."""
    pinned = re.split(r"\n(?=\S)", (ROOT / "requirements/run.txt").read_text())
    kept = [one for one in pinned if one.partition("==")[0] not in left_out() and "win32" not in one]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(kept))
        file.flush()
        command = [tool, "requirements", file.name, "--pyproject", str(ROOT / "pyproject.toml"), "--of", "JSON"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def docker(*arguments: str) -> str:
    """Run docker; returns what it printed."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def in_image(command: str) -> str:
    """Run a shell command in the image, as root, without a network; returns what it printed."""
    arguments = ["run", "--rm", "--user", "0", "--network", "none", NAME, "bash", "-c", f"{command}; true"]
    return docker(*arguments)


def measure() -> tuple[list[str], dict[str, str]]:
    """Build the image; returns what is wrong with it, and the packages in it."""
    base = re.findall(r"(?m)^ARG BASE=(.*)$", DOCKERFILE.read_text())[0]
    docker("build", "--quiet", "-f", str(DOCKERFILE), "-t", NAME, ".")
    sizes = [int(docker("image", "inspect", "-f", "{{.Size}}", name)) / 1e6 for name in (NAME, base)]
    over_mb = sizes[0] - sizes[1]
    click.echo(f"{sizes[0]:.0f} MB, {over_mb:.0f} MB over {base}")
    wrong = [f"{over_mb:.0f} MB over the base, more than {OVER_BASE_MB_MAX}"] if over_mb > OVER_BASE_MB_MAX else []
    for what, command in WITHOUT.items():
        found = in_image(command)
        click.echo(f"{what}: {found or 'none'}")
        wrong += [f"{what}: {found}"] if found else []
    if not re.fullmatch(r"\d+:\d+", docker("image", "inspect", "-f", "{{.Config.User}}", NAME)):
        wrong.append("its user is no number")
    packages: dict[str, str] = json.loads(in_image(f"python -c '{PACKAGES}'"))
    return wrong, packages


def plain(name: str) -> str:
    """Return a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@click.command(epilog="Example: python -m tests.docker.image --bill sbom.json")
@click.option("--tool", default="cyclonedx-py", help="The program that writes the bill of materials.")
@click.option("--bill", type=click.Path(path_type=Path), default=Path("sbom.json"), help="Where to write it.")
def main(tool: str, bill: Path) -> None:
    """Write the bill of materials; measure the image; exit code 1 if something is wrong."""
    document = bill_of_materials(tool)
    bill.write_text(json.dumps(document, indent=1) + "\n")
    listed = {plain(one["name"]): one["version"] for one in document["components"]}
    click.echo(f"{bill}: {len(listed)} packages")
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "version"], capture_output=True, check=False).returncode
    ):
        click.echo("no Docker engine: the image was not measured")
        return
    wrong, packages = measure()
    installed = {plain(name): version for name, version in packages.items()}
    wrong += [
        f"{name} {installed[name]} is in the image and not in the bill" for name in installed.keys() - listed.keys()
    ]
    wrong += [
        f"{name}: {version} in the bill" for name, version in listed.items() if installed.get(name, version) != version
    ]
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
