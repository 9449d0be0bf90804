"""The report in words: which knowledge pays, the map or the pretraining, and the best row, whoever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gfm_objectives.report import tables, words

ROLES = {
    "pretrained": "pretrained",
    "saw_map": "that saw the map",
    "scratch": "from scratch",
    "untrained": "without training",
    "part": "with a part of the encoder",
}


def is_gain(context: Mapping[str, Any], fraction: float | None = None) -> bool:
    """Whether every rival had plateaued at F: else the tables compare speed of optimisation."""
    budgets = [b for b in context.get("budgets", ()) if fraction in (None, b["fraction"])]
    return bool(budgets) and all(b["plateau"] for b in budgets)


def what(context: Mapping[str, Any], fraction: float | None = None) -> str:
    return "gain" if is_gain(context, fraction) else "speed"


def in_short(summary: tables.Summary, context: Mapping[str, Any]) -> str:
    """A paragraph for each label fraction and metric: best row, which knowledge pays, and every encoder's mean."""
    return "\n".join(of_fraction(summary, context, f) for f in summary["fractions"])


def of_fraction(summary: tables.Summary, context: Mapping[str, Any], fraction: float) -> str:
    lines = [line for metric in tables.metrics(summary) for line in _fraction(summary, context, fraction, metric)]
    return "\n".join(lines) + "\n"


def _fraction(summary: tables.Summary, context: Mapping[str, Any], fraction: float, metric: str) -> list[str]:
    scale = tables.scale_of(summary, metric)
    title = next(m["title"] for m in summary["metrics"].values() if m["metric"] == metric)
    found = tables.find(summary["knowledge"], fraction=fraction, metric=metric, task="mean")
    if not found or not found["best"]:
        return [f"**{words.percent(fraction)} of the labels** ({title}): no row has run every task.\n"]
    best = found["best"]
    by_role = {k: v for k, v in found["by_role"].items() if v}
    others = [
        f"best {ROLES[k]}: {v['contender']} {words.value(v['value'], scale)}"
        for k, v in by_role.items()
        if v["contender"] != best["contender"]
    ]
    lead = (
        f"**{words.percent(fraction)} of the labels** ({title}, mean of tasks, {what(context, fraction)}): the best "
        f"row is **{best['contender']}** ({ROLES[best['role']]}), {words.value(best['value'], scale)}. "
        f"{'Then ' if others else ''}{'; '.join(others)}{'. ' if others else ''}"
        f"{which_pays(by_role, scale)}\n"
    )
    return [lead, *_encoders(summary, fraction, metric, scale), ""]


def which_pays(by_role: Mapping[str, Mapping[str, Any]], scale: float) -> str:
    """What the map adds to the best from scratch, and what pretraining adds to that; by point estimates."""
    if not {"pretrained", "saw_map", "scratch"} <= by_role.keys():
        absent = [ROLES[k] for k in ("pretrained", "saw_map", "scratch") if k not in by_role]
        return f"Which knowledge pays cannot be told: no row {' and none '.join(absent)}."
    map_, ours, scratch = (by_role[k]["value"] for k in ("saw_map", "pretrained", "scratch"))
    by_map, beyond = map_ - scratch, ours - max(map_, scratch)
    who = [by_role[k]["contender"] for k in ("saw_map", "scratch", "pretrained")]
    gains = [words.value(x, scale, signed=True) for x in (by_map, beyond)]
    return (
        f"By test, point estimates: seeing the map ({who[0]}) is worth {gains[0]} over what is from scratch "
        f"({who[1]}); the best pretrained ({who[2]}) adds {gains[1]} to the better of the two."
    )


def _encoders(summary: tables.Summary, fraction: float, metric: str, scale: float) -> list[str]:
    out = []
    for c in (c for c in summary["contenders"] if summary["rows"][c]["role"] == "pretrained"):
        parts = []
        for against in ("best", "unet", "map"):
            at = {"contender": c, "fraction": fraction, "metric": metric, "against": against, "n": 1}
            mean = tables.find(summary["means"], **at)
            if mean and mean["status"] == "ok":
                told = words.bold(words.gain(mean, scale), mean["verdict"])
                parts.append(f"{told} over the {words.opponent(against, 1)}")
        even = tables.find(
            summary["break_even"], contender=c, fraction=fraction, metric=metric, against="best", task="mean"
        )
        if parts:
            tail = f"; break-even n over the best from scratch: {even['n']}" if even else ""
            out.append(f"- {c}: {'; '.join(parts)}{tail}")
        else:
            out.append(f"- {c}: gains not run")
    return out


def short_of_an_epoch(summary: tables.Summary) -> Sequence[str]:
    """Cells whose F paid, in the mean of their seeds, for less than one pass over the labelled places."""
    cells = [r for r in summary["scores"] if r["status"] == "ok" and r["epochs"] and r["epochs"] < 1]
    return [f"{r['contender']} ({r['task']}, {words.percent(r['fraction'])})" for r in cells]
