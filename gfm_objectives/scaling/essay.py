"""Two figures of the published models: gain against tokens per parameter, and against FLOPs; our runs beside them.

Ours stand clearly apart: other tasks, other rivals, mostly synthetic data. `gfm published results/x` draws them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from omegaconf import DictConfig

from gfm_objectives import disk, gain
from gfm_objectives.errors import InputError
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.scaling import published
from gfm_objectives.scores import Score, Store
from gfm_objectives.svg import GREY, INK, Axis, Chart, together

SEEN, DISTINCT, OURS = 0, 1, 3  # colours
CAVEAT = "rough: costs of published models are derived, good to a factor of two to four"


@dataclass(frozen=True, slots=True)
class Own:
    """A row of ours: mean gain over the U-Net in points, n = 1, at a share of the labels."""

    name: str
    fraction: float
    gain: float
    interval: tuple[float, float] | None
    flops: float
    tokens_per_parameter: float
    tasks: int
    synthetic: bool


def own(folder: str | Path) -> list[Own]:
    """Every pretrained row of a results folder with a gain in mIoU over the U-Net and ledgers that say what it took."""
    folder = Path(folder)
    if not (folder / "gain.json").exists():
        raise InputError(f"{folder}: no gain.json in it; give a results folder, such as results/demo")
    stored = Store(folder).load()
    summary = disk.read_json(folder / "gain.json", "delete it, and gfm report writes it again", gain.KEYS)
    out = []
    for row in summary["means"]:
        known = summary["rows"][row["contender"]]
        wanted = row["against"] == "unet" and row["n"] == 1 and row["metric"] == "miou" and row["status"] == "ok"
        if not wanted or known["role"] != "pretrained" or not known["pretrain_flops"]:
            continue
        if (ratio := _tokens_per_parameter(folder, stored, row["contender"])) is None:
            continue
        bar = (100 * row["interval"][0], 100 * row["interval"][1]) if isinstance(row["interval"], list) else None
        size, synthetic = len(row["tasks"]), bool(summary["synthetic"])
        at = row["contender"], row["fraction"], 100 * row["gain"]
        out.append(Own(*at, bar, known["pretrain_flops"], ratio, size, synthetic))
    return out


def _tokens_per_parameter(folder: Path, stored: Sequence[Score], contender: str) -> float | None:
    """The mean of its runs' ledgers; masked tokens and every pass are counted."""
    runs = {s.pretrain_run for s in stored if s.contender == contender}
    files = [p for r in runs if (p := folder / "ledgers" / f"{r}.json").exists()]
    ratios = [r for f in files if (r := Ledger.read(f).tokens_per_parameter)]
    return mean(ratios) if ratios else None


def figures(rows: Sequence[Own]) -> dict[str, str]:
    """File name -> SVG: each figure has a panel for all of the labels and one for few."""
    panels = {f: [r for r in rows if (r.fraction >= 0.5) == (f == 1.0)] for f in published.FRACTIONS}
    return {
        "gain_by_tokens.svg": together([_by_tokens(f, r) for f, r in panels.items()]),
        "gain_by_flops.svg": together([_by_flops(f, r) for f, r in panels.items()]),
    }


def _by_tokens(fraction: float, rows: Sequence[Own]) -> Chart:
    """Both ways of counting tokens, a thin line from one to the other."""
    costs, found = published.costs(), published.gains(fraction)
    known = [(g, costs[g.model]) for g in found if g.model in costs]
    xs = [t / c.parameters for _, c in known for t in (c.tokens_seen, c.tokens_distinct)]
    chart = _panel(fraction, "tokens per parameter", xs + [r.tokens_per_parameter for r in rows], found, rows)
    for g, c in known:
        seen, distinct = c.tokens_seen / c.parameters, c.tokens_distinct / c.parameters
        chart.line([(distinct, g.mean), (seen, g.mean)], GREY, width=0.8)
        chart.dot(distinct, g.mean, DISTINCT, "s", True, f"{g.model}: {distinct:.2g} distinct tokens per parameter")
        chart.dot(seen, g.mean, SEEN, "o", False, f"{g.model}: {seen:.2g} tokens seen per parameter, {g.mean:+.2f}")
    _names(chart, [(c.tokens_seen / c.parameters, g.mean, g.model) for g, c in known])
    for r in rows:
        _ours(chart, r.tokens_per_parameter, r)
    chart.legend = [
        ("published, every pass counted", SEEN, "o", False),
        ("published, distinct patches", DISTINCT, "s", True),
    ]
    chart.legend += _legend_of(rows)
    return chart


def _by_flops(fraction: float, rows: Sequence[Own]) -> Chart:
    costs, found = published.costs(), published.gains(fraction)
    known = [(g, costs[g.model]) for g in found if g.model in costs]
    chart = _panel(fraction, "pretraining FLOPs", [c.flops for _, c in known] + [r.flops for r in rows], found, rows)
    for g, c in known:
        chart.dot(c.flops, g.mean, SEEN, "o", False, f"{g.model}: about {c.flops:.1e} FLOPs, {g.mean:+.2f}")
    _names(chart, [(c.flops, g.mean, g.model) for g, c in known])
    for r in rows:
        _ours(chart, r.flops, r)
    chart.legend = [("published, FLOPs derived", SEEN, "o", False), *_legend_of(rows)]
    return chart


def _panel(
    fraction: float, label: str, xs: list[float], found: Sequence[published.Gains], rows: Sequence[Own]
) -> Chart:
    drawn = [g.mean for g in found if g.model in published.costs()]
    ends = [e for r in rows for e in (r.interval or (r.gain,))]
    share = "all labels" if fraction == 1.0 else f"{100 * fraction:.0f} % of the labels"
    title = f"PANGAEA, {share}: mean gain over the U-Net"
    chart = Chart(
        Axis.around(xs, label, log=True),
        Axis.around([*drawn, *ends], "points of mIoU", zero=True),
        title,
        f"{title}, against {label}; {CAVEAT}",
        width=760,
        height=400,
    )
    chart.line([(chart.x.low, 0), (chart.x.high, 0)], GREY, "3 3", 1.2)
    return chart


def _names(chart: Chart, dots: Sequence[tuple[float, float, str]]) -> None:
    """Names beside dots, to the left near the right edge; each below the one above it where they would meet."""
    placed: list[tuple[float, float]] = []
    for x, y, name in sorted(dots, key=lambda d: -d[1]):
        a, b = chart.place(x, y)
        at = b + 4
        while any(abs(a - c) < 7 * len(name) and abs(at - d) < 12 for c, d in placed):
            at += 1
        placed.append((a, at))
        left = a + 9 * len(name) > chart.width
        chart.text(x, y, name, INK, "end" if left else "start", at - b - (12 if left else 0), 0 if left else 9)


def _ours(chart: Chart, x: float, r: Own) -> None:
    if r.interval:
        chart.interval(*r.interval, x, OURS, upright=True)
    told = f"ours, {r.name}: {r.gain:+.1f} in the mean of {r.tasks} tasks with {100 * r.fraction:.3g} % of the labels"
    chart.dot(x, r.gain, OURS, "d", True, told)


def _legend_of(rows: Sequence[Own]) -> list[tuple[str, int, str, bool]]:
    shares = ", ".join(f"{100 * f:.3g} %" for f in sorted({r.fraction for r in rows}))
    kind = (
        "synthetic"
        if all(r.synthetic for r in rows)
        else "synthetic and real"
        if any(r.synthetic for r in rows)
        else "real"
    )
    return [(f"ours: other tasks ({kind}), {shares} of their labels", OURS, "d", True)] if rows else []


def run(cfg: DictConfig) -> list[Path]:
    """`gfm published`: print the facts, draw the figures; returns the files."""
    rows = [r for folder in cfg.results for r in own(folder)]
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in figures(rows).items():
        files.append(out / name)
        disk.write(files[-1], text)
    unknown = sorted({g.model for f in published.FRACTIONS for g in published.gains(f)} - published.costs().keys())
    print("\n".join(published.facts()))
    print(
        f"Not drawn, cost not public: {', '.join(m for m in unknown if m != published.SCRATCH)}. {CAVEAT.capitalize()}."
    )
    print(", ".join(map(str, files)))
    disk.write(out / "gain_by_compute.json", json.dumps(_table(rows), indent=1) + "\n")
    return files


def _table(rows: Sequence[Own]) -> list[dict[str, object]]:
    """What the figures show, as numbers."""
    costs = published.costs()
    out: list[dict[str, object]] = []
    for f in published.FRACTIONS:
        for g in published.gains(f):
            if g.model in costs:
                c = costs[g.model]
                out.append({"model": g.model, "fraction": f, "gain": round(g.mean, 2), "flops": c.flops,
                            "tokens_seen_per_parameter": c.tokens_seen / c.parameters,
                            "tokens_distinct_per_parameter": c.tokens_distinct / c.parameters,
                            "confirmed": g.confirmed and c.confirmed, "source": c.source})  # fmt: skip
    for r in rows:
        out.append({"model": f"ours, {r.name}", "fraction": r.fraction, "gain": round(r.gain, 2), "flops": r.flops,
                    "tokens_seen_per_parameter": r.tokens_per_parameter, "other_tasks": r.tasks})  # fmt: skip
    return out
