"""Whether rows, tasks and what is stored fit each other, and what a reader must know where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gfm_objectives.compare.bench import Bench
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.errors import InputError
from gfm_objectives.scores import Store
from gfm_objectives.tasks.baselines import rules


def can_run(bench: Bench, contender: Contender) -> bool:
    """Whether the task declares, and its data has, what the row needs."""
    return not lacks(bench, contender)


def lacks(bench: Bench, contender: Contender) -> str:
    """What a row needs and the task does not declare or its data does not have; '' where nothing is missing."""
    if not contender.trained and contender.kind not in rules(bench.task):
        return f"{'recode' if contender.kind == 'map' else 'index'} in the task"
    reads_map = contender.kind in ("map", "map_context") or "map_input" in contender.kind
    return "a layer named map in the data" if reads_map and "map" not in bench.spec.legends else ""


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
        out += [f"{bench.task.name}: not run, for want of {what}: {', '.join(c)}." for what, c in missing.items()]
    earths = range(max((len(b.earths) for b in benches), default=0))
    for c in (c for c in rows if c.runs):
        known = {s: r.earth for s in earths if (r := c.run(s)) and r.earth is not None}
        if wrong := [s for s, e in known.items() if e != s]:
            out.append(f"{c.name}: seeds {', '.join(map(str, wrong))} use networks pretrained on other Earths.")
    return out
