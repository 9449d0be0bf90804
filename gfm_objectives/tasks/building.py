"""Tasks from their yaml: `build_task` checks it and names what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gfm_objectives.errors import InputError
from gfm_objectives.tasks.kinds import KINDS, Segmentation
from gfm_objectives.tasks.task import Task

MEASURED = ("offset", "scale")  # fields of a task that come from its data
INDEX = ("sensor", "plus", "minus", "threshold", "above", "below")
INDEX_OPTIONS = ("change", "only")  # may be left out


def build_task(name: str, cfg: Mapping[str, Any]) -> Task:
    """The task `name` from the mapping of configs/task/<name>.yaml; its `data` must already be the source's options."""
    key = f"task {name}"
    known = [f.name for f in fields(Task) if f.name not in MEASURED]
    for k in cfg:
        if k not in known:
            raise InputError(f"{key}: no key {k!r}; choose from {', '.join(known)}")
    for k in ("data", "layer"):
        if not cfg.get(k):
            raise InputError(f"{key}: {k} is missing")
    if not isinstance(cfg["data"], Mapping):
        raise InputError(f"{key}: data={cfg['data']!r}: expected the options of a source")
    kind = cfg.get("kind", "segmentation")
    if kind not in KINDS:
        raise InputError(f"{key}: kind={kind}: choose from {', '.join(KINDS)}")
    metric = cfg.get("metric") or KINDS[kind].metrics[0]
    if metric not in KINDS[kind].metrics:
        raise InputError(f"{key}: metric={metric}: choose from {', '.join(KINDS[kind].metrics)}")
    for k in ("recode", "index"):
        if cfg.get(k) and not isinstance(KINDS[kind], Segmentation):
            raise InputError(f"{key}: {k} gives each pixel a class, which kind={kind} has not; remove it")
    for k in ("train", "val", "test"):
        if cfg.get(k) is not None and not _is_int(cfg[k], least=1):
            raise InputError(f"{key}: {k}={cfg[k]!r}: expected a number of places, or null for all")
    options = {k: v for k, v in cfg.items() if k not in ("name", "recode", "index")} | {"metric": metric}
    return Task(name=name, recode=_recode(key, cfg.get("recode")), index=_index(key, cfg.get("index")), **options)


def _recode(key: str, recode: Any) -> dict[int, int]:
    if recode is None:
        return {}
    if not isinstance(recode, Mapping) or not all(_is_int(a, -1) and _is_int(b, 0) for a, b in recode.items()):
        raise InputError(f"{key}: recode={recode!r}: expected {{map label: task label}}, both numbers, -1 for the rest")
    return dict(recode)


def _index(key: str, index: Any) -> dict[str, Any] | None:
    if index is None:
        return None
    if not isinstance(index, Mapping) or set(index) - set(INDEX_OPTIONS) != set(INDEX):
        optional = " and ".join(INDEX_OPTIONS)
        raise InputError(f"{key}: index={index!r}: expected the keys {', '.join(INDEX)}, with or without {optional}")
    if not isinstance(index.get("change", False), bool):
        raise InputError(f"{key}: index.change={index['change']!r}: expected true or false")
    only = index.get("only", [])
    if not isinstance(only, list) or not all(_is_int(label, 0) for label in only):
        raise InputError(f"{key}: index.only={only!r}: expected a list of map labels")
    return dict(index)


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
