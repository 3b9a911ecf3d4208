"""matplotlib figures as SVG for a page; colours are roles that the page's style sheet defines."""

import io
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK = "#100001"
MUTED = "#100002"
GRID = "#100003"
SERIES = tuple(f"#20000{n}" for n in range(8))
_ROLES = {INK: "ink", MUTED: "muted", GRID: "grid"}
_ROLES |= {color: f"series-{n}" for n, color in enumerate(SERIES)}

# Series 0 is the baseline. Each has its own dash and marker too: colour is never the only difference.
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (6, 2),
    (2, 1.5),
    (6, 1.5, 1.5, 1.5),
    (10, 2),
    (4, 1, 1, 1, 1, 1),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "lines.linewidth": 1.4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def color(series: int) -> str:
    """Colour of a series; they repeat after eight."""
    return SERIES[series % len(SERIES)]


def line(series: int) -> dict[str, Any]:
    """matplotlib's colour and dashes for a series."""
    return {"color": color(series), "dashes": DASHES[series % len(DASHES)]}


def marker(series: int) -> str:
    """matplotlib's marker for a series."""
    return MARKERS[series % len(MARKERS)]


def compact(value: float, _position: int | None = None) -> str:
    """1500000 -> `1.5M`, for tick labels."""
    for unit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{suffix}"
    return f"{value:g}"


def new_figure(width: float = 4.0, height: float = 2.7) -> Figure:
    """An empty figure, sizes in inches; create it and draw on it inside `matplotlib.rc_context(STYLE)`."""
    return Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an SVG element for a page.

    Args:
        figure: what to draw; its colours must be the roles of this module.
        name: unique in the page; the prefix of every id.
        alt: text for readers who cannot see it.
    """
    out = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(
            out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    drawing = out.getvalue()
    body = drawing[drawing.index(">", drawing.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    for placeholder, role in _ROLES.items():
        body = body.replace(placeholder, f"var(--{role})")
    width, height = (72 * inches for inches in figure.get_size_inches())
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}">{body.strip()}'


def swatch_symbols(count: int) -> str:
    """Definitions `#swatch-0` … of short samples of the series' lines, to be used in a legend or a table."""
    symbols = []
    for series in range(count):
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(0.36, 0.14))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set_axis_off()
            axes.plot(
                [0, 0.5, 1], [0, 0, 0], **line(series), marker=marker(series), markevery=[1], markersize=4
            )
        drawing = to_svg(figure, f"mark-{series}", "")
        body = drawing[drawing.index(">") + 1 : drawing.rindex("</svg>")]
        symbols.append(f'<symbol id="swatch-{series}" viewBox="0 0 25.92 10.08">{body}</symbol>')
    return f'<svg class="definitions" aria-hidden="true">{"".join(symbols)}</svg>'
