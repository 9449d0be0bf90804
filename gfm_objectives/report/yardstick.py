"""The yardstick's figures of finished runs as a table, and whether they predict what fine-tuning brings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gfm_objectives.gain.prediction import Correlation, correlations
from gfm_objectives.report import words
from gfm_objectives.report.tables import markdown
from gfm_objectives.runs.finished import group_runs
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.scores import Score, Store
from gfm_objectives.yardstick.probes import alarm

# figure -> title, factor, digits
COLUMNS = {
    "map_nll": ("map NLL", 1, 3),
    "sensor_nll": ("other-sensor NLL", 1, 3),
    "date_nll": ("next-date NLL", 1, 3),
    "knn": ("kNN, %", 100, 1),
    "std": ("std", 1, 3),
    "cosine": ("cosine", 1, 3),
    "rankme": ("RankMe", 1, 1),
    "token_std": ("std of tokens", 1, 3),
    "token_cosine": ("cosine of tokens", 1, 3),
    "token_rankme": ("RankMe of tokens", 1, 1),
}

HOW = (
    "Spearman's rank correlation with the mean mIoU over tasks, 95 % intervals. NLLs and losses count with their sign "
    "turned, so + means that the figure predicts. Between contenders: their means. Within: what a run is above or "
    "below its contender's mean.\n"
)
BROKEN = (
    "'broken': in the mean over its runs, a linear probe reads the map from what was pretrained no better than from "
    "the same encoder untrained, or from the statistics of its bands. Every table says so beside the name.\n"
)


def table(folders: Sequence[str]) -> str:
    """`gfm yardstick`, Markdown: a row for each contender, mean ± deviation over its seeds, then the same encoders
    untrained and the bands' statistics; a table for each set of places that runs were measured on. InputError for what
    is no run.
    """
    return _tables(
        [
            (words.contender(name), Ledger.read(Path(r.folder) / "ledger.json"))
            for name, members in group_runs(folders).items()
            for r in members
        ]
    )


def measured(folder: Path) -> str:
    """The same of the runs behind a results folder, from the ledgers it keeps; '' where none was measured."""
    return _tables([(words.contender(c), ledger) for c, members in _measured(folder).items() for ledger in members])


def broken(folder: Path) -> list[str]:
    """The contenders of a results folder that the yardstick calls broken: see BROKEN."""
    return [c for c, members in _measured(folder).items() if _is_broken(members)]


def predicts(folder: Path, fraction: float) -> str:
    """Rank correlation of each figure with the mean mIoU over tasks, between contenders and within them.

    Of ViTs that were fine-tuned whole on every task. '' where there are fewer than three contenders.
    """
    scored: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    ledgers = {}
    for score, ledger in _fine_tuned(folder):
        if score.fraction == fraction and not score.contender.startswith("unet map") and ledger.yardstick:
            scored.setdefault((score.contender, score.pretrain_run), {})[score.task, score.seed] = score.miou
            ledgers[score.pretrain_run] = ledger
    runs: dict[str, list[tuple[Ledger, float]]] = {}
    tasks = {task for mious in scored.values() for task, _ in mious}
    for (contender, run), mious in scored.items():
        if {task for task, _ in mious} == tasks:
            runs.setdefault(contender, []).append((ledgers[run], fmean(mious.values())))
    if len(runs) < 3:
        return ""
    titles = {k: title for k, (title, *_) in COLUMNS.items()} | {"loss": "pretraining loss"}
    rows = [[titles[k], *(_correlation(c) for c in pair)] for k, pair in correlations(runs).items()]
    count = sum(map(len, runs.values()))
    return markdown(["figure", f"between {len(runs)} contenders", f"within them, {count} runs"], rows)


def _measured(folder: Path) -> dict[str, list[Ledger]]:
    """Contender -> the ledgers of its runs, of those that were measured."""
    runs = {s.pretrain_run: (s.contender, ledger) for s, ledger in reversed(_fine_tuned(folder)) if ledger.yardstick}
    out: dict[str, list[Ledger]] = {}
    for contender, ledger in sorted(runs.values(), key=lambda r: r[0]):
        out.setdefault(contender, []).append(ledger)
    return out


def _correlation(c: Correlation | None) -> str:
    if c is None:
        return "-"
    return f"{c.rho:+.2f}" + (" [{:+.2f}, {:+.2f}]".format(*c.interval) if c.interval else "")


def _fine_tuned(folder: Path) -> list[tuple[Score, Ledger]]:
    """Scores of what was pretrained, each with the ledger of its run; rows that keep or train a part alone left out."""
    out = []
    for s in Store(folder).load():
        names = (s.pretrain_run, s.pretrain_run.split("@")[0])  # the latter in folders of before
        path = next((p for n in names if (p := folder / "ledgers" / f"{n}.json").exists()), None)
        part = any(s.contender.endswith(kind) for kind in (" frozen", " fresh dense", " fresh tokens"))
        if s.pretrain_run and path and not part:
            out.append((s, Ledger.read(path)))
    return out


def _tables(runs: Sequence[tuple[str, Ledger]]) -> str:
    places = dict.fromkeys(ledger.yardstick.get("places", "") for _, ledger in runs)
    return "\n".join(_of([r for r in runs if r[1].yardstick.get("places", "") == p]) for p in places)


def _of(runs: Sequence[tuple[str, Ledger]]) -> str:
    """The table of runs on the same places."""
    rows = []
    for name in dict.fromkeys(n for n, _ in runs):
        mine = [ledger for n, ledger in runs if n == name]
        cost = words.flops(fmean(ledger.flops_spent for ledger in mine))
        rows.append([name, cost, str(len(mine)), *_cells(ledger.yardstick for ledger in mine), _remark(mine)])
    untrained = {(m.encoder, sum(m.parameters.values()) - m.parameters["objective"], m.seed): m for _, m in runs}
    for key in dict.fromkeys(k[:2] for k in untrained):
        figures = [f for k, m in untrained.items() if k[:2] == key and (f := m.yardstick.get("random"))]
        rows += [[f"untrained {key[0]}", "0", str(len(figures)), *_cells(figures), ""]] if figures else []
    if bands := [f for _, m in runs if (f := m.yardstick.get("bands"))]:
        rows.append(["band statistics", "0", "-", *_cells(bands[:1]), ""])
    return markdown(["contender", "C", "seeds", *(title for title, *_ in COLUMNS.values()), "remarks"], rows)


def _cells(figures: Iterable[Mapping[str, Any]]) -> list[str]:
    """Mean ± deviation of each column; '-' where the data has no such figure, 'not run' where nothing was measured."""
    every = [f for f in figures if f]
    if not every:
        return [words.NOT_RUN] * len(COLUMNS)
    cells = []
    for key, (_, factor, digits) in COLUMNS.items():
        values = [factor * f[key] for f in every if key in f]
        deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        cells.append(f"{fmean(values):.{digits}f}{deviation}" if values else "-")
    return cells


def _remark(runs: Sequence[Ledger]) -> str:
    """'broken', see BROKEN; 'collapsed' where a run raised the alarm."""
    figures = ({k: v for k, v in m.yardstick.items() if k in COLUMNS} for m in runs if m.yardstick)
    return ", ".join(["broken"] * _is_broken(runs) + ["collapsed"] * any(alarm(f) for f in figures))


def _is_broken(runs: Sequence[Ledger]) -> bool:
    measured = [m.yardstick for m in runs if m.yardstick]
    mean = {
        who: fmean(f["map_nll"] for f in figures) if figures and all("map_nll" in f for f in figures) else math.nan
        for who, figures in (
            ("encoder", measured),
            ("random", [y.get("random", {}) for y in measured]),
            ("bands", [y.get("bands", {}) for y in measured]),
        )
    }
    return mean["encoder"] >= mean["random"] or mean["encoder"] >= mean["bands"]
