"""Charts as plain SVG text: axes, dots, lines, intervals. No library; colours follow the page's light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

Point = tuple[float, float]

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color), c0 to c5, told apart with any colour vision; in the dark
# theme the blue and the green are lighter. c6 is the ink, c7 grey.
LIGHT = ("#0072b2", "#d55e00", "#007a5a", "#b0558c", "#2d8ac7", "#a87200", "#1b1b1b", "#767676")
DARK = ("#56b4e9", "#ff8a3d", "#2fc79c", "#e79ac6", "#9bd3f5", "#f0b93a", "#eeeeee", "#9a9a9a")
COLORS = len(LIGHT) - 2
INK, GREY = 6, 7
MARKERS = "osdv^Px"


def theme(colors: Sequence[str]) -> str:
    """The CSS variables of a theme."""
    return "".join(f"--c{i}:{c};" for i, c in enumerate(colors))


STYLE = (
    ".chart text{font:12px system-ui,sans-serif;fill:var(--c6)}.chart .grid{stroke:var(--c7);stroke-opacity:.25}"
    ".chart .axis{stroke:var(--c7)}.chart .quiet{fill:var(--c7)}.chart .head{font-weight:600}"
    + "".join(
        f".chart .l{i}{{stroke:var(--c{i});fill:none}}.chart .f{i}{{fill:var(--c{i});stroke:var(--c{i})}}"
        f".chart .h{i}{{fill:none;stroke:var(--c{i});stroke-width:1.6}}"
        for i in range(len(LIGHT))
    )
)


@dataclass(frozen=True, slots=True)
class Axis:
    """low to high, in data units; names: texts at 0, 1, ... instead of numbers."""

    low: float
    high: float
    label: str = ""
    log: bool = False
    names: tuple[str, ...] = ()

    @classmethod
    def around(cls, values: Iterable[float], label: str = "", log: bool = False, zero: bool = False) -> Axis:
        """An axis that holds the finite values, with some room, and 0 where asked."""
        kept = [v for v in values if math.isfinite(v) and (v > 0 or not log)] + ([0.0] if zero and not log else [])
        low, high = (min(kept), max(kept)) if kept else (1.0, 10.0)
        if log:
            room = max(0.06 * math.log(high / low), 0.15)
            return cls(low * math.exp(-room), high * math.exp(room), label, True)
        margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
        return cls(low - margin, high + margin, label)

    def at(self, value: float) -> float:
        """0 to 1 from low to high."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 7) -> list[tuple[float, str]]:
        """(value, text)"""
        if self.names:
            return [(float(i), n) for i, n in enumerate(self.names)]
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if last > first:
                every = max(1, math.ceil((last - first) / most))
                return [(10.0**e, _power(e)) for e in range(first, last + 1, every)]
        width = self.high - self.low
        size = next(s for s in _steps(width / most) if width / s <= most)
        start = math.ceil(self.low / size)
        return [(k * size, _short(k * size, size)) for k in range(start, math.floor(self.high / size) + 1)]


def _steps(least: float) -> Iterable[float]:
    size = 10 ** math.floor(math.log10(least))
    return (m * size for m in (1, 2, 5, 10, 20, 50))


def _power(e: int) -> str:
    return str(10**e) if 0 <= e <= 2 else f"1e{e}"


def _short(x: float, step: float) -> str:
    return f"{x:.{max(0, -math.floor(math.log10(step)))}f}" if 1e-4 < step < 1e6 else f"{x:g}"


@dataclass
class Chart:
    """One panel. x to the right, y upwards; `down` counts y from the top, for rows with names."""

    x: Axis
    y: Axis
    title: str = ""
    about: str = ""  # for those who cannot see it
    width: int = 640
    height: int = 360
    left: int = 64
    down: bool = False
    legend: list[tuple[str, int, str, bool]] = field(default_factory=list)  # text, colour, marker, hollow
    _parts: list[str] = field(default_factory=list)

    def place(self, x: float, y: float) -> Point:
        """Pixels of a point."""
        share = self.y.at(y)
        top, bottom = 30, self.height - 46
        return (
            self.left + self.x.at(x) * (self.width - self.left - 14),
            top + share * (bottom - top) if self.down else bottom - share * (bottom - top),
        )

    def line(self, points: Iterable[Point], color: int = INK, dash: str = "", width: float = 1.8) -> None:
        pairs = " ".join(f"{a:.1f},{b:.1f}" for a, b in (self.place(*p) for p in points))
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(f'<polyline class="l{color}" stroke-width="{width}"{dashed} points="{pairs}"/>')

    def dot(
        self, x: float, y: float, color: int = INK, marker: str = "o", hollow: bool = False, about: str = ""
    ) -> None:
        """A marker; `about` is told when it is pointed at."""
        told = f"<title>{escape(about)}</title>" if about else ""
        self._parts.append(f'<g class="{"h" if hollow else "f"}{color}">{told}{_shape(*self.place(x, y), marker)}</g>')

    def interval(self, low: float, high: float, at: float, color: int = INK, upright: bool = False) -> None:
        """A bar from low to high: along x at the height `at`, or upright at the x `at`."""
        ends = [(at, low), (at, high)] if upright else [(low, at), (high, at)]
        self.line([(self._inside(x, self.x), self._inside(y, self.y)) for x, y in ends], color, width=2)

    def text(
        self, x: float, y: float, words: str, color: int = INK, anchor: str = "start", dy: float = -7, dx: float = 0
    ) -> None:
        a, b = self.place(x, y)
        at = f'x="{a + dx:.1f}" y="{b + dy:.1f}" text-anchor="{anchor}"'
        self._parts.append(f'<text {at} style="fill:var(--c{color})">{escape(words)}</text>')

    @staticmethod
    def _inside(value: float, axis: Axis) -> float:
        return min(max(value, axis.low), axis.high)

    def svg(self, standalone: bool = False) -> str:
        """The chart as an element of a page, or as a file of its own, which brings its style."""
        entries, height = self._legend()
        body = [*self._frame(), *self._parts, *entries]
        size = f'viewBox="0 0 {self.width} {height}" width="{self.width}" height="{height}"'
        label = escape(self.about or self.title, quote=True)
        style = f"<style>{_alone()}</style>" if standalone else ""
        space = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
        return f'<svg class="chart" role="img" aria-label="{label}" {size}{space}>{style}{"".join(body)}</svg>'

    def _frame(self) -> list[str]:
        right, bottom = self.width - 14, self.height - 46
        out = [f'<text class="head" x="{min(self.left, 12)}" y="16">{escape(self.title)}</text>']
        for value, told in self.x.ticks():
            a, _ = self.place(value, self.y.low)
            out.append(f'<line class="grid" x1="{a:.1f}" y1="30" x2="{a:.1f}" y2="{bottom}"/>')
            out.append(f'<text x="{a:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(told)}</text>')
        for value, told in self.y.ticks():
            _, b = self.place(self.x.low, value)
            out.append(f'<line class="grid" x1="{self.left}" y1="{b:.1f}" x2="{right}" y2="{b:.1f}"/>')
            out.append(f'<text x="{self.left - 6}" y="{b + 4:.1f}" text-anchor="end">{escape(told)}</text>')
        out.append(f'<path class="axis" fill="none" d="M{self.left} 30V{bottom}H{right}"/>')
        out.append(f'<text class="quiet" x="{right}" y="{bottom + 34}" text-anchor="end">{escape(self.x.label)}</text>')
        if self.y.label:
            out.append(f'<text class="quiet" x="{right}" y="16" text-anchor="end">{escape(self.y.label)}</text>')
        return out

    def _legend(self) -> tuple[list[str], int]:
        """Its lines, wrapped by an estimate of the texts' widths; and the chart's whole height."""
        out, x, y = [], float(self.left), float(self.height + 4)
        for text, color, marker, hollow in self.legend:
            wide = 26 + 7.2 * len(text)
            if x + wide > self.width and x > self.left:
                x, y = float(self.left), y + 18
            out.append(f'<g class="{"h" if hollow else "f"}{color}">{_shape(x + 5, y - 4, marker)}</g>')
            out.append(f'<text x="{x + 15:.0f}" y="{y:.0f}">{escape(text)}</text>')
            x += wide
        return out, int(y + 8) if self.legend else self.height


def _shape(x: float, y: float, marker: str, r: float = 4.5) -> str:
    corners: dict[str, list[Point]] = {
        "s": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "d": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "^": [(0, -1.2), (1.2, 1), (-1.2, 1)],
        "v": [(0, 1.2), (1.2, -1), (-1.2, -1)],
        "P": [(-.4, -1.2), (.4, -1.2), (.4, -.4), (1.2, -.4), (1.2, .4), (.4, .4), (.4, 1.2), (-.4, 1.2), (-.4, .4),
              (-1.2, .4), (-1.2, -.4), (-.4, -.4)],
    }  # fmt: skip
    if marker == "x":
        a, b = r * 0.9, f"{x:.1f} {y:.1f}"
        return f'<path stroke-width="2" d="M{b}m{-a} {-a}l{2 * a} {2 * a}m0 {-2 * a}l{-2 * a} {2 * a}"/>'
    if marker in corners:
        pairs = " ".join(f"{x + r * a:.1f},{y + r * b:.1f}" for a, b in corners[marker])
        return f'<polygon points="{pairs}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'


def _alone() -> str:
    return (
        f".chart{{{theme(LIGHT)}background:#fff}}{STYLE}"
        f"@media(prefers-color-scheme:dark){{.chart{{{theme(DARK)}background:#161616}}}}"
    )


def together(charts: Sequence[Chart]) -> str:
    """Several charts above one another, as one file of its own."""
    inner: list[str] = []
    y = 0
    for chart in charts:
        text = chart.svg()
        height = int(text.split('height="')[1].split('"')[0])
        inner.append(f'<g transform="translate(0 {y})">{text}</g>')
        y += height + 10
    width = max(c.width for c in charts)
    label = escape("; ".join(c.about or c.title for c in charts), quote=True)
    return (
        f'<svg class="chart" role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width} {y}" width="{width}" height="{y}"><style>{_alone()}</style>{"".join(inner)}</svg>\n'
    )
