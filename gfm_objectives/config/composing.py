"""Configs: yaml files in groups plus key=value, checked and resolved, one config for each run of a sweep."""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gfm_objectives import disk
from gfm_objectives.config.files import (
    Choice,
    choices,
    entries,
    first_line,
    keys_of,
    load_choice,
    read_choice,
    read_entry,
    read_yaml,
)
from gfm_objectives.config.ranges import Ranges, check, find, within
from gfm_objectives.config.usage import meant
from gfm_objectives.config.values import leaves, number, parse, show, split_commas
from gfm_objectives.errors import InputError

MOST_RUNS = 10_000  # of one sweep


def compose(entry: str, argv: Sequence[str]) -> list[DictConfig]:
    """The resolved configs of `entry` ("train", "eval" or "inspect") for the words of a command line, one for each run.

    A comma list sweeps, unless the key's default is a list. `config=file` starts from a resolved config instead of the
    defaults. `cluster=name` types for training what configs/cluster has of it; what is typed beside it wins. `choices`
    in the result keeps which choice of each group was taken. Raises InputError, in one line.
    """
    default_choices, defaults = read_entry(entry)
    given = _pairs(argv, default_choices, entry)
    if entry == "train" and "cluster" in given:
        machine = leaves(load_choice("cluster", given.pop("cluster")))
        given = {key: show(value) for key, value in machine} | given
    saved = _saved(given.pop("config"), entry, defaults, default_choices) if "config" in given else {}
    start = saved.get("choices", default_choices)
    picks = {g: _picked(g, given.pop(g)) for g in start if g in given}
    runs = []
    for picked in itertools.product(*picks.values()):
        chosen = dict(zip(picks, picked, strict=True))
        files: list[Path] = []
        kept = {k: v for k, v in saved.items() if k not in picks}
        base, ranges = _base(defaults, start | chosen, kept, given.get("suite.tasks"), files)
        _leave_out(base, given)
        values = {k: _values(base, ranges, k, text) for k, text in given.items()}
        swept = [k for k in (*picks, *values) if len(picks.get(k) or values[k]) > 1]
        count = math.prod(len(several) for several in (*picks.values(), *values.values()))
        if count > MOST_RUNS:
            raise InputError(f"{', '.join(swept)}: {count} combinations; a sweep has {MOST_RUNS} runs at most")
        for combo in itertools.product(*values.values()):
            cfg = copy.deepcopy(base)
            for key, value in zip(values, combo, strict=True):
                _set(cfg, key, value)
            check(cfg, ranges)
            runs.append(_finish(cfg, swept, files))
    names = [cfg.name for cfg in runs]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"two runs of this sweep are the same, or would share the name {twice}")
    return runs


def save(cfg: DictConfig, path: Path) -> None:
    """Write a resolved config so that `config=<path>` gives it back."""
    disk.write(path, f"# Resolved config; use it again with config={path}\n{OmegaConf.to_yaml(cfg)}")


def _pairs(argv: Sequence[str], groups: Mapping[str, str], entry: str) -> dict[str, str]:
    """The words as key -> text."""
    given: dict[str, str] = {}
    for i, word in enumerate(argv):
        if any("\ud800" <= c <= "\udfff" for c in word):
            raise InputError(f"{word}: holds bytes that are no UTF-8, which no config can keep; give another name")
        key, equals, text = word.partition("=")
        if key.startswith("-"):
            value = text or next((w for w in argv[i + 1 :][:1] if "=" not in w), "VALUE")
            meaning = f"{key.lstrip('-').replace('-', '_')}={value}"
            raise InputError(f"{word}: options are key=value without dashes; write {meaning}")
        if not equals:
            raise InputError(f"{word if word.strip() else repr(word)}: expected key=value{meant(entry, word)}")
        if not key or not text:
            missing = "key before" if not key else "value after"
            raise InputError(f"{word}: the {missing} = is missing; --help lists every key with its default")
        if key in given:
            both = f"{key}={given[key]} and {word}"
            raise InputError(f"{key} is given twice ({both}); keep one, or sweep: {key}={given[key]},{text}")
        # bash alone fills in the ~ of runs=~/there, and a folder of that name is nobody's wish
        given[key] = text if "." in key or key in groups else re.sub(r"(?<![^,[])~(?=/)", os.path.expanduser("~"), text)
    return given


def _saved(given: str, entry: str, defaults: Choice, groups: Mapping[str, str]) -> dict[str, Any]:
    """A resolved config (or its run folder) read back. A derived name is forgotten: it must follow the overrides."""
    path = Path(os.path.expanduser(given))
    path = path / "config.yaml" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"config={path}: no such file; give the config.yaml of a run or a comparison, or its folder")
    saved = read_yaml(path)
    sections = [saved.get("choices"), *(saved.get(g) for g in groups)]
    if not all(isinstance(s, dict) for s in sections) or saved["choices"].keys() != groups.keys():
        of = {"objective": "train", "suite": "eval"}
        other = next((c for g, c in of.items() if g in saved and c != entry), "")
        hint = f"it is one of {other}: {other} config={path}" if other else f"give the config.yaml that {entry} wrote"
        raise InputError(f"config={path}: not a resolved {entry} config; {hint}")
    if entry == "plan" and "runs" in saved:
        words = [f"{g}={c}" for g, c in saved["choices"].items()] + [f"budget.flops={show(saved['budget']['flops'])}"]
        raise InputError(f"config={path}: is of train; write gfm plan {' '.join(words)}, and the keys it set besides")
    saved, ranges = _base(defaults, saved["choices"], saved, None, [])
    check(saved, ranges)
    if defaults.options["name"] is None and saved["name"] == derived_name(saved):
        saved["name"] = None
    return saved


def _picked(group: str, text: str) -> list[str]:
    """The choices that `group=text` asks for, a run for each; suites do not sweep: `a,b` and `[a,b]` join to one, since
    a gain is a mean over the tasks of a suite."""
    inner = text[1:-1].strip() if text.startswith("[") and text.endswith("]") else text
    if not inner:
        raise InputError(f"{group}={text}: names none; --help {group} lists the choices")
    if group == "suite":
        return [",".join(split_commas(group, inner))]
    if inner != text:
        each = " runs each of them" if "," in inner else ""
        raise InputError(f"{group}={text}: one choice a run, without brackets; {group}={inner}{each}")
    return split_commas(group, text)


def _base(
    defaults: Choice, chosen: Mapping[str, str], saved: Mapping[str, Any], tasks: str | None, files: list[Path]
) -> Choice:
    """Everything but the overrides: the entry's keys, one section for each group, and `choices`; and the ranges."""
    base, ranges = copy.deepcopy(defaults.options), dict(defaults.ranges)
    loose = {k: v for k, v in saved.items() if k not in chosen and k not in ("choices", "tasks")}
    base = _restore(base, loose, ranges, "", deep=True) | {"choices": dict(chosen)}
    for group, choice in chosen.items():
        known = Choice(saved.get(group, {}), {})
        if group not in saved or choice in choices(group):
            known = read_choice(group, choice, files)
            ranges |= within(known.ranges, f"{group}.")
        base[group] = _restore(known.options, saved.get(group, {}), ranges, f"{group}.", deep=False)
    if "suite" in base:
        names = parse("suite.tasks", [""], tasks) if tasks else base["suite"]["tasks"]
        kept = saved.get("tasks", {}) if "suite" in saved else {}
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise InputError(f"suite.tasks={names}: must be a list of tasks, each a choice or a yaml")
        base["tasks"] = {}
        known_as = dict(zip(saved["suite"]["tasks"], kept, strict=False)) if kept else {}
        for name in names:
            own = known_as.get(name, Path(name).stem)
            task = Choice(kept.get(own, {}), {})
            if own not in kept or name in choices("task"):
                task = read_choice("task", name, files)
                own = task_name(name, task.options)
                ranges |= within(task.ranges, f"tasks.{own}.")
            if own in base["tasks"]:
                raise InputError(f"suite.tasks={','.join(names)}: two tasks are named {own}; give one another `name:`")
            base["tasks"][own] = kept.get(own) or task.options
    return Choice(base, ranges)


def task_name(choice: str, options: Mapping[str, Any]) -> str:
    """What a task is called: as its yaml says, else as its file. InputError where that is no name for a folder."""
    name = str(options.get("name") or Path(choice).stem)
    if not re.fullmatch(r"\w[\w .+()-]*", name):
        raise InputError(f"task={choice}: name: {name!r} is no name of letters, digits, spaces, . _ + - ( )")
    return name


def _restore(
    known: Mapping[str, Any], saved: Mapping[str, Any], ranges: Ranges, where: str, deep: bool
) -> dict[str, Any]:
    """`saved` over `known`, refusing keys and types that `known` does not have."""
    if "without" in saved and known.get("name") == "chips":
        known = {**known, "without": []}  # see `_leave_out`
    out = dict(known)
    for key, value in saved.items():
        name = f"{where}{key}"
        if key not in known:
            raise _unknown(name, known, where)
        if isinstance(value, dict) and isinstance(known[key], dict):
            out[key] = _restore(known[key], value, ranges, f"{name}.", deep) if deep else value
        else:
            scalar = not isinstance(value, dict | list) and not isinstance(known[key], dict | list)
            out[key] = parse(name, known[key], value, find(ranges, name)) if scalar else value
    return out


def _leave_out(base: dict[str, Any], given: Mapping[str, str]) -> None:
    """`data.without=` is a key of any yaml of chips, whether it writes it out or not."""
    for key in given:
        *sections, last = key.split(".")
        node: Any = base
        for part in sections if last == "without" else ():
            node = node.get(part) if isinstance(node, dict) else None
        if last == "without" and isinstance(node, dict) and node.get("name") == "chips":
            node.setdefault("without", [])


def _values(base: dict[str, Any], ranges: Ranges, key: str, text: str) -> list[Any]:
    """The values that `key=text` asks for: several where it sweeps."""
    group, _, rest = key.partition(".")
    if group in base["choices"] and rest == "name":
        raise InputError(f"{key}: is set by the choice; write {group}={text}")
    node: Any = base
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node or key.startswith("choices"):
            raise _unknown(key, base)
        node = node[part]
    if isinstance(node, dict):
        raise InputError(f"{key} is a section; set one of its keys: {', '.join(f'{key}.{k}' for k in node)}")
    stated = find(ranges, key)
    listed = isinstance(stated.like if node is None and stated else node, list)
    texts = [text] if listed else split_commas(key, text)
    if key == "name" and len(texts) > 1:
        raise InputError(f"name={text}: one name only; the values of a sweep are appended to it")
    return [parse(key, node, t, stated) for t in texts]


def _set(cfg: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for part in sections:
        cfg = cfg[part]
    cfg[last] = value


def _finish(cfg: dict[str, Any], swept: Sequence[str], files: Sequence[Path]) -> DictConfig:
    """Name and resolve one config."""
    explicit = cfg["name"] is not None
    name = cfg["name"] if explicit else derived_name(cfg)
    in_name = () if explicit else ("objective", "encoder", "data", "budget.flops", "seed", "suite")
    cfg["name"] = "-".join([name, *(_label(cfg, k) for k in swept if k not in in_name)])
    out = OmegaConf.create(cfg)
    try:
        OmegaConf.resolve(out)
    except OmegaConfBaseException as e:
        raise _unresolved(e, files) from None
    return out


def derived_name(cfg: Mapping[str, Any]) -> str:
    """<objective>-<encoder>-<data>-<flops>-s<seed>, such as mae-nano-synthetic-1e13-s0; of an evaluation, its suite;
    of an inspection, its data; of leakage from a run, that."""
    if "objective" not in cfg["choices"]:
        run = cfg.get("run")
        return Path(run).name if run else Path(cfg["choices"].get("suite") or cfg["choices"]["data"]).stem
    parts = [Path(cfg["choices"][g]).stem for g in ("objective", "encoder", "data")]
    return "-".join([*parts, number(cfg["budget"]["flops"]), f"s{cfg['seed']}"])


def _label(cfg: Mapping[str, Any], key: str) -> str:
    """What a swept key adds to the name: mae, s1, 1e13, lr0.001."""
    if key in cfg["choices"]:
        return Path(cfg["choices"][key]).stem
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    if key == "budget.flops":
        return number(value)
    return re.sub(r"[^\w.+-]", "_", f"s{value}" if key == "seed" else f"{key.split('.')[-1]}{value}")


def _unknown(key: str, base: Mapping[str, Any], where: str = "") -> InputError:
    """The error for a key that is not there, with the nearest that is: in the same section where there is one."""
    valid = [where + k for k, _ in leaves(base) if not k.startswith("choices.")] + [*base.get("choices", ()), "config"]
    head, _, leaf = key.rpartition(".")
    siblings = {k.removeprefix(f"{head}."): k for k in valid if head and k.startswith(f"{head}.")}
    elsewhere = [] if head else [f"gfm {e}" for e in entries() if key in keys_of(e)]
    by_leaf = {k.rpartition(".")[-1]: k for k in reversed(valid)}
    if siblings:
        near = [siblings[k] for k in get_close_matches(leaf, siblings, 1, 0.6)] or [by_leaf.get(leaf)]
    else:
        near = [by_leaf.get(leaf)] if leaf in by_leaf else get_close_matches(key, valid, 1, 0.7)
    choice = base.get("choices", {}).get(head)
    of = f" with {head}={choice}" if choice else ""
    if elsewhere and leaf not in by_leaf and not get_close_matches(key, valid, 1, 0.8):
        return InputError(f"{key}: no such key; it is one of {', '.join(elsewhere)}, and --help lists those of this")
    if near and near[0]:
        return InputError(f"{key}: no such key{of}; did you mean {near[0]}?")
    others = f"{head} has {', '.join(siblings)}" if siblings else "--help lists every key"
    return InputError(f"{key}: no such key{of}; {others}")


def _unresolved(error: OmegaConfBaseException, files: Sequence[Path]) -> InputError:
    """The error for an interpolation that leads nowhere, most often an environment variable that is not set."""
    missing = re.search(r"Environment variable '(\w+)' not found", str(error))
    key = getattr(error, "full_key", None) or "config"
    if not missing:
        return InputError(f"{key}: {first_line(error)}")
    var = missing[1]
    file = next((f for f in reversed(files) if f"oc.env:{var}" in f.read_text()), "a config file")
    return InputError(f"{file}: {key} needs the environment variable {var}; set it: export {var}=/folder")
