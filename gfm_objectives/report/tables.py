"""The report's tables in Markdown, from a summary alone (its keys: gain/summary.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gfm_objectives.gain.pairing import AGAINST, GAINERS
from gfm_objectives.metrics import METRICS
from gfm_objectives.report import words

Summary = Mapping[str, Any]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def find(rows: Iterable[Mapping[str, Any]], **wanted: Any) -> Mapping[str, Any] | None:
    """The first row with these values."""
    return next((r for r in rows if all(r[k] == v for k, v in wanted.items())), None)


def scale_of(summary: Summary, metric: str) -> float:
    """100 where the metric is printed in points."""
    return next(m["scale"] for m in summary["metrics"].values() if m["metric"] == metric)


def metrics(summary: Summary) -> list[str]:
    """The metrics of the tasks, each once."""
    return list(dict.fromkeys(m["metric"] for m in summary["metrics"].values()))


def gainers(summary: Summary) -> list[str]:
    """The rows whose gains are told: what knows more than the labels."""
    return [c for c in summary["contenders"] if summary["rows"][c]["role"] in GAINERS]


def titles(summary: Summary) -> list[str]:
    """Column heads: the task, and its metric where the suite has several."""
    several = len(metrics(summary)) > 1
    return [f"{t} ({summary['metrics'][t]['title']})" if several else t for t in summary["tasks"]]


def scores(summary: Summary) -> str:
    """The metric of every contender per task and label fraction, of those asked for and not run too; beside the scores
    of a real task the ground that its test tiles share with what was learned from."""
    ground = summary.get("ground", {})
    heads = dict(zip(summary["tasks"], titles(summary), strict=True))
    rows = []
    for c in (*summary["contenders"], *summary.get("not_run", ())):
        cells = []
        for t in summary["tasks"]:
            for f in summary["fractions"]:
                row = find(summary["scores"], task=t, fraction=f, contender=c)
                cells.append(words.plus_minus(row, summary["metrics"][t]["scale"]) if row else words.NOT_RUN)
            cells += [words.ground(summary, t, c)] if t in ground else []
        rows.append([c, *cells])
    titled = {t: [f"{heads[t]}, {words.percent(f)}" for f in summary["fractions"]] for t in summary["tasks"]}
    titled |= {t: [*titled[t], f"{t}, shared ground"] for t in ground}
    return markdown(["contender", *(title for t in summary["tasks"] for title in titled[t])], rows)


def headline(summary: Summary, fraction: float) -> str:
    """The table a page shows: the metric per task, then mean gains over the best rival from scratch and the U-Net
    (n = 1 and the suite's size), the same network from scratch, and the best that saw the map."""
    shares = list(dict.fromkeys([1, summary["suite_size"]]))
    rivals = [(a, n) for a in ("best", "unet") for n in shares] + [("same", 1), ("map", 1)]
    rivals = [r for r in rivals if find(summary["means"], against=r[0], n=r[1], fraction=fraction, status="ok")]
    rows = []
    for c in summary["contenders"]:
        at = {"contender": c, "fraction": fraction}
        cells = []
        for t in summary["tasks"]:
            row = find(summary["scores"], task=t, **at)
            cells.append(words.value(row["value"] if row else None, summary["metrics"][t]["scale"]))
        means = [_means(summary, against=a, n=n, **at) if c in gainers(summary) else "" for a, n in rivals]
        rows.append([c, *cells, *means])
    tail = [f"over the {words.opponent(a, n)}" for a, n in rivals]
    return markdown([f"{words.percent(fraction)} of the labels", *titles(summary), *tail], rows)


def curve(summary: Summary) -> str:
    """The label curve: the mean over tasks of every contender, and the gain over the best rival from scratch (n = 1),
    at every fraction."""
    fractions, size = summary["fractions"], len(summary["tasks"])
    rows = []
    for c in summary["contenders"]:
        values = []
        for f in fractions:
            found = [find(summary["scores"], task=t, fraction=f, contender=c) for t in summary["tasks"]]
            done = [r["value"] for r in found if r and r["status"] == "ok"]
            whole = len(done) == size and len(metrics(summary)) == 1
            values.append(words.value(sum(done) / size, scale_of(summary, metrics(summary)[0])) if whole else "-")
        own = c in gainers(summary)
        gains = [_means(summary, contender=c, fraction=f, against="best", n=1) if own else "" for f in fractions]
        rows.append([c, *values, *gains])
    head = [f"mean, {words.percent(f)}" for f in fractions]
    return markdown(["contender", *head, *(f"gain, {words.percent(f)}" for f in fractions)], rows)


def classes(summary: Summary, task: str, names: Sequence[str] | None, figure: str) -> str:
    """IoU or F1 of every class of a task, points, mean over seeds."""
    rows = []
    for f in summary["fractions"]:
        for c in summary["contenders"]:
            row = find(summary["scores"], task=task, fraction=f, contender=c)
            if row and row["status"] == "ok" and row["classes"]:
                values = row["classes"][figure]
                cells = ["-" if v is None else words.value(v) for v in values]
                rows.append([c, words.percent(f), *cells])
    if not rows:
        return ""
    heads = list(names or [f"class {k}" for k in range(len(rows[0]) - 2)])
    return markdown([f"{task}, {figure}", "labels", *heads], rows)


def figures(summary: Summary, task: str) -> str:
    """Every figure that a task's statistics give, mean over seeds."""
    rows, names = [], {}
    for f in summary["fractions"]:
        for c in summary["contenders"]:
            row = find(summary["scores"], task=task, fraction=f, contender=c)
            if row and row["status"] == "ok":
                names = {n: METRICS[n] for n in row["figures"]}
                rows.append([c, words.percent(f), *(words.value(row["figures"][n], m.scale) for n, m in names.items())])
    return markdown([task, "labels", *(m.title for m in names.values())], rows) if rows else ""


def gain_rows(summary: Summary, fraction: float) -> list[tuple[str, str, int, str]]:
    """(contender, against, n, metric) in the order shown: by rival, n = 1 first, then the suite's size, the rest."""
    keys = ("contender", "against", "n", "metric")
    seen = [tuple(m[k] for k in keys) for m in summary["means"] if m["fraction"] == fraction]
    order = {n: i for i, n in enumerate(dict.fromkeys([1, summary["suite_size"]]))}
    rank = {c: i for i, c in enumerate(summary["contenders"])}
    return sorted(seen, key=lambda r: (AGAINST.index(r[1]), order.get(r[2], 2 + r[2]), rank[r[0]], r[3]))  # type: ignore[return-value]


def gains(summary: Summary, fraction: float) -> str:
    """Gains with intervals per task for one label fraction, their mean, and what the mean hides."""
    body = []
    for c, against, n, metric in gain_rows(summary, fraction):
        at = {"contender": c, "fraction": fraction, "against": against, "n": n}
        cells = []
        for t in summary["tasks"]:
            row = find(summary["gains"], task=t, **at) if summary["metrics"][t]["metric"] == metric else None
            if row is None:
                cells.append("")
                continue
            text = words.bold(words.gain(row, scale_of(summary, metric)), row["verdict"])
            named = row["status"] == "ok" and against != "same" and row["versus"]
            cells.append(f"{text} ({row['versus']})" if named and against != "equal" else text)
        mean = find(summary["means"], metric=metric, **at)
        assert mean is not None, at
        body.append([c, words.opponent(against, n), *cells, *_mean(mean, scale_of(summary, metric))])
    tail = [
        "mean of tasks",
        "W / L / T",
        "median",
        "mean without the best task",
        words.TASKS,
        "per EFLOP",
        "with search",
    ]
    return markdown(["contender", "over the", *titles(summary), *tail], body)


def _means(summary: Summary, **at: Any) -> str:
    """The mean gain of a row, one for each metric."""
    found = [m for m in (find(summary["means"], metric=k, **at) for k in metrics(summary)) if m]
    return "; ".join(_mean(m, scale_of(summary, m["metric"]))[0] for m in found) or words.NOT_RUN


def _mean(mean: Mapping[str, Any], scale: float) -> list[str]:
    if mean["status"] != "ok":
        return [words.NOT_RUN, *["-"] * 6]
    tasks = len(mean["tasks"]) + len(mean["missing"])
    text = words.gain(mean, scale) + (f" ({len(mean['tasks'])} of {tasks} tasks)" if mean["missing"] else "")
    rest = mean["without_best"]
    without = f"{words.bold(words.gain(rest, scale), rest['verdict'])} ({rest['task']})" if rest else "-"
    sample = mean["over_tasks"]
    return [
        words.bold(text, mean["verdict"]),
        words.record(mean),
        words.value(mean["median"], scale, signed=True),
        without,
        words.span(sample["interval"], scale).strip() or "-" if sample else "-",
        words.rate(mean["per_eflop"], scale),
        words.rate(mean["per_eflop_searched"], scale),
    ]


def break_even(summary: Summary) -> str:
    """The smallest number of tasks the pretraining must be shared by before it pays."""
    several = len(metrics(summary)) > 1
    columns = [(t, summary["metrics"][t]["metric"], t) for t in summary["tasks"]]
    columns += [("mean", m, f"mean, {m}" if several else "mean") for m in metrics(summary)]
    rows = []
    for c in (c for c in gainers(summary) if summary["rows"][c]["pretrain_flops"]):
        for f in summary["fractions"]:
            for against in ("best", "unet"):
                at = {"contender": c, "fraction": f, "against": against}
                found = [find(summary["break_even"], task=t, metric=m, **at) for t, m, _ in columns]
                cells = [f"{r['n']}{' (' + r['verdict'] + ')' if r['verdict'] else ''}" if r else "-" for r in found]
                over = {"best": "best from scratch", "unet": "U-Net"}[against]
                rows.append([c, over, words.percent(f), *cells])
    return markdown(["contender", "over the", "labels", *(head for *_, head in columns)], rows)


def labels_saved(summary: Summary) -> str:
    """What the best rival from scratch would need to reach each contender's score."""
    rows = []
    for r in summary["labels_saved"]:
        needed = {
            "ok": words.count(r["needed"]),
            "more than measured": f"more than {r['needed']:.0f}",
            "fewer than measured": f"fewer than {r['needed']:.0f}",
        }[r["status"]]
        saved = "-" if r["saved"] is None else f"{r['saved']:+.0f}"
        rows.append([r["contender"], r["task"], str(r["labels"]), r["versus"], needed, saved])
    return markdown(["contender", "task", "labels used", "rival", "labels it needs", "saved"], rows)


def resources(summary: Summary) -> str:
    """The means of every contender, averaged over its runs."""
    columns = {
        "pretrain_flops": ("pretraining FLOPs, P", words.flops),
        "search_flops": ("its search", words.flops),
        "finetune_flops": ("fine-tuning FLOPs", words.flops),
        "tuning_flops": ("its search", words.flops),
        "epochs": ("epochs", words.count),
        "trainable_parameters": ("trainable parameters", words.count),
        "peak_memory_mib": ("peak memory, MiB", words.count),
        "seconds": ("seconds", words.count),
        "inference_flops": ("inference FLOPs per place", words.flops),
    }
    rows = [
        [r["contender"], str(r["runs"]), *(show(r[k]) for k, (_, show) in columns.items())]
        for r in summary["resources"]
    ]
    return markdown(["contender", "runs", *(title for title, _ in columns.values())], rows)


def plateau(curve: Sequence[Mapping[str, Any]]) -> str:
    """Validation of the rivals from scratch at each fine-tuning budget tried, as stored."""
    budgets = sorted({r["flops"] for r in curve})
    rows = []
    for key in dict.fromkeys((r["task"], r["fraction"], r["contender"]) for r in curve):
        mine = [r for r in curve if (r["task"], r["fraction"], r["contender"]) == key]
        at = {r["flops"]: r["val"] for r in mine}
        chosen = next((r["flops"] for r in mine if r["chosen"]), None)
        cells = ["-" if at.get(b) is None else f"{at[b]:.3f}" for b in budgets]
        rows.append(
            [f"{key[0]}, {words.percent(key[1])}", key[2], *cells, words.flops(chosen) if chosen else "no plateau"]
        )
    return markdown(["task, labels", "rival", *(words.flops(b) for b in budgets), "F"], rows)
