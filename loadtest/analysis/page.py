"""The report of an analysis: `docs/analysis.md` with its plots, and the short table in the README.

The same result files give the same bytes. Example:

    PYTHONPATH=loadtest python -m analysis.page --results build/analysis
"""

from __future__ import annotations

import re
import string
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from analysis import discussion, tables
from analysis.figures import count, listed, share, table
from analysis.found import OURS, Found, Situation
from analysis.pictures import pictures
from analysis.results import BadResults, Results, read_results

COMMAND = "nox -s analysis"
TEMPLATE = Path(__file__).with_name("page.md")
ORDERS = (
    "Orders and answers. `accepted`: orders whose 202 a client saw. `success rate`: the confirmed share of all orders, "
    "those that a client saw and those in the database."
)
PLOTS = "analysis"
"""The folder of the plots, next to the page."""
PLACE = re.compile(r"(?<=<!-- analysis: begin -->\n).*?(?=<!-- analysis: end -->)", re.DOTALL)
"""Where another document has the short table."""
TITLES = {"journey": "Journey", "stampede": "Stampede", "ramp": "Ramp", "abuse": "Abuse"}


class Incomplete(BadResults):
    """An analysis some of whose runs are missing."""


def write_page(results: Results, out: Path, *, readme: Path | None = None, price: float | None = None) -> list[Path]:
    """Write the page, its plots next to it, and the short table into `readme`; returns the files that were written.

    `price`: of a processor hour; None: what the analysis was told. Plots of an earlier analysis are deleted.

    Raises:
        BadResults: if there is no run.
    """
    found = Found(results)
    if not found.runs:
        raise BadResults("The analysis has no run yet, so there is nothing to report.")
    drawn = pictures(found)
    folder = out.parent / PLOTS
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, (_, svg) in drawn.items():
        (folder / name).write_text(svg)
    out.write_text(page(found, drawn, price if price is not None else results.head.price_per_cpu_hour))
    written = [out, *(folder / name for name in drawn)]
    if readme is not None:
        text = readme.read_text()
        readme.write_text(PLACE.sub(lambda _: f"{short(found, out.name)}\n", text))
        written.append(readme)
    return written


def page(found: Found, drawn: dict[str, tuple[str, str]], price: float | None) -> str:
    """Write the page."""
    head = found.head
    took_s = sum(run.took_s for run in found.runs)
    parts = {
        "command": COMMAND,
        "began": _date(head.began_at),
        "made_by": head.command,
        "runs": count(len(found.runs)),
        "took": f"{took_s / 60:.0f} minutes" if took_s >= 120 else f"{took_s:.0f} s",  # noqa: PLR2004
        "notes": _notes(found),
        "summary": tables.summary(found),
        "summary_note": _summary_note(found),
        "better": discussion.better(found),
        "verdict": tables.verdict(found),
        "situations": "\n\n".join(_situations(found, drawn, price)),
        "ours": OURS,
        "lines": tables.lines(found),
        "generator_share": share(head.generator_late_share),
        "generator_ms": f"{head.generator_late_ms:g} ms",
        "lateness": tables.lateness(found),
        "machine": table(["", ""], [[name, value] for name, value in (*head.machine.items(), *head.versions.items())]),
        "repetitions": _repetitions(found),
        "provider": ", ".join(f"{name} {value}" for name, value in head.provider.items()) or "the simulator's defaults",
        "generator_threat": discussion.generator_threat(found),
        "choose": discussion.choose(found),
        "surprises": discussion.surprises(found),
    }
    text = string.Template(TEMPLATE.read_text()).substitute(parts)
    return re.sub(r"\n{3,}", "\n\n", text)


def short(found: Found, name: str) -> str:
    """Return what the README shows of an analysis."""
    return (
        f"`{COMMAND}` sells the same drop with {len(found.approaches)} architectures on one machine. Medians, with the "
        f"least and the most in parentheses; [the analysis](docs/{name}) has all figures and what they do not show.\n\n"
        f"{tables.summary(found)}\n"
    )


def _date(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d, %H:%M} UTC"


def _notes(found: Found) -> str:
    notes = []
    missing = found.missing()
    if missing:
        notes.append(
            f"**Incomplete.** {_missing(missing)}, so some cells are empty and some medians are of fewer runs."
        )
    late = [run for run in found.runs if run.generator.late]
    if late:
        notes.append(
            f"**The load generator was late** in {len(late):,} of {len(found.runs):,} runs; they are marked †. "
            "Read their latencies as upper bounds of the approach's."
        )
    busy = listed([f"`{run.name}`" for run in found.runs if run.ended == "busy"])
    if busy:
        notes.append(
            f"**Still at work** when the longest time for a run was over: {busy}. Their orders that were not final "
            "count as stuck."
        )
    if found.head.quick:
        notes.append("**Quick.** This analysis was made with `--quick`: smaller crowds, to try the command.")
    return "\n\n".join(notes)


def _missing(missing: list[str]) -> str:
    return f"{len(missing):,} of the planned runs are missing, the first is `{missing[0]}`"


def _summary_note(found: Found) -> str:
    crowd = "stampede" if found.has("stampede") else "journey"
    note = f"Durations and processor time are those of the {crowd}; they count from the intended start."
    killed = Situation(crowd="stampede", disturbance="redis")
    if killed in found.situations:
        most = max(len(found.of(name, killed)) for name in found.approaches)
        note += f" Redis was killed in {most} more {'run' if most == 1 else 'runs'} of each."
    return note


def _repetitions(found: Found) -> str:
    each = {len(found.of(name, one)) for one in found.situations for name in found.approaches if found.of(name, one)}
    return count(min(each)) if len(each) == 1 else f"{min(each)} to {max(each)}"


def _situations(found: Found, drawn: dict[str, tuple[str, str]], price: float | None) -> list[str]:
    """Write the sections of the crowds, each with its tables, and of the disturbed runs."""
    parts = []
    for crowd in ("stampede", "journey"):
        if found.has(crowd):
            parts += [f"## {TITLES[crowd]}", _crowd(found, crowd), *_tables(found, Situation(crowd=crowd), price)]
    plots = [name for name in drawn if name != "ramp.svg"]
    if plots:
        parts += [
            "## Plots",
            "Each line is the repetition whose p95 is the middle one, unless the plot says otherwise.",
        ]
        parts += [_picture(name, drawn) for name in plots]
    if found.has("ramp"):
        parts += ["## Ramp", _ramp(found), tables.ramp(found)]
        parts += [_picture("ramp.svg", drawn)] if "ramp.svg" in drawn else []
    if found.has("abuse"):
        parts += ["## Abuse", _crowd(found, "abuse"), tables.abuse(found)]
    if found.disturbed:
        parts += ["## Disturbed runs", discussion.lost(found)]
        for one in found.disturbed:
            parts += [f"### {_disturbance(found, one)}", tables.disturbed(found, one)]
    return parts


def _tables(found: Found, situation: Situation, price: float | None) -> list[str]:
    cost = "" if price is None else f" One processor hour costs {price:g}."
    return [
        "From the intended start to the first answer, and to the confirmed order:",
        tables.of_situation(found, situation, tables.LATENCIES),
        ORDERS,
        tables.of_situation(found, situation, tables.ORDERS),
        "Verdict:",
        tables.of_situation(found, situation, tables.VERDICT),
        f"Processor time, memory (PSS at its most) and processes, all without the payment provider.{cost}",
        tables.resources(found, situation, price),
        "Postgres and Redis:",
        tables.servers(found, situation),
    ]


def _crowd(found: Found, crowd: str) -> str:
    runs = [run for run in found.runs if run.crowd == crowd and run.disturbance == "none"]
    buyers, units, seconds = (sorted({getattr(run, name) for run in runs}) for name in ("buyers", "units", "crowd_s"))
    people = {"journey": "Up to {} virtual users at once", "abuse": "{} honest buyers and bots"}.get(crowd, "{} buyers")
    told = listed([count(value) for value in buyers])
    during = listed([f"{value:g}" for value in seconds])
    return f"{people.format(told)} for {listed([count(value) for value in units])} units, within {during} s."


def _ramp(found: Found) -> str:
    head = found.head
    seconds = sorted({step.seconds for run in found.runs for step in run.steps})
    during = f" for {listed([f'{value:g}' for value in seconds])} s each" if seconds else ""
    return (
        f"Buys arrive at a fixed rate{during}. An arrival is bad if it failed, timed out, or had its definite answer "
        f"later than {head.late_s:g} s. A step with more than {share(head.broken_share)} bad arrivals broke the "
        "approach, and no further step was sent. Cells: buys that were really sent per second, p95 of the answers, and "
        f"the bad share. {tables.LATE} marks a step in which the generator's own clock was late, with the share of "
        "late moments: the generator sent later than planned, and the approach may hold more."
    )


def _disturbance(found: Found, situation: Situation) -> str:
    return {
        "worker": "A worker killed",
        "redis": "Redis killed",
        "gateway": f"The payment provider silent for {found.head.silent_s:g} s",
    }.get(situation.disturbance, situation.disturbance)


def _picture(name: str, drawn: dict[str, tuple[str, str]]) -> str:
    return f"![{drawn[name][0]}]({PLOTS}/{name})"


@click.command(epilog="Example: python -m analysis.page --results build/analysis --price-per-cpu-hour 0.04")
@click.option(
    "--results", "directory", type=click.Path(path_type=Path), required=True, help="Directory of the results."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/analysis.md"), show_default=True)
@click.option("--readme", type=click.Path(path_type=Path), help="Also write the short table into this file.")
@click.option("--price-per-cpu-hour", "price", type=click.FloatRange(min=0), help="In any currency. [default: as run]")
@click.option("--partial", is_flag=True, help="Report an analysis that has not ended, too.")
def main(directory: Path, out: Path, readme: Path | None, price: float | None, partial: bool) -> None:  # noqa: FBT001
    """Write the report of an analysis from its result files."""
    try:
        results = read_results(directory)
        missing = Found(results).missing() if results.runs else []
        if missing and not partial:
            raise Incomplete(f"{directory}: {_missing(missing)}. Run `{COMMAND}` again to go on, or add --partial.")
        written = write_page(results, out, readme=readme, price=price)
    except (BadResults, OSError) as error:
        sys.exit(str(error))
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
