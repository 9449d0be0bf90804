"""The answer in words: whether pretraining pays, on how many tasks, with how many labels, and what to use elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gfm_objectives.report import verdict, words
from gfm_objectives.report.html.parts import pretrained
from gfm_objectives.report.tables import find, metrics

Summary = Mapping[str, Any]


def chosen(summary: Summary, fraction: float) -> str | None:
    """The pretrained row that validation prefers in the mean of tasks, among those that have run them all; if any of
    these has a rival from scratch that was given what its pretraining cost, among such."""
    ran = _by_validation(summary, fraction)
    return next((c for c in ran if _judged(summary, fraction, c)), ran[0] if ran else None)


def _judged(summary: Summary, fraction: float, contender: str) -> list[Mapping[str, Any]]:
    """Its gains over the best rival from scratch with as many FLOPs, n = 1."""
    at = {"contender": contender, "fraction": fraction, "against": "best", "n": 1}
    rows = [find(summary["gains"], task=t, **at) for t in summary["tasks"]]
    return [r for r in rows if r and r["status"] == "ok"]


def _by_validation(summary: Summary, fraction: float) -> list[str]:
    """The pretrained rows that have run every task, what validation prefers first."""
    found: list[tuple[float, str]] = []
    for c in pretrained(summary):
        rows = [find(summary["scores"], task=t, fraction=fraction, contender=c) for t in summary["tasks"]]
        values = [
            summary["metrics"][r["task"]]["better"] * r["val"]
            for r in rows
            if r and r["status"] == "ok" and r["val"] is not None
        ]
        if len(values) == len(summary["tasks"]):
            found.append((sum(values), c))
    return [c for _, c in sorted(found, key=lambda f: -f[0])]


def headline(summary: Summary) -> str:
    """One sentence for whoever has a minute."""
    size = len(summary["tasks"])
    if not pretrained(summary):
        return "Nothing pretrained was compared, so whether pretraining pays is not told here."
    found = {f: _by_task(summary, f) for f in summary["fractions"]}
    if not any(found.values()):
        if any(chosen(summary, f) for f in summary["fractions"]):
            return "No rival from scratch was given what pretraining cost, so whether it pays is not told here."
        return "No pretrained row has run every task yet, so whether pretraining pays cannot be told."
    if all(v not in ("win", "loss", "tie") for rows in found.values() for v in rows.values()):
        low, high = summary["seeds"]
        return f"Not told yet: {words.seeds(low, high)} give no interval; five do."
    wins = {f: [t for t, v in rows.items() if v == "win"] for f, rows in found.items()}
    best = max(wins, key=lambda f: (len(wins[f]), -f))
    ours, rival = chosen(summary, best), _rival(summary, best)
    if not wins[best]:
        where = f"on {summary['tasks'][0]}" if size == 1 else f"on none of {size} tasks"
        verb = "is not" if size == 1 else "is"
        return (
            f"No: {where} the pretrained encoder that validation prefers ({ours}) {verb} above the best rival from "
            f"scratch by more than its interval. Use {rival}.{_unjudged(summary, best)}"
        )
    tasks = f"{len(wins[best])} of {size} task{'s' * (size != 1)}"
    labels = _labels(summary, best, wins[best])
    return (
        f"On {tasks}, with {labels}: yes ({', '.join(wins[best])}; {ours}); else use {rival}.{_unjudged(summary, best)}"
    )


def _unjudged(summary: Summary, fraction: float) -> str:
    """The pretrained rows of which the answer says nothing."""
    alone = [c for c in _by_validation(summary, fraction) if not _judged(summary, fraction, c)]
    return f" Not judged, for want of a rival with as many FLOPs: {', '.join(alone)}." if alone else ""


def _by_task(summary: Summary, fraction: float) -> dict[str, str]:
    """Task -> verdict of validation's choice over the best rival from scratch, n = 1."""
    contender = chosen(summary, fraction)
    if contender is None:
        return {}
    return {r["task"]: r["verdict"] for r in _judged(summary, fraction, contender)}


def _labels(summary: Summary, fraction: float, tasks: list[str]) -> str:
    """'20 labels', '20 to 100 labels' of these tasks at a share."""
    counts = sorted({n for t in tasks if (n := summary["labels"][t].get(str(fraction)))})
    share = f"{words.percent(fraction)} of the labels"
    if not counts:
        return share
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{span} labelled places ({share})"


def _rival(summary: Summary, fraction: float) -> str:
    """Who stands for the best from scratch on most tasks."""
    named = [
        g["versus"]
        for g in summary["gains"]
        if g["fraction"] == fraction and g["against"] == "best" and g["n"] == 1 and g["status"] == "ok" and g["versus"]
    ]
    return f"the {max(named, key=named.count)}" if named else "what is from scratch"


def caveats(summary: Summary, context: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """What a sceptic asks first: (whether all is well, the sentence)."""
    low, _ = summary["seeds"]
    short = verdict.short_of_an_epoch(summary)
    gain = verdict.is_gain(context)
    out = [
        (gain, "The rivals from scratch had stopped to gain at the fine-tuning budget F." if gain else
         "F lies below the plateau of the rivals from scratch, or it was not looked for: this compares speed."),
        (low >= 5, f"{low} seeds in the cell with fewest{'' if low >= 5 else ': no intervals there'}."),
        (not short, "F pays for an epoch of the labelled places everywhere." if not short else
         f"F pays for less than one epoch in {len(short)} cells."),
    ]  # fmt: skip
    if summary["synthetic"]:
        out.append((False, f"Synthetic data ({', '.join(summary['synthetic'])}): no statement about real imagery."))
    trained = [r for r in summary["rows"].values() if r["pretrain_flops"]]
    if trained:
        own = all(r["pretrain_runs"] >= low for r in trained)
        told = "Every seed has a pretraining run of its own." if own else "Seeds share pretraining runs."
        out.append((own, told))
    for f in summary["fractions"]:
        for metric in metrics(summary):
            if line := _map_first(summary, f, metric):
                out.append((False, line))
    out.append(_leakage(summary))
    return out


def _leakage(summary: Summary) -> tuple[bool, str]:
    """Whether test tiles show ground that was learned from, as far as the column of shared ground tells."""
    ground = summary.get("ground", {})
    shares = {t: [g["training"], *g["pretraining"].values()] for t, g in ground.items()}
    if not shares:
        return True, "Places of pretraining, training and test lie in regions of the synthetic Earth that do not meet."
    unknown = [t for t, told in shares.items() if None in told]
    worst = max((s for told in shares.values() for s in told if s is not None), default=0.0)
    if worst > 0:
        return (
            False,
            f"Up to {words.percent(worst)} of a task's test tiles show ground that was learned from: see Scores.",
        )
    if unknown:
        return False, f"Whether test tiles show ground that was learned from is not known of {', '.join(unknown)}."
    return True, "No test tile shows ground that was learned from."


def _map_first(summary: Summary, fraction: float, metric: str) -> str | None:
    """Whether a row that reads the map is better than every encoder."""
    found = find(summary["knowledge"], fraction=fraction, metric=metric, task="mean")
    roles = found["by_role"] if found else {}
    map_, ours = roles.get("saw_map"), roles.get("pretrained")
    better = next(m["better"] for m in summary["metrics"].values() if m["metric"] == metric)
    if not map_ or not ours or better * map_["value"] <= better * ours["value"]:
        return None
    return (
        f"With {words.percent(fraction)} of the labels {map_['contender']}, which saw the map, is better than every "
        "pretrained row: whoever has the map should use it."
    )
