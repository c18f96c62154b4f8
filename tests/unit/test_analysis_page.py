"""The report of an analysis: its tables say what the files say, its sentences hold, and its plots are well-formed."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from analysis import figures, found, page, pictures, plots, tables
from analysis.discussion import better, choose, expectations, lost
from analysis.results import Abuse, BadResults, Generator, Results, Sample, Second, Step, latency, read_results, write

from tests.unit.test_analysis_results import ZEROS, a_head, a_run
from tests.unit.test_docs import ROOT, anchors
from tests.unit.test_language import of_style

APPROACHES = ("naive", "synchronous", "row_lock", "mutex", "redis_queue", "lua", "flashsale")
RATES = (100, 500, 1700)
LATE = Generator(p50_ms=9.0, p99_ms=80.0, worst_ms=400.0, late_share=0.2, late=True, cpu_s=3.0)


def seconds(slow):
    return tuple(
        Second(
            at_s=at, sent=9, accepted=at, refused=2, failed=0, p50_ms=slow, p95_ms=slow * (at % 3), worst_ms=slow * 4
        )
        for at in range(8)
    )


def samples():
    return tuple(
        Sample(at_s=at / 2 - 1, users=at, stock=20 - at, queued=at % 4, orders={"paying": 1, "confirmed": at})
        for at in range(16)
    )


def a_step(rate, *, broke):
    return Step(
        rate=rate, seconds=5.0, arrived=rate, accepted=9, refused=9, failed=0, timed_out=0, late=0, sent_per_s=rate - 1,
        answered_per_s=rate,
        latency=latency([float(rate)]), bad_share=0.5 if broke else 0.0, generator_late_share=0.0, broke=broke,
    )  # fmt: skip


def abused(bought):
    return Abuse(
        honest=200, honest_bought=bought, honest_answered=199, honest_latency=latency([5.0]), bots=10, bot_requests=9000,
        bot_bought=30, bot_refused=8000, above_limit=2, limit=2,
    )  # fmt: skip


def an_analysis():
    """Return an analysis of all approaches: three repetitions of two crowds, a ramp, bots, and Redis killed once."""
    runs = []
    for number, name in enumerate(APPROACHES, 1):
        own = {"approach": name, "seconds": seconds(number), "samples": samples()}
        for repetition in (1, 2, 3):
            measured = {
                "repetition": repetition,
                "first_answer": latency([float(number), number * 10.0 * repetition, number * 100.0]),
                "to_confirmed": latency([2000.0 if name == "synchronous" else 3000.0]),
            }
            oversold = replace(ZEROS, oversold=repetition) if name == "naive" else ZEROS
            runs += [
                a_run(**own, **measured, verdict=oversold),
                a_run(**own, **measured, crowd="journey", buyers=300, crowd_s=60.0),
            ]
        broken = 0 if name == "row_lock" else len(RATES) - 1
        steps = tuple(a_step(rate, broke=at == broken) for at, rate in enumerate(RATES[: broken + 1]))
        forgot = replace(ZEROS, lost=17, leaked=4) if name == "redis_queue" else ZEROS
        runs += [
            a_run(**own, crowd="ramp", steps=steps),
            a_run(**own, crowd="abuse", abuse=abused(100 + number)),
            a_run(**own, disturbance="redis", disturbed_s=(2.0, 3.0), verdict=forgot),
        ]
    head = msgspec.structs.replace(
        a_head(), quick=False, approaches=APPROACHES, lines={"naive": 34, "shop": 322}, provider={"declines": "0.1"}
    )
    return Results(head=head, runs=tuple(runs))


def changed(results, choose, **changes):
    runs = tuple(msgspec.structs.replace(run, **changes) if choose(run) else run for run in results.runs)
    return msgspec.structs.replace(results, runs=runs)


def saved(results, directory):
    write(directory / "analysis.json", results.head)
    for run in results.runs:
        write(directory / "runs" / f"{run.name}.json", run)
    return directory


def cells(text, approach):
    """Return the cells of an approach's row in the first table that has one."""
    row = next(line for line in text.splitlines() if re.match(rf"\| \*{{0,2}}`{approach}`", line))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    readme = folder / "README.md"
    readme.write_text("# Shop\n\n<!-- analysis: begin -->\nnothing yet\n<!-- analysis: end -->\n\nThe end.\n")
    paths = page.write_page(an_analysis(), folder / "analysis.md", readme=readme)
    return folder, paths


def test_a_figure_is_the_median_of_its_runs_with_least_and_most(written):
    text = (written[0] / "analysis.md").read_text()
    table = text.partition("## Stampede")[2]
    assert cells(table, "redis_queue")[1:5] == ["100 ms (50 ms to 150 ms)", "500 ms", "500 ms", "500 ms"]
    assert cells(table, "redis_queue")[0] == "202 ms (185 ms to 218 ms)"
    assert cells(text.partition("Orders and answers")[2], "naive") == [
        "9", "100", "90", "90.0 %", "0", "0", "0", "0",
    ]  # fmt: skip
    assert cells(text.partition("Verdict:")[2], "naive") == ["2 (1 to 3)", *["0"] * 6]
    assert cells(text.partition("## What went wrong")[2], "naive") == ["8", "6", *["0"] * 6]
    used = cells(text.partition("Processor time")[2], "mutex")
    assert used == ["9 s", "100 s", "256 MiB", "5", "3"]
    assert cells(text.partition("## Abuse")[2], "lua")[:3] == ["200", "53.0 %", "99.5 %"]
    assert cells(text.partition("## Code and processes")[2], "naive") == ["34", "5 api"]


def test_the_ramp_ends_where_an_approach_broke(written):
    text = (written[0] / "analysis.md").read_text().partition("## Ramp")[2]
    assert cells(text, "row_lock") == ["sent 99/s; p95 100 ms; bad 50.0 % **broke**", "-", "-", "none"]
    assert cells(text, "mutex")[1:] == [
        "sent 499/s; p95 500 ms; bad 0 %", "sent 1,699/s; p95 1.7 s; bad 50.0 % **broke**", "500/s",
    ]  # fmt: skip


def test_the_lost_orders_of_a_killed_redis_are_next_to_ours(written):
    told = lost(found.Found(an_analysis()))
    assert told == "- When Redis is killed: `redis_queue` lost 17 orders (4 leaked), `flashsale` lost 0 orders."
    assert told in (written[0] / "analysis.md").read_text()


def test_what_others_do_better_comes_first_and_names_their_faults(written):
    text = (written[0] / "analysis.md").read_text()
    headings = re.findall(r"(?m)^## (.+)$", text)
    assert headings[0] == "Where another approach is better"
    told = text.partition(headings[0])[2].partition("\n## ")[0]
    assert "| stampede: to confirmed, p50 | `synchronous` 2.0 s | 3.0 s |" in told
    first = next(line for line in told.splitlines() if "first answer, p50" in line)
    assert re.findall(r"`(\w+)`", first) == list(APPROACHES[:-1])
    assert "- `naive`: 6 oversold." in told
    assert "- `redis_queue`: 17 lost and 4 leaked." in told


def test_without_a_better_approach_the_page_says_so():
    only = changed(an_analysis(), lambda run: run.approach != "flashsale", to_confirmed=latency([9000.0]))
    worse = {"first_answer": latency([9000.0]), "steps": (), "abuse": abused(0)}
    told = better(found.Found(changed(only, lambda run: run.approach != "flashsale", **worse)))
    assert told == "No other approach had a better median than `flashsale` in any figure of this run that is compared."


def test_ranges_that_overlap_are_marked():
    wide = latency([1.0])
    results = changed(an_analysis(), lambda run: (run.approach, run.repetition) == ("flashsale", 1), first_answer=wide)
    told = better(found.Found(results))
    assert "`*`: the ranges of the repetitions overlap" in told
    assert "`naive` 20 ms (10 ms to 30 ms) *" in told


@pytest.mark.parametrize(
    ("approach", "fault", "sentence", "advice"),
    [
        (
            "naive",
            "oversold",
            "Without a disturbance, in 8 runs: 6 oversold.",
            "Do not choose it where units are limited.",
        ),
        ("lua", "charged_twice", "8 charged twice", "Do not choose it where an order or a payment must be right."),
        ("mutex", "refused_falsely", "8 falsely sold out", "Choose it only if the faults above are acceptable"),
        ("flashsale", "lost", "8 lost", "Do not choose it where an order or a payment must be right."),
    ],
)
def test_advice_follows_from_the_faults_of_the_run(approach, fault, sentence, advice):
    results = an_analysis()
    if approach != "naive":
        at = lambda run: run.approach == approach and run.disturbance == "none"  # noqa: E731
        results = changed(results, at, verdict=replace(ZEROS, **{fault: 1}))
    told = next(line for line in choose(found.Found(results)).splitlines() if line.startswith(f"- **`{approach}`"))
    assert sentence in told
    assert advice in told


def test_a_fault_of_ours_is_a_surprise_and_none_is_expected():
    judged = {sentence: agrees for sentence, _, agrees in expectations(found.Found(an_analysis()))}
    ours = "`flashsale` is right in every run, disturbed or not."
    assert judged[ours]
    assert judged["`naive` oversells."]
    assert judged["`synchronous` confirms sooner than `flashsale`."]
    wrong = changed(an_analysis(), lambda run: run.approach == "flashsale", verdict=replace(ZEROS, leaked=1))
    assert not {told[0]: told[2] for told in expectations(found.Found(wrong))}[ours]


def test_a_run_with_a_late_generator_is_marked_wherever_its_latency_is_shown():
    at = lambda run: (run.approach, run.crowd, run.repetition) == ("lua", "journey", 2)  # noqa: E731
    results = changed(an_analysis(), at, generator=LATE)
    text = page.page(found.Found(results), {}, None)
    assert "**The load generator was late** in 1 of 63 runs; they are marked †." in text
    assert "| `lua` † |" in text.partition("## Journey")[2].partition("\n## ")[0]
    assert "†" not in text.partition("## Stampede")[2].partition("\n## ")[0]
    assert cells(text.partition("## The load generator")[2], "lua")[-1] == "`journey.none.2`"
    assert "†" not in page.page(found.Found(an_analysis()), {}, None).replace("† marks", "")


def test_a_run_that_ended_in_the_middle_of_its_work_is_named():
    at = lambda run: (run.approach, run.crowd) == ("lua", "ramp")  # noqa: E731
    text = page.page(found.Found(changed(an_analysis(), at, ended="busy")), {}, None)
    assert "**Still at work** when the longest time for a run was over: `lua.ramp.none.1`." in text
    assert "**Still at work**" not in page.page(found.Found(an_analysis()), {}, None)


def test_a_price_gives_a_cost_and_no_price_gives_none():
    priced = tables.resources(found.Found(an_analysis()), found.Situation(crowd="stampede"), 0.36)
    assert cells(priced, "naive")[-1] == "0.010000"
    assert "cost" not in tables.resources(found.Found(an_analysis()), found.Situation(crowd="stampede"), None)


def test_every_plot_is_well_formed_and_reads_on_light_and_dark_pages(written):
    folder, _ = written
    names = {path.name for path in (folder / "analysis").iterdir()}
    assert names == {
        f"{name}.svg" for name in ("latency", "throughput", "distribution", "users", "stock", "queue", "orders", "ramp")
    }
    for name in sorted(names):
        svg = (folder / "analysis" / name).read_text()
        root = ET.fromstring(svg)  # noqa: S314 - our own file
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.find("{http://www.w3.org/2000/svg}title").text
        outside = re.sub(r'<style type="text/css">svg.*?</style>', "", svg)
        assert "prefers-color-scheme:dark" in svg
        # Each colour is one of the style sheet, so none is left that only one of the pages can show.
        assert not re.findall(r"(?:fill|stroke): *#\w+", outside), name
        assert set(re.findall(r"(?:fill|stroke): *([\w-]+(?:\([^)]*\))?)", outside)) <= {
            "none", "var(--ink)", "var(--grid)", *(f"var(--s{number})" for number in range(8)),
        }, name  # fmt: skip
        assert (folder / "analysis.md").read_text().count(f"](analysis/{name})") == 1


@pytest.mark.parametrize(("colors", "paper"), [(plots.LIGHT, "#ffffff"), (plots.DARK, "#000000")])
def test_each_colour_stands_out_from_its_page(colors, paper):
    def luminance(color):
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink, _grid, *series = colors
    for color in (ink, *series):
        less, more = sorted((luminance(color), luminance(paper)))
        assert (more + 0.05) / (less + 0.05) >= 4.5, color


def test_links_of_the_page_lead_somewhere(written):
    folder, _ = written
    text = (folder / "analysis.md").read_text()
    links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", text)
    assert len(links) > 8
    for target, anchor in links:
        there = folder / target if target.startswith("analysis/") else ROOT / "docs" / target
        assert there.exists(), target
        assert not anchor or anchor in anchors(there)


def test_the_page_is_plain_and_leaves_no_hole(written):
    text = (written[0] / "analysis.md").read_text()
    assert of_style(ROOT / "docs/analysis.md", text) == []
    assert "$" not in text
    assert "None" not in text
    assert "nox -s analysis" in text.partition("## ")[0]
    for line in (ROOT / "loadtest/analysis/page.md").read_text().splitlines():
        assert len(line) <= 150


def test_the_readme_gets_the_short_table_and_keeps_its_own_text(written):
    text = (written[0] / "README.md").read_text()
    assert text.startswith("# Shop\n\n<!-- analysis: begin -->\n`nox -s analysis` sells")
    assert text.endswith("<!-- analysis: end -->\n\nThe end.\n")
    assert cells(text, "redis_queue")[:3] == ["0", "0", "17 lost and 4 leaked"]
    assert "nothing yet" not in text


@pytest.mark.parametrize("left", [("naive",), ("synchronous", "flashsale"), ("row_lock", "redis_queue")])
@pytest.mark.parametrize("crowds", [("stampede",), ("journey", "ramp"), ("abuse",), ("ramp",)])
def test_a_part_of_an_analysis_gives_a_page(left, crowds):
    results = an_analysis()
    runs = tuple(run for run in results.runs if run.approach in left and run.crowd in crowds)
    part = found.Found(msgspec.structs.replace(results, runs=runs))
    text = page.page(part, {}, 0.04)
    assert "**Incomplete.**" in text
    assert "nan" not in text


def test_orders_without_any_confirmed_have_no_success_and_no_cost(monkeypatch):
    asked = []

    def drawn(panels, **_):
        asked.append(panels)
        return "<svg/>"

    for name in ("lines", "areas", "distribution"):
        monkeypatch.setattr(pictures, name, drawn)
    nothing = {"orders": {}, "accepted": 0, "first_answer": latency([]), "samples": (), "seconds": ()}
    results = changed(an_analysis(), lambda run: run.approach == "mutex", **nothing)
    runs = tuple(run for run in results.runs if run.crowd == "stampede")
    some = found.Found(msgspec.structs.replace(results, runs=runs))
    text = page.page(some, pictures.pictures(some), 0.04)
    assert cells(text.partition("## Stampede")[2], "mutex")[:5] == ["-"] * 5
    assert cells(text.partition("Orders and answers")[2], "mutex")[3] == "-"
    assert cells(text.partition("Processor time")[2], "mutex")[-1] == "-"
    # Plots are asked for lines without points, and draw them: see the next test.
    empty = {one.label for panels in asked for lines in panels.values() for one in lines if not one.points}
    assert empty == {"mutex"}


def test_lines_without_points_are_drawn_next_to_others():
    some, none = plots.Line(label="some", points=[(0, 1), (1, None), (2, 3)]), plots.Line(label="none", points=[])
    for svg in (
        plots.lines({"first": [none, some], "second": [none]}, title="lines", x="s", y="ms", log=True),
        plots.areas({"first": [some, some], "second": [none, none]}, title="areas", x="s", y="orders", columns=2),
    ):
        assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314 - our own file


def test_a_ramp_has_a_cross_where_an_approach_broke_in_most_of_its_ramps(monkeypatch):
    drawn = {}

    def draw(panels, **_):
        drawn.update(panels)
        return "<svg/>"

    monkeypatch.setattr(pictures, "lines", draw)
    results = an_analysis()
    ramps = tuple(run for run in results.runs if run.crowd == "ramp")
    once = [
        msgspec.structs.replace(run, repetition=2, steps=run.steps[:1]) for run in ramps if run.approach == "row_lock"
    ]
    held = tuple(msgspec.structs.replace(step, broke=False) for step in once[0].steps)
    again = msgspec.structs.replace(once[0], repetition=3, steps=held)
    pictures.pictures(found.Found(msgspec.structs.replace(results, runs=(*ramps, *once, again))))
    crosses = {line.label: [at for at, _ in line.ends] for line in drawn["ramp"]}
    assert crosses == {name: [100.0 if name == "row_lock" else 1700.0] for name in APPROACHES}
    broken = plots.Line(label="broken", points=[(100, 5)], ends=[(100, 5)])
    whole = plots.Line(label="broken", points=[(100, 5)])
    marks = [plots.lines({"ramp": [one]}, title="ramp", x="x", y="y").count("<use ") for one in (whole, broken)]
    assert marks[1] == marks[0] + 1


def run_command(*arguments):
    command = [sys.executable, "-m", "analysis.page", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={"PYTHONPATH": "src:loadtest"}
    )


def test_the_command_gives_the_same_bytes_for_the_same_files(tmp_path):
    # A ramp has one plot, and each plot costs a second.
    results = an_analysis()
    ramps = msgspec.structs.replace(results, runs=tuple(run for run in results.runs if run.crowd == "ramp"))
    directory = saved(ramps, tmp_path / "results")
    folder = tmp_path / "here"
    folder.mkdir()
    paths = page.write_page(read_results(directory), folder / "analysis.md")
    done = run_command("--results", directory, "--out", tmp_path / "analysis.md", "--partial")
    assert (done.returncode, done.stderr) == (0, "")
    again = [Path(line) for line in done.stdout.splitlines()]
    assert [path.relative_to(tmp_path) for path in again] == [path.relative_to(folder) for path in paths]
    assert [path.suffix for path in again] == [".md", ".svg"]
    for path in again:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name


def damaged(directory):
    (directory / "runs" / "mutex.stampede.none.2.json").write_bytes(b'{"approach": "mut')


def of_another_kind(directory):
    path = directory / "runs" / "mutex.stampede.none.2.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "accepted": "many"}))


def short_of_a_run(directory):
    (directory / "runs" / "mutex.stampede.none.2.json").unlink()


def short_of_all_runs(directory):
    for path in (directory / "runs").iterdir():
        path.unlink()


def without_a_head(directory):
    (directory / "analysis.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (damaged, "mutex.stampede.none.2.json cannot be read"),
        (of_another_kind, "$.accepted"),
        (short_of_a_run, "1 of the planned runs are missing, the first is `mutex.stampede.none.2`"),
        (short_of_all_runs, "no run yet"),
        (without_a_head, "there is no such file"),
    ],
)
def test_bad_results_are_told_in_one_line_and_change_nothing(tmp_path, monkeypatch, capsys, spoil, told):
    directory = saved(an_analysis(), tmp_path / "results")
    spoil(directory)
    monkeypatch.setattr(sys, "argv", ["page", "--results", str(directory), "--out", str(tmp_path / "analysis.md")])
    with pytest.raises(SystemExit) as ended:
        page.main()
    message = str(ended.value)
    assert told in message
    assert "\n" not in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
    assert capsys.readouterr().out == ""


def test_the_analysis_does_not_import_locust():
    """Locust replaces sockets and threads of the process that imports it."""
    code = "import sys, analysis.page, analysis.measure, buyer, report, fleet; sys.exit('locust' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert not subprocess.run(command, check=False, cwd=ROOT, env={"PYTHONPATH": "src:loadtest:."}).returncode


def test_no_run_at_all_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BadResults, match="no run yet"):
        page.write_page(Results(head=a_head(), runs=()), tmp_path / "analysis.md")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (figures.milliseconds, 3.14, "3.1 ms"),
        (figures.milliseconds, 314.2, "314 ms"),
        (figures.milliseconds, 31_400, "31.4 s"),
        (figures.share, 0.9999, "> 99.9 %"),
        (figures.share, 0.0001, "< 0.1 %"),
        (figures.share, 1.0, "100 %"),
        (figures.share, 0.005, "0.5 %"),
        (figures.count, 1234, "1,234"),
        (figures.count, 2.5, "2.5"),
        (figures.decimal, 0.01234, "0.0123"),
    ],
)
def test_figures_are_written_without_more_digits_than_count(unit, value, text):
    assert unit(value) == text


def test_a_planned_run_that_no_approach_has_is_missing():
    head = msgspec.structs.replace(an_analysis().head, planned=("lua.stampede.none.1", "lua.abuse.none.9"))
    assert found.Found(msgspec.structs.replace(an_analysis(), head=head)).missing() == ["lua.abuse.none.9"]
