"""Whether rows, tasks and what is stored fit each other, and what a reader must know where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gfm_objectives import disk
from gfm_objectives.compare.bench import Bench, beyond
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.config import read_yaml
from gfm_objectives.data.shards import INDEX
from gfm_objectives.data.torchgeo import DATASETS
from gfm_objectives.data.torchgeo.leakage import shared
from gfm_objectives.data.torchgeo.listing import absent
from gfm_objectives.errors import InputError
from gfm_objectives.scores import Store
from gfm_objectives.tasks.baselines import rules


def on_disk(tasks: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The tasks whose data is here, and a line for each of the others. InputError where none is."""
    reasons = {name: reason for name, task in tasks.items() if (reason := absent(task.get("data") or {}))}
    if len(reasons) == len(tasks):
        raise InputError(f"no task's data is on disk; gfm data list shows all. {next(iter(reasons.values()))}")
    lines = [f"{name}: not run, its data is not on disk. {reason}" for name, reason in reasons.items()]
    return {name: task for name, task in tasks.items() if name not in reasons}, lines


def can_run(bench: Bench, contender: Contender) -> bool:
    """Whether the task declares, and its data has, what the row needs."""
    return not lacks(bench, contender)


def lacks(bench: Bench, contender: Contender) -> str:
    """What a row needs and the task does not declare or its data does not have; '' where nothing is missing."""
    if not contender.trained and contender.kind not in rules(bench.task):
        return f"{'recode' if contender.kind == 'map' else 'index'} in the task"
    reads_map = contender.kind in ("map", "map_context") or "map_input" in contender.kind
    return "a layer named map in the data" if reads_map and "map" not in bench.spec.legends else ""


def check_some(benches: Sequence[Bench], rows: Sequence[Contender]) -> None:
    """InputError where no task has what any of the rows needs."""
    reasons = [(b.task.name, c.name, lacks(b, c)) for b in benches for c in rows]
    if all(what for *_, what in reasons):
        task, row, what = reasons[0]
        others = f", and {len(reasons) - 1} more such" * (len(reasons) > 1)
        raise InputError(
            f"contenders: nothing can be run: {row} on {task}, for want of {what}{others}; add rows that need neither "
            "map nor index, such as contenders=unet"
        )


def leaks(benches: Sequence[Bench], rows: Sequence[Contender]) -> list[str]:
    """Tasks whose places a row was pretrained on, or may have been; and what the makers of a task's data say of it."""
    out = []
    for data in {str(b.task.data.get("name")): b.task.data for b in benches}.values():
        name = str(data["name"])
        out += [f"{name}: {DATASETS[name].note}"] if name in DATASETS and DATASETS[name].note else []
    ours = {c.name: pretrained_on(r.folder) for c in rows for r in c.runs[:1] if r.model != "published"}
    for name, corpus in ours.items():
        for bench in benches:
            if how := shared(bench.task.data, corpus):
                out.append(f"leakage: {name} on {bench.task.name}: {how}.")
    return out


def pretrained_on(folder: str) -> dict[str, Any]:
    """The options of the data a run was pretrained on; of shards, those of what they were made of."""
    data = dict(read_yaml(Path(folder) / "config.yaml").get("data") or {})
    index = Path(str(data.get("root"))) / INDEX
    if data.get("name") == "shards" and index.is_file():
        data["name"] = disk.read_json(index, "run gfm prepare again with overwrite=true", ["name"])["name"]
    return data


def check_rows(store: Store, rows: Sequence[Contender], out: Path) -> None:
    """InputError where a results folder holds another network under the name of a row: scores are found by name."""
    known = {c.name: (c.kind, c.shape, c.extra_flops) for c in rows}
    for s in store.load():
        kind, shape, extra = known.get(s.contender, (s.kind, s.shape, s.extra_flops))
        if (kind, shape) != (s.kind, s.shape) or abs(extra - s.extra_flops) > 0.02 * extra:
            raise InputError(f"{out}: holds scores of another network named {s.contender!r}; choose another name=")


def notes_on(benches: Sequence[Bench], rows: Sequence[Contender]) -> list[str]:
    """Rows that a task cannot have, and pretraining runs of another Earth than the one their seed is compared on."""
    out = []
    for bench in benches:
        missing: dict[str, list[str]] = {}
        for c in rows:
            if what := lacks(bench, c):
                missing.setdefault(what, []).append(c.name)
        out += beyond(bench)
        out += [f"{bench.task.name}: not run, for want of {what}: {', '.join(c)}." for what, c in missing.items()]
    out += leaks(benches, rows)
    earths = range(max((len(b.earths) for b in benches), default=0))
    for c in (c for c in rows if c.runs):
        known = {s: r.earth for s in earths if (r := c.run(s)) and r.earth is not None}
        if wrong := [s for s, e in known.items() if e != s]:
            out.append(f"{c.name}: seeds {', '.join(map(str, wrong))} use networks pretrained on other Earths.")
    return out
