"""Plots as SVG files that read on a dark and on a light page.

The same figures give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

# Colours that stand for a variable of the style sheet, in the order of `LIGHT` and `DARK`; nothing else has them.
INK, GRID = "#010203", "#010204"
SERIES = tuple(f"#0102{number:02x}" for number in range(0x10, 0x18))

LIGHT = ("#24292f", "#d0d7de", "#0b62a4", "#c4501b", "#1a7f37", "#8250df", "#9a6700", "#bf3989", "#0f766e", "#57606a")
DARK = ("#d5dae0", "#3d444d", "#58a6ff", "#ff9b6a", "#56d364", "#c297ff", "#e3b341", "#ff8ec7", "#4fd1c5", "#9aa4ae")
"""Ink, grid and eight series. Each but the grid has a contrast of at least 4.5 with a white or a black page."""

DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1.5)), (0, (1, 1)), (0, (9, 3)), (0, (3, 3)))
"""Lines differ without colour too."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "analysis",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "path.simplify": True,
}

SHARES = (0.5, 0.9, 0.99, 0.999)
"""Ticks of a distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a plot."""

    label: str
    points: Sequence[tuple[float, float | None]]
    """In order of x; None is a gap."""
    ends: Sequence[tuple[float, float]] = ()
    """Points with a cross: where the line ends for a reason that the title tells."""


def lines(
    panels: Mapping[str, Sequence[Line]],
    *,
    title: str,
    x: str,
    y: str,
    log: bool = False,
    columns: int = 1,
    ticks: Sequence[float] = (),
) -> str:
    """Draw lines, one panel for each title; the same label has the same colour in all.

    `ticks`: of an axis of x that is logarithmic too.
    """
    return _draw(panels, _line, title=title, x=x, y=y, log=log, columns=columns, ticks=ticks)


def areas(panels: Mapping[str, Sequence[Line]], *, title: str, x: str, y: str, columns: int = 1) -> str:
    """Draw lines on top of each other, as parts of a whole."""
    return _draw(panels, _area, title=title, x=x, y=y, log=False, columns=columns)


def distribution(panels: Mapping[str, Sequence[Line]], *, title: str, y: str, columns: int = 1) -> str:
    """Draw values by the share that does not exceed them; the axis stretches towards 100 %."""
    stretched = {
        name: [Line(label=one.label, points=[(_stretch(share), value) for share, value in one.points]) for one in some]
        for name, some in panels.items()
    }
    return _draw(stretched, _line, title=title, x="share of buys", y=y, log=True, columns=columns, shares=True)


def _draw(
    panels: Mapping[str, Sequence[Line]],
    draw: Any,
    *,
    title: str,
    x: str,
    y: str,
    log: bool,
    columns: int,
    shares: bool = False,
    ticks: Sequence[float] = (),
) -> str:
    labels = list(dict.fromkeys(one.label for some in panels.values() for one in some))
    rows = max(1, math.ceil(len(panels) / columns))
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 1.1 + (3.4 if columns == 1 else 2.1) * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=not shares, sharey=not log and columns > 1)
        axes = [one for row in grid for one in row]
        handles: dict[str, Any] = {}
        for one, (name, some) in zip(axes, panels.items(), strict=False):
            one.set_title(name)
            for line, handle in zip(some, draw(one, some, labels), strict=True):
                handles.setdefault(line.label, handle)
            _scale(one, log=log, shares=shares, ticks=ticks)
        for one in axes[len(panels) :]:
            one.set_visible(False)
        for one in axes[max(0, len(panels) - columns) : len(panels)]:
            one.tick_params(labelbottom=True)
        figure.supxlabel(x, fontsize=10)
        figure.supylabel(y, fontsize=10)
        figure.legend([handles[label] for label in labels], labels, loc="outside upper center", ncols=4)
        figure.patch.set_alpha(0)
        for one in axes:
            one.patch.set_alpha(0)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _themed(out.getvalue(), title)


def _line(axes: Axes, some: Sequence[Line], labels: Sequence[str]) -> list[Any]:
    handles = []
    for one in some:
        number = labels.index(one.label) % len(SERIES)
        xs = [at for at, _ in one.points]
        ys = [math.nan if value is None else value for _, value in one.points]
        look: Any = {"color": SERIES[number], "linestyle": DASHES[number], "linewidth": 1.6}
        handles += axes.plot(xs, ys, marker="o", markersize=2.5, **look)
        for end in one.ends:
            axes.plot(*end, color=SERIES[number], linestyle="", marker="X", markersize=9)
    return handles


def _area(axes: Axes, some: Sequence[Line], labels: Sequence[str]) -> list[Any]:
    xs = [at for at, _ in some[0].points] if some else []
    if not xs:
        return [axes.plot([], [], color=INK)[0] for _ in some]
    heights = [_filled([value for _, value in one.points]) for one in some]
    colors = [SERIES[labels.index(one.label) % len(SERIES)] for one in some]
    return list(axes.stackplot(xs, *heights, colors=colors, linewidth=0))


def _filled(values: Sequence[float | None]) -> list[float]:
    """Give each gap the value before it."""
    filled: list[float] = []
    for value in values:
        filled.append(value if value is not None else filled[-1] if filled else 0.0)
    return filled


def _scale(axes: Axes, *, log: bool, shares: bool, ticks: Sequence[float]) -> None:
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    if log:
        axes.set_yscale("log")
        # Also a panel within one decade has ticks to read.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(plain)
    if shares:
        axes.set_xticks([_stretch(share) for share in SHARES], [f"{share * 100:g} %" for share in SHARES])
        axes.set_xlim(0, _stretch(SHARES[-1]))
    elif ticks:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], minor=False)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_formatter(plain)


def _stretch(share: float) -> float:
    return -math.log10(1 - min(share, 0.9999))


def _themed(svg: str, title: str) -> str:
    """Give the colours names, which a style sheet sets for a light and for a dark page; shorten the numbers."""
    svg = re.sub(r"(\d+\.\d)\d+", r"\1", svg)
    names = ("ink", "grid", *(f"s{number}" for number in range(len(SERIES))))
    for name, color in zip(names, (INK, GRID, *SERIES), strict=True):
        svg = svg.replace(color, f"var(--{name})")
    rules = [";".join(f"--{name}:{color}" for name, color in zip(names, some, strict=True)) for some in (LIGHT, DARK)]
    style = f"svg{{{rules[0]};color-scheme:light dark}}@media(prefers-color-scheme:dark){{svg{{{rules[1]}}}}}"
    head = f'<title>{escape(title)}</title>\n <style type="text/css">{style}</style>'
    return re.sub(r"(<svg [^>]*>)", lambda found: f"{found[1]}\n {head}", svg, count=1)
