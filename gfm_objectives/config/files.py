"""The yaml behind configs: where it lies, the choices of each group, and one choice read with what it builds on."""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gfm_objectives.config.ranges import Range, Ranges, parse_range, read_ranges, within
from gfm_objectives.config.values import scalar, split_commas
from gfm_objectives.errors import InputError

EXTENSIONS = {"objective": "gfm_objectives.objectives"}  # group of configs -> entry point group of other packages
YAML = (".yaml", ".yml")
LARGEST, MOST = 10_000_000, 100_000  # bytes of a yaml, and values in it
PLACES = {"train": "int >= 1 or null", "val": "int >= 1 or null", "test": "int >= 1 or null"}  # of a task; null = all
# Ranges of the keys that config itself adds or reads: they hold in a user's yaml that states none, too.
OWN = {
    "data": {"keep": "text or null"},
    "task": PLACES,
    "suite": {"tasks": "some of text"},
    "budget": {"flops": "x > 0"},
}


class Choice(NamedTuple):
    """What a yaml says: its options, without the section `ranges`, and the range of each that states one."""

    options: dict[str, Any]
    ranges: Ranges


def config_root() -> Path:
    """The folder of shipped yaml: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / "configs", package.parent / "configs"):
        if (root / "train.yaml").is_file():
            return root
    raise InputError(f"{package}: no configs folder in or beside the package; install it again")


def extensions(group: str) -> dict[str, EntryPoint]:
    """What installed packages add to a group, by name; nothing of theirs is imported."""
    return {p.name: p for p in _points(EXTENSIONS[group], tuple(sys.path))} if group in EXTENSIONS else {}


@lru_cache(8)
def _points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Looking through every installed package takes a tenth of a second, and is asked for again and again."""
    return tuple(entry_points(group=group))


def _extension_path(point: EntryPoint) -> Path:
    """Where an extension's options are: in a yaml of its name beside its module."""
    try:
        spec = find_spec(point.module)
    except Exception:  # a parent package is imported for it, and may fail in any way
        spec = None
    return Path((spec and spec.origin) or point.module).with_name(f"{point.name}.yaml")


def choices(group: str) -> list[str]:
    """Names of the choices of a group, those of other packages included. A task is also a suite: of that task alone."""
    names = _shipped(group)
    names |= {name for name, point in extensions(group).items() if _extension_path(point).is_file()}
    return sorted(names | set(choices("task"))) if group == "suite" else sorted(names)


def _shipped(group: str) -> set[str]:
    return {path.stem for path in (config_root() / group).glob("*.yaml")}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a yaml file, interpolations untouched. InputError names the file, and the line where it can."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    about = path.stat()
    if about.st_size > LARGEST:
        raise InputError(f"{path}: {about.st_size / 1e6:.0f} MB is no config; give the yaml")
    return copy.deepcopy(_read_yaml(path, about.st_mtime_ns, about.st_size))


@lru_cache(256)
def _read_yaml(path: Path, *_: int) -> dict[str, Any]:
    """Kept while the file is as it was: a sweep, and --help, read the same files again and again."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, yaml.SafeLoader)
        if root is None:  # nothing but comments
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path}: expected lines of 'key: value'")
        if _values(root, {}) > MOST:
            raise InputError(f"{path}: its aliases stand for more than {MOST} values; write out what is meant")
        loaded = OmegaConf.create(text)
    except RecursionError:
        raise InputError(f"{path}: lists or sections nested too deeply to be read; write it flat") from None
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise InputError(f"{path}{line}: not valid yaml: {e.problem}") from None
    except InputError:
        raise
    # PyYAML itself fails in its own ways over a value that its tag does not fit
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, LookupError, AttributeError, TypeError) as e:
        raise InputError(f"{path}: cannot be read as yaml: {first_line(e)}") from None
    out = OmegaConf.to_container(loaded, resolve=False)
    assert isinstance(out, dict), type(out)
    return out  # type: ignore[return-value]


def _values(node: yaml.Node | None, known: dict[int, float]) -> float:
    """How many values a node stands for when its aliases are filled in; inf where one leads into itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = node.value if isinstance(node, yaml.SequenceNode) else [x for pair in node.value for x in pair]
        known[id(node)] = sum(_values(x, known) for x in parts)
    return known[id(node)]


def read_entry(entry: str) -> tuple[dict[str, str], Choice]:
    """configs/<entry>.yaml: the default choice of each group, and the entry's own options."""
    path = config_root() / f"{entry}.yaml"
    options = read_yaml(path)
    defaults, section = options.pop("defaults"), options.pop("ranges", {})
    return defaults, Choice(options, read_ranges(section, options, path))


def entries() -> list[str]:
    """The commands that have a yaml."""
    return sorted(path.stem for path in config_root().glob("*.yaml"))


def keys_of(entry: str) -> set[str]:
    """The groups and keys of a command, sections by their name."""
    groups, own = read_entry(entry)
    return {*groups, *own.options, "config"}


def load_choice(group: str, choice: str) -> dict[str, Any]:
    """The options of one choice of a group: see `read_choice`."""
    return read_choice(group, choice).options


def read_choice(group: str, choice: str, files: list[Path] | None = None, depth: int = 0) -> Choice:
    """One choice of a group, a shipped name or a yaml file. Files read are appended to `files`.

    `use: name` at the top starts from another choice of the group and merges the rest over it, ranges too; `data: {use:
    name}` inside a task does so with the data group. A file that `use` names and a folder that `root` names are looked
    for beside the yaml first, then where the command was typed. A task given as a suite becomes the suite of that task
    alone.
    """
    files = [] if files is None else files
    if group == "suite" and len(split_commas("suite", choice)) > 1:
        return _joined(choice, files)
    path = choice_path(group, choice)
    options = read_yaml(path)
    files.append(path)
    _refuse_other_group(group, choice, options)
    section, ranges = options.pop("ranges", {}), {}
    if group == "suite" and "tasks" not in options:
        options, section = {"name": path.stem, "tasks": [choice]}, {}  # what the file says is of the task
    if group == "data":
        options = _rooted({"keep": None} | options, path)  # any source takes a keep-list
    if group == "task":
        options = dict.fromkeys(PLACES) | options  # so that they can be set
        if isinstance(options.get("data"), dict):
            options["data"], of_data = _use("data", _rooted(options["data"], path), files, depth, path)
            if not of_data and (name := str(options["data"].get("name"))) in _shipped("data"):
                of_data = read_choice("data", name).ranges  # data written out, of a source that has a yaml of its own
            ranges = within(of_data, "data.")
    options, used = _use(group, options, files, depth, path)
    own = {key: parsed for key, parsed in _own(group) if key in options}
    return Choice(options, own | used | ranges | read_ranges(section, options, path))


def _joined(choice: str, files: list[Path]) -> Choice:
    """`suite=a,b`: one suite with the tasks of all of them, in that order."""
    parts = [read_choice("suite", part, files).options for part in split_commas("suite", choice)]
    tasks = dict.fromkeys(str(task) for part in parts for task in part["tasks"])
    return Choice({"name": "+".join(str(part["name"]) for part in parts), "tasks": [*tasks]}, dict(_own("suite")))


def _own(group: str) -> Iterator[tuple[str, Range]]:
    """The ranges of the keys that config itself adds to a group or reads of it."""
    for key, text in OWN.get(group, {}).items():
        if parsed := parse_range(text):
            yield key, parsed


def _refuse_other_group(group: str, choice: str, options: Mapping[str, Any]) -> None:
    """InputError where a yaml is of another kind than it is given as, and what to type instead."""
    task = "layer" in options and isinstance(options.get("data"), dict)
    if not options:
        raise InputError(f"{group}={choice}: the file is empty; docs/chips.md shows one of data and one of a task")
    if group == "data" and task:
        raise InputError(
            f"data={choice}: describes a task; give it to eval, suite={choice}, or to finetune, task={choice}"
        )
    if group == "data" and not ("name" in options or "use" in options):
        raise InputError(f"data={choice}: has no line 'name: chips', so nobody knows how to read it (docs/chips.md)")
    if group in ("suite", "task") and not task and ("root" in options or "sensors" in options):
        told = f"describes data, to train on: data={choice}"
        raise InputError(
            f"{group}={choice}: {told}; a task names a layer of it: 'layer: label, data: {{use: {choice}}}'"
        )


def _rooted(options: dict[str, Any], file: Path) -> dict[str, Any]:
    """With a `root` that is a folder beside the file as the path to it from here."""
    root = options.get("root")
    if not isinstance(root, str) or root.startswith(("/", "~", "$")) or "://" in root or file.parent == Path("."):
        return options
    return options | {"root": str(beside)} if (beside := file.parent / root).is_dir() else options


def _use(group: str, options: dict[str, Any], files: list[Path], depth: int, of: Path) -> Choice:
    if "use" not in options:
        return Choice(options, {})
    rest = {k: v for k, v in options.items() if k != "use"}
    if depth > 8:
        raise InputError(f"{files[-1]}: 'use: {options['use']}' leads in a circle; let it use another")
    name = str(options["use"])
    beside = of.parent / name
    used = read_choice(group, str(beside) if name.endswith(YAML) and beside.is_file() else name, files, depth + 1)
    merged = OmegaConf.to_container(OmegaConf.merge(used.options, rest), resolve=False)
    return Choice(merged, used.ranges)  # type: ignore[arg-type]


def choice_path(group: str, choice: str) -> Path:
    """The file of a choice: shipped, given as a path, or beside the module of another package."""
    if choice.endswith(YAML):
        path = Path(os.path.expanduser(choice))
        if not path.is_file():
            raise InputError(f"{group}={choice}: no such file; shipped choices: {', '.join(choices(group))}")
        return path
    for folder in (group, "task") if group == "suite" else (group,):
        path = config_root() / folder / f"{choice}.yaml"
        if "/" not in choice and path.is_file():
            return path
    if choice in (others := extensions(group)):
        path = _extension_path(others[choice])
        if not path.is_file():
            of = getattr(others[choice].dist, "name", None) or others[choice].module
            told = f"{group}={choice}: the package {of} has no {path}, which holds its options"
            raise InputError(f"{told}; tell its author to ship it (docs/objective.md), or put it there: name: {choice}")
        return path
    valid = choices(group)
    near = get_close_matches(choice, valid, 1, 0.6)
    hint = _instead(group, choice) or (f" did you mean {near[0]}?" if near else "")
    raise InputError(f"{group}={choice}: no such choice;{hint} choices: {', '.join(valid)}")


def _instead(group: str, choice: str) -> str:
    """What to type instead, where something of that name is there and of another kind; '' where there is not."""
    path = Path(os.path.expanduser(choice))
    if group == "budget" and isinstance(scalar(choice), int | float):
        return f" write budget.flops={choice};"
    if group == "data" and (path / "index.json").is_file():
        return f" it is a folder of shards: data=shards data.root={choice};"
    if (path / "ledger.json").is_file():
        return f" it is a run folder: eval checkpoint={choice} compares it, train config={choice} repeats it;"
    if (path / "config.yaml").is_file():
        return f" it is the folder of a run or a comparison: config={choice} repeats it;"
    if path.is_dir():
        return " it is a folder: describe it in a yaml (docs/chips.md) and give that;"
    if path.is_file():
        return " it is a file of another kind: describe the data in a yaml (docs/chips.md) and give that;"
    if ("/" in choice or path.suffix) and not any(Path(f"{path}{end}").is_file() for end in YAML):
        return " nor is there a file or folder of that name;"
    if group in ("data", "encoder", "objective", "budget") and choice in choices("suite"):
        return f" it is a task: eval suite={choice};"
    if file := next((choice + end for end in YAML if Path(f"{path}{end}").is_file()), ""):
        return f" did you mean {group}={file}?"
    commands = {"suite": "train ", "task": "train "}
    of = next((g for g in ("data", "objective", "encoder", "budget") if g != group and choice in choices(g)), None)
    return f" it is of another group: {commands.get(group, '')}{of}={choice};" if of else ""


def first_line(error: Exception) -> str:
    """What a library's exception says, without the rest of its page."""
    return (str(error).splitlines() or [type(error).__name__])[0]
