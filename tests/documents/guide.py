"""Follow the guide to a deployment literally: its shell blocks, in a fresh clone, with a Docker engine: `nox -s guide`.

Only the address differs: a free port of this machine. The stack is a Compose project of its own, which is taken down
with its volumes at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.documents.__main__ import ROOT, blocks, checkout, free_port, fresh_environment, script

GUIDE = "docs/how-to/deploy.md"
LONGEST_S = 1200


def environment_of(folder: Path, port: int) -> dict[str, str]:
    """Return the environment of an operator; an nginx that is here already serves as well as the default one."""
    environment = fresh_environment(folder) | {
        "LISTEN": f"127.0.0.1:{port}",
        "COMPOSE_PROJECT_NAME": "flashsale-guide",
        "PASSWORD": "a long enough password",
    }
    images = ["docker", "images", "--format", "{{.Tag}}", "nginx"]
    here = subprocess.run(images, capture_output=True, text=True, check=True).stdout.split()
    if here and "1.30" not in here:
        environment["NGINX_VERSION"] = here[0]
    return environment


@click.command()
def main() -> None:
    """Run every block; exit code 1 if one fails."""
    found = blocks((ROOT / GUIDE).read_text())
    with tempfile.TemporaryDirectory(prefix="flashsale-guide-") as name:
        folder = Path(name)
        checkout(folder)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        port = free_port()
        environment = environment_of(folder, port)
        began_s = time.monotonic()
        try:
            done = subprocess.run(
                ["bash", "-c", script(found, port)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=LONGEST_S,
            )
        finally:
            down = ["docker", "compose", "-f", "docker/compose.yaml", "down", "--volumes", "--remove-orphans"]
            subprocess.run(down, cwd=folder, env=environment, capture_output=True, check=False)
    click.echo(done.stdout[-6000:])
    for block in found:
        click.echo(
            f"{GUIDE}:{block.line} {'not run: ' + block.not_run if block.not_run else json.dumps(block.text[:70])}"
        )
    click.echo(f"{time.monotonic() - began_s:.0f} s")
    sys.exit(f"{GUIDE}: ended with {done.returncode}:\n{done.stderr[-4000:]}" if done.returncode else 0)


if __name__ == "__main__":
    main()
