"""The report's tables in Markdown, from a summary alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gfm_objectives.report import words

Summary = Mapping[str, Any]
AGAINST = ("headline", "unet", "scratch")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def find(rows: Sequence[Mapping[str, Any]], **wanted: Any) -> Mapping[str, Any] | None:
    """The first row with these values."""
    return next((r for r in rows if all(r[k] == v for k, v in wanted.items())), None)


def name(summary: Summary, contender: str) -> str:
    """The name a reader sees, with the yardstick's verdict where it says 'broken'."""
    return words.contender(contender) + (" (broken)" if contender in summary.get("broken", ()) else "")


def scores(summary: Summary) -> str:
    """Table 1: mIoU of every contender per task and label fraction, of those asked for and not run too."""
    columns = [(t, f) for t in summary["tasks"] for f in summary["fractions"]]
    rows = []
    for c in (*summary["contenders"], *summary.get("not_run", ())):
        cells = [find(summary["miou"], task=t, fraction=f, contender=c) for t, f in columns]
        rows.append([name(summary, c), *(words.plus_minus(r) if r else words.NOT_RUN for r in cells)])
    return markdown(["contender", *(f"{t}, {words.percent(f)}" for t, f in columns)], rows)


def headline(summary: Summary, fraction: float) -> str:
    """The table a page shows: mIoU per task, and mean gains over the headline U-Net (n = 1 and the suite's size), the
    U-Net at F, and scratch."""
    shares = dict.fromkeys([1, summary["suite_size"]])
    rivals = [("headline", n) for n in shares] + [(a, 1) for a in AGAINST if a != "headline"]
    rows = []
    for c in summary["contenders"]:
        at = {"contender": c, "fraction": fraction}
        cells = [find(summary["miou"], task=t, **at) for t in summary["tasks"]]
        means = [find(summary["means"], against=a, n=n, **at) for a, n in rivals] if c in summary["pretrained"] else []
        gains = [_mean(m, len(summary["tasks"]))[0] for m in means if m] or [""] * len(rivals)
        rows.append([name(summary, c), *(words.points(r["miou"] if r else None) for r in cells), *gains])
    tail = [f"over the {words.opponent(a, n)}" for a, n in rivals]
    return markdown([f"{words.percent(fraction)} of the labels", *summary["tasks"], *tail], rows)


def change(summary: Summary, tasks: Sequence[str]) -> str:
    """F1 of the last class, change, in points: what the field prints for change detection."""
    columns = [(t, f) for t in tasks for f in summary["fractions"]]
    rows = []
    for c in summary["contenders"]:
        cells = [find(summary["miou"], task=t, fraction=f, contender=c) for t, f in columns]
        rows.append([name(summary, c), *(words.points(r["f1"][-1] if r and r["f1"] else None) for r in cells)])
    return markdown(["contender", *(f"{t}, {words.percent(f)}" for t, f in columns)], rows)


def gain_rows(summary: Summary, fraction: float) -> list[tuple[str, str, int]]:
    """(contender, against, n) in the order shown: n = 1 first, then the suite's size, then other n, then the rest."""
    size = summary["suite_size"]
    seen = [(m["contender"], m["against"], m["n"]) for m in summary["means"] if m["fraction"] == fraction]
    order = {n: i for i, n in enumerate(dict.fromkeys([1, size]))}
    return sorted(
        seen, key=lambda r: (AGAINST.index(r[1]), order.get(r[2], 2 + r[2]), summary["contenders"].index(r[0]))
    )


def gains(summary: Summary, fraction: float) -> str:
    """Table 2 for one label fraction: gains with intervals per task, their mean, and wins, losses and ties."""
    body = []
    for c, against, n in gain_rows(summary, fraction):
        at = {"contender": c, "fraction": fraction, "against": against, "n": n}
        cells = []
        for t in summary["tasks"]:
            row = find(summary["gains"], task=t, **at)
            assert row is not None, (t, at)
            mark = " †" if against == "headline" and row["versus"] not in (None, "unet") else ""
            text = words.gain(row) + mark
            cells.append(f"**{text}**" if row["verdict"] in ("win", "loss") else text)
        mean = find(summary["means"], **at)
        assert mean is not None, at
        body.append([name(summary, c), words.opponent(against, n), *cells, *_mean(mean, len(summary["tasks"]))])
    tail = ["mean of tasks", "W / L / T", "median", "mean without best and worst", "points per EFLOP"]
    return markdown(["contender", "against", *summary["tasks"], *tail], body)


def _mean(mean: Mapping[str, Any], tasks: int) -> list[str]:
    if mean["status"] != "ok":
        return [words.NOT_RUN, *["-"] * 4]
    text = words.gain(mean) + (f" ({len(mean['tasks'])} of {tasks} tasks)" if mean["missing"] else "")
    trimmed = "-" if mean["trimmed"] is None else words.points(mean["trimmed"], signed=True)
    rate = (
        "-" if mean["per_eflop"] is None else f"{100 * mean['per_eflop']:+.1e}".replace("e+0", "e").replace("e+", "e")
    )
    bold = f"**{text}**" if mean["verdict"] in ("win", "loss") else text
    return [bold, words.record(mean), words.points(mean["median"], signed=True), trimmed, rate]


def break_even(summary: Summary) -> str:
    """The smallest number of tasks the pretraining must be shared by before it pays."""
    columns = [*summary["tasks"], "mean"]
    rows = []
    for c in summary["pretrained"]:
        for f in summary["fractions"]:
            cells = []
            for t in columns:
                row = find(summary["break_even"], contender=c, fraction=f, task=t)
                assert row is not None, (c, f, t)
                cells.append(f"{row['n']}{' (' + row['verdict'] + ')' if row['verdict'] else ''}")
            rows.append([name(summary, c), words.percent(f), *cells])
    return markdown(["contender", "labels", *columns], rows)


def labels_saved(summary: Summary) -> str:
    """What the plain U-Net would need to reach each contender's mIoU."""
    rows = []
    for r in summary["labels_saved"]:
        needed = {
            "ok": words.count(r["needed"]),
            "more than measured": f"more than {r['needed']}",
            "fewer than measured": f"fewer than {r['needed']}",
        }[r["status"]]
        saved = "-" if r["saved"] is None else f"{r['saved']:+.0f}"
        rows.append([name(summary, r["contender"]), r["task"], str(r["labels"]), needed, saved])
    return markdown(["contender", "task", "labels used", "labels the U-Net needs", "saved"], rows)


def resources(summary: Summary) -> str:
    """Table 3: the means of every contender, averaged over its runs."""
    columns = {
        "pretrain_flops": ("pretraining FLOPs", words.flops),
        "tuning_flops": ("tuning FLOPs", words.flops),
        "finetune_flops": ("fine-tuning FLOPs", words.flops),
        "trainable_parameters": ("trainable parameters", words.count),
        "peak_memory_mib": ("peak memory, MiB", words.count),
        "seconds": ("seconds", words.count),
        "inference_flops": ("inference FLOPs per tile", words.flops),
    }
    rows = [
        [name(summary, r["contender"]), str(r["runs"]), *(show(r[k]) for k, (_, show) in columns.items())]
        for r in summary["resources"]
    ]
    return markdown(["contender", "runs", *(title for title, _ in columns.values())], rows)


def plateau(curve: Sequence[Mapping[str, Any]]) -> str:
    """Validation mIoU of the tuned U-Net at each fine-tuning budget tried."""
    budgets = sorted({r["flops"] for r in curve})
    rows = []
    for task, fraction in dict.fromkeys((r["task"], r["fraction"]) for r in curve):
        at = {r["flops"]: r["val_miou"] for r in curve if (r["task"], r["fraction"]) == (task, fraction)}
        chosen = next((r["flops"] for r in curve if r["task"] == task and r.get("chosen")), None)
        rising = " (the limit set: no plateau seen)" if chosen == max(at) else ""
        found = f"{words.flops(chosen)}{rising}" if chosen else "-"
        points = (words.points(at[b]) if b in at else "-" for b in budgets)
        rows.append([f"{task}, {words.percent(fraction)}", *points, found])
    return markdown(["task, labels", *(words.flops(b) for b in budgets), "F"], rows)
