"""The yardstick's figures of finished runs as a table, and whether they predict what fine-tuning brings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gfm_objectives.gain.prediction import Correlation, correlations
from gfm_objectives.metrics import METRICS
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

NLLS = {"map_nll": "map", "sensor_nll": "other sensor", "date_nll": "next date"}

HOW = (
    "Spearman's rank correlation with the mean score over tasks, 95 % intervals. NLLs and losses count with their sign "
    "turned, so + means that the figure predicts. Between contenders: their means, from five contenders on. Within: "
    "what a run is above or below its contender's mean.\n"
)


def table(folders: Sequence[str]) -> str:
    """`gfm yardstick`, Markdown: a row for each contender, mean ± deviation over its seeds, then the same encoders
    untrained and the bands' statistics; a table for each set of places that runs were measured on. InputError for what
    is no run.
    """
    return _tables(
        {
            name: [Ledger.read(Path(r.folder) / "ledger.json") for r in members]
            for name, members in group_runs(folders).items()
        }
    )


def measured(folder: Path) -> str:
    """The same of the runs behind a results folder, from the ledgers it keeps; '' where none was measured."""
    runs = {s.pretrain_run: (s.contender, ledger) for s, ledger in reversed(_fine_tuned(folder)) if ledger.yardstick}
    out: dict[str, list[Ledger]] = {}
    for contender, ledger in sorted(runs.values(), key=lambda r: r[0]):
        out.setdefault(contender, []).append(ledger)
    return _tables(out)


def predicts(folder: Path, fraction: float) -> str:
    """Rank correlation of each figure with the mean score over tasks, between contenders and within them.

    Of encoders that were fine-tuned whole on every task of the commonest metric. '' for fewer than three contenders.
    """
    scored: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    ledgers = {}
    found = [
        (s, m) for s, m in _fine_tuned(folder) if s.fraction == fraction and s.role == "pretrained" and m.yardstick
    ]
    metrics = [s.metric for s, _ in found]
    for score, ledger in found:
        if score.metric == max(metrics, key=metrics.count):
            value = METRICS[score.metric].better * score.value
            scored.setdefault((score.contender, score.pretrain_run), {})[score.task, score.seed] = value
            ledgers[score.pretrain_run] = ledger
    runs: dict[str, list[tuple[Ledger, float]]] = {}
    tasks = {task for values in scored.values() for task, _ in values}
    for (contender, run), values in scored.items():
        if {task for task, _ in values} == tasks:
            runs.setdefault(contender, []).append((ledgers[run], fmean(values.values())))
    if len(runs) < 3:
        return ""
    titles = {k: title for k, (title, *_) in COLUMNS.items()} | {"loss": "pretraining loss"}
    rows = [[titles[k], *(_correlation(c) for c in pair)] for k, pair in correlations(runs).items()]
    count = sum(map(len, runs.values()))
    return markdown(["figure", f"between {len(runs)} contenders", f"within them, {count} runs"], rows)


def _correlation(c: Correlation | None) -> str:
    if c is None:
        return "-"
    return f"{c.rho:+.2f}" + (" [{:+.2f}, {:+.2f}]".format(*c.interval) if c.interval else "")


def _fine_tuned(folder: Path) -> list[tuple[Score, Ledger]]:
    """Scores of what was pretrained and fine-tuned whole, each with the ledger of its run."""
    out = []
    for s in Store(folder).load():
        path = folder / "ledgers" / f"{s.pretrain_run}.json"
        if s.pretrain_run and s.kind in ("pretrained", "unet_map", "conv_map") and path.exists():
            out.append((s, Ledger.read(path)))
    return out


def _tables(runs: Mapping[str, Sequence[Ledger]]) -> str:
    """A table for each group of contenders that share places; on synthetic data every seed has places of its own."""
    left = {name: {m.yardstick.get("places", "") for m in members} for name, members in runs.items()}
    parts = []
    while left:
        places = next(iter(left.values()))
        while grown := {p for own in left.values() if own & places for p in own} - places:
            places = places | grown
        mine = [name for name, own in left.items() if own & places]
        parts.append(_of({name: runs[name] for name in mine}))
        left = {name: own for name, own in left.items() if name not in mine}
    return "\n".join(parts)


def _of(runs: Mapping[str, Sequence[Ledger]]) -> str:
    rows = []
    for name, mine in runs.items():
        cost = words.flops(fmean(m.flops_spent for m in mine))
        rows.append([name, cost, str(len(mine)), *_cells(m.yardstick for m in mine), _remark(mine)])
    every = [m for members in runs.values() for m in members]
    untrained = {(m.encoder, sum(m.parameters.values()) - m.parameters.get("objective", 0), m.seed): m for m in every}
    for key in dict.fromkeys(k[:2] for k in untrained):
        figures = [f for k, m in untrained.items() if k[:2] == key and (f := m.yardstick.get("random"))]
        rows += [[f"untrained {key[0]}", "0", str(len(figures)), *_cells(figures), ""]] if figures else []
    bands = {m.yardstick.get("places", ""): f for m in every if (f := m.yardstick.get("bands"))}
    if bands:
        rows.append(["band statistics", "0", "-", *_cells(bands.values()), ""])
    heads = ["contender", "C", "seeds", *(title for title, *_ in COLUMNS.values()), "what it does not know"]
    return markdown(heads, rows)


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
    """Of which of the three it tells, in the mean of its runs, no more than the same encoder untrained or its bands'
    statistics; and 'collapsed' where a run raised the alarm."""
    figures = [m.yardstick for m in runs if m.yardstick]
    parts = []
    for rival, title in (("random", "untrained"), ("bands", "its bands")):
        worse = [NLLS[k] for k in NLLS if _no_better(figures, k, rival)]
        parts += [f"no more than {title} of: {', '.join(worse)}"] if worse else []
    kept = ({k: v for k, v in f.items() if k in COLUMNS} for f in figures)
    return "; ".join(parts + ["collapsed"] * any(alarm(f) for f in kept))


def _no_better(figures: Sequence[Mapping[str, Any]], key: str, rival: str) -> bool:
    theirs = [f.get(rival, {}) for f in figures]
    if not figures or not all(key in f for f in (*figures, *theirs)):
        return False
    return fmean(f[key] for f in figures) >= fmean(f[key] for f in theirs)
