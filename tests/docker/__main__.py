"""The stack in containers, exercised for real: `nox -s docker`.

It runs as a separate Compose project, on a free loopback port, and is taken down with its
volumes at the end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tests.docker import crowds, releases, sales
from tests.docker.exercise import Exercise, Failed

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS: dict[str, list[Callable[[Exercise], None]]] = {
    "sales": [sales.begin, sales.break_things, sales.leave_no_token, sales.replace, sales.deploy_again],
    "releases": [
        releases.begin,
        releases.hold_streams,
        releases.take_back,
        releases.go_back,
        releases.refuse,
    ],
    "crowds": [crowds.begin, crowds.stampedes, crowds.journey, crowds.crowded_journey],
}
"""Each on a stack of its own."""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: python -m tests.docker --only crowds --keep out",
)
@click.option(
    "--only",
    type=click.Choice(list(PARTS)),
    default="sales",
    show_default=True,
    help="sales: three, each disturbed (5 minutes); releases: streams, rollout and rollback (5 minutes); "
    "crowds: journeys and stampedes (10 minutes).",
)
@click.option("--keep", type=click.Path(path_type=Path), help="Keep histories and logs here.")
def main(only: str, keep: Path | None) -> None:
    """Exercise the stack in containers; exit code 0 only if everything was right."""
    with tempfile.TemporaryDirectory(prefix="flashsale-docker-") as folder:
        place = (keep or Path(folder)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        exercise = Exercise(place)
        try:
            for step in PARTS[only]:
                step(exercise)
        except Failed as error:
            (place / "containers.log").write_text(exercise.compose("logs", "--no-color", check=False))
            sys.exit(f"WRONG: {error}")
        finally:
            for load in exercise.loads:
                load.kill()
            exercise.compose("down", "--volumes", "--remove-orphans", check=False)
            exercise.say("down")
    exercise.say("the stack in containers was right")


if __name__ == "__main__":
    main()
