"""Where the ViT's blocks begin to pay: runs with, without, and with something else in their place, paired by Earth.

    python benchmarks/crossover.py runs/crossover/*  # adds finished runs to results/crossover.csv
    python benchmarks/crossover.py                   # docs/encoder.md's tables, docs/images/crossover.svg, from that

A run's figure is the yardstick's: held-out nats per pixel of the map, by a linear probe of the frozen features. Two
tables: blocks against none, in pairs; and what every objective makes of a budget.
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import common
import numpy as np
from omegaconf import OmegaConf

from gfm_objectives.config.values import number
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import settled
from gfm_objectives.scaling import Points, fit
from gfm_objectives.svg import Axis, Chart

FILE = common.ROOT / "results" / "crossover.csv"
PAGE, PICTURE = common.ROOT / "docs" / "encoder.md", common.ROOT / "docs" / "images" / "crossover.svg"
MARK = re.compile(r"(<!-- (crossover|budgets) -->\n).*?(<!-- end -->)", re.DOTALL)
FIELDS = (
    *"run objective encoder blocks size far flops seed samples map_nll token_rankme".split(),
    *"batch pool device".split(),
)
UNET = "U-Net"  # in the place of the whole network
Row = dict[str, str]
Cell = tuple[str, str, int, str, float]  # objective, encoder, chip, far classes in the map or not, FLOPs


def point(folder: Path) -> Row:
    """A finished run's row. KeyError where it has no yardstick."""
    ledger, cfg = Ledger.read(folder / "ledger.json"), OmegaConf.load(folder / "config.yaml")
    own = cfg.encoder
    blocks = UNET if own.get("model") == "unet" else f"{own.depth} of {own.mixer}" if own.depth else "none"
    told = ledger.yardstick or {}
    about = (folder.name, ledger.objective, ledger.encoder, blocks, cfg.data.size, cfg.data.get("map_far", False))
    figures = (number(cfg.budget.flops), ledger.seed, ledger.samples, told["map_nll"], told.get("token_rankme", ""))
    means = (ledger.batch or settled(cfg).optim.batch_size, cfg.get("pool") or "", ledger.device)
    return {k: str(v) for k, v in zip(FIELDS, (*about, *figures, *means), strict=True)}


def add(folders: Iterable[Path], file: Path = FILE) -> None:
    """Rows of these runs, in the place of former ones of the same names."""
    rows = {r["run"]: r for r in read(file)} | {f.name: point(f) for f in folders}
    with file.open("w", newline="") as f:
        writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows.values(), key=lambda r: r["run"]))


def read(file: Path = FILE) -> list[Row]:
    if not file.exists():
        return []
    with file.open(newline="") as f:
        return list(csv.DictReader(f))


def cells(rows: Iterable[Row]) -> dict[Cell, dict[str, dict[str, float]]]:
    """Cell -> blocks -> seed -> map NLL, of the cells that were run without blocks and with some."""
    found: dict[Cell, dict[str, dict[str, float]]] = {}
    for r in (r for r in rows if r["blocks"] != UNET):
        cell = (r["objective"], r["encoder"], int(r["size"]), r["far"], float(r["flops"]))
        found.setdefault(cell, {}).setdefault(r["blocks"], {})[r["seed"]] = float(r["map_nll"])
    return {c: by for c, by in sorted(found.items()) if "none" in by and len(by) > 1}


def paired(a: dict[str, float], b: dict[str, float]) -> tuple[float, float, int]:
    """Mean of a - b over the seeds of both, half its 95 % interval (nan below three), their number."""
    found = [a[s] - b[s] for s in a if s in b]
    return *common.interval(found), len(found)


def table(rows: Sequence[Row]) -> str:
    """A row for each cell and kind of blocks: the mean of both, and the difference by pairs."""
    out = []
    for (objective, encoder, size, far, flops), by in cells(rows).items():
        for blocks in (b for b in sorted(by) if b != "none"):
            gain, half, n = paired(by[blocks], by["none"])
            both = [(by[blocks][s], by["none"][s]) for s in by[blocks] if s in by["none"]]
            interval = f" [{gain - half:+.3f}, {gain + half:+.3f}]" if half == half else ""
            out.append(
                {
                    "objective": objective,
                    "encoder": encoder,
                    "chip": f"{size} px",
                    "map": "with far classes" if far == "True" else "usual",
                    "FLOPs": number(flops),
                    "blocks": blocks,
                    "Earths": n,
                    "with": f"{statistics.fmean(w for w, _ in both):.3f}",
                    "none": f"{statistics.fmean(o for _, o in both):.3f}",
                    "with less none": f"{gain:+.3f}{interval}",
                }
            )
    return common.table(out)


def budgets(rows: Sequence[Row]) -> str:
    """A row for each objective and network on usual places of 64 pixels: the mean over Earths at each budget."""
    some = [r for r in rows if r["size"] == "64" and r["far"] == "False"]
    every = sorted({float(r["flops"]) for r in some})
    found: dict[tuple[str, str], dict[float, list[Row]]] = {}
    for r in some:
        found.setdefault((r["objective"], r["blocks"]), {}).setdefault(float(r["flops"]), []).append(r)
    out = []
    for (objective, blocks), by in sorted(found.items(), key=lambda f: (f[0][0] != "supervised", f[0])):
        row = {"objective": objective, "blocks": blocks}
        out.append(row | {number(b): _figure(by.get(b, [])) for b in every} | {"exponent": _exponent(by)})
    return common.table(out)


def _exponent(by: dict[float, list[Row]]) -> str:
    """a of NLL = A / C^a by scaling.fit, an Earth's runs resampled together; '' below three budgets of all Earths."""
    rows = [r for some in by.values() for r in some]
    if len(by) < 3 or len({len(some) for some in by.values()}) > 1:
        return ""
    values = {key: np.array([float(r[key]) for r in rows]) for key in ("map_nll", "flops")}
    points = Points(values, "map_nll", np.array([int(r["seed"]) for r in rows]), {"C": "flops"})
    a = fit(points, "power").parameters()["a"]
    return f"{a.value:.3f} [{a.low:.3f}, {a.high:.3f}]"


def _figure(rows: Sequence[Row]) -> str:
    """Mean NLL, in brackets the tokens' RankMe; how many Earths, where not five."""
    if not rows:
        return "not run"
    ranks = [float(r["token_rankme"]) for r in rows if r["token_rankme"]]
    told = f"{statistics.fmean(float(r['map_nll']) for r in rows):.3f}"
    told += f" ({statistics.fmean(ranks):.0f})" if ranks else ""
    return told if len(rows) == 5 else f"{told}, {len(rows)} Earth{'s' * (len(rows) > 1)}"


def picture(rows: Sequence[Row]) -> str:
    """With blocks less none against FLOPs, a colour for each chip and map, with intervals; below 0 they pay."""
    found = cells(rows)
    attention = {c: next((b for b in by if b.endswith("attention")), None) for c, by in found.items()}
    dots = [(c, *paired(found[c][b], found[c]["none"])) for c, b in attention.items() if b]
    ends = [v for _, mean, half, _ in dots for v in (mean - half, mean + half, mean)]
    chart = Chart(
        Axis.around([c[4] for c, *_ in dots], "FLOPs of pretraining", log=True),
        Axis.around(ends, "nats per pixel, with blocks less without", zero=True),
        "Do the ViT's blocks pay? Below 0 they do",
        "Map NLL with the ViT's blocks less the same network without them, against FLOPs",
    )
    chart.line([(chart.x.low, 0.0), (chart.x.high, 0.0)], 7, "4 4", width=1)
    kinds = list(dict.fromkeys(c[:4] for c, *_ in dots))
    for (*kind, flops), mean, half, n in dots:
        color = kinds.index(tuple(kind))
        at = flops * 1.06 ** (color - (len(kinds) - 1) / 2)  # beside each other
        if half == half:
            chart.interval(mean - half, mean + half, at, color, upright=True)
        chart.dot(at, mean, color, hollow=half != half, about=f"{', '.join(map(str, kind))}: {mean:+.3f}, {n} Earths")
    named = {k: f"{k[0]}, {k[1]}, {k[2]} px{', far classes' * (k[3] == 'True')}" for k in kinds}
    chart.legend = [(name, i, "o", False) for i, name in enumerate(named.values())]
    return chart.svg(standalone=True)


def fill(text: str, rows: Sequence[Row]) -> str:
    """The page with the tables of these rows."""
    made = {"crossover": table, "budgets": budgets}
    return MARK.sub(lambda m: f"{m[1]}{made[m[2]](rows)}\n{m[3]}", text)


def main(words: Sequence[str]) -> None:
    if words:
        return add(map(Path, words))
    rows = read()
    PICTURE.write_text(picture(rows))
    PAGE.write_text(fill(PAGE.read_text(), rows))


if __name__ == "__main__":
    main(sys.argv[1:])
