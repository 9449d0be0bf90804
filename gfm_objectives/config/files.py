"""The yaml behind configs: where it lies, the choices of each group, and one choice read with what it builds on."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gfm_objectives.config.ranges import Ranges, parse_range, read_ranges, within
from gfm_objectives.errors import InputError

EXTENSIONS = {"objective": "gfm_objectives.objectives"}  # group of configs -> entry point group of other packages
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
    return {point.name: point for point in entry_points(group=EXTENSIONS[group])} if group in EXTENSIONS else {}


def _extension_path(point: EntryPoint) -> Path:
    """Where an extension's options are: in a yaml of its name beside its module."""
    try:
        spec = find_spec(point.module)
    except ImportError:  # of a parent package
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
    try:
        loaded = OmegaConf.load(path)
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise InputError(f"{path}{line}: not valid yaml: {e.problem}") from None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: cannot be read as yaml: {first_line(e)}") from None
    if not isinstance(loaded, DictConfig):
        raise InputError(f"{path}: expected lines of 'key: value'")
    out = OmegaConf.to_container(loaded, resolve=False)
    assert isinstance(out, dict), type(out)
    return out  # type: ignore[return-value]


def read_entry(entry: str) -> tuple[dict[str, str], Choice]:
    """configs/<entry>.yaml: the default choice of each group, and the entry's own options."""
    path = config_root() / f"{entry}.yaml"
    options = read_yaml(path)
    defaults, section = options.pop("defaults"), options.pop("ranges", {})
    return defaults, Choice(options, read_ranges(section, options, path))


def load_choice(group: str, choice: str) -> dict[str, Any]:
    """The options of one choice of a group: see `read_choice`."""
    return read_choice(group, choice).options


def read_choice(group: str, choice: str, files: list[Path] | None = None, depth: int = 0) -> Choice:
    """One choice of a group, a shipped name or a yaml file. Files read are appended to `files`.

    `use: name` at the top starts from another choice of the group and merges the rest over it, ranges too; `data: {use:
    name}` inside a task does so with the data group. A task given as a suite becomes the suite of that task alone.
    """
    files = [] if files is None else files
    path = choice_path(group, choice)
    options = read_yaml(path)
    files.append(path)
    section, ranges = options.pop("ranges", {}), {}
    if group == "suite" and "tasks" not in options:
        options, section = {"name": path.stem, "tasks": [choice]}, {}  # what the file says is of the task
    if group == "data":
        options = {"keep": None} | options  # any source takes a keep-list
    if group == "task":
        options = dict.fromkeys(PLACES) | options  # so that they can be set
        if isinstance(options.get("data"), dict):
            options["data"], of_data = _use("data", options["data"], files, depth)
            if not of_data and (name := str(options["data"].get("name"))) in _shipped("data"):
                of_data = read_choice("data", name).ranges  # data written out, of a source that has a yaml of its own
            ranges = within(of_data, "data.")
    options, used = _use(group, options, files, depth)
    own = {key: parsed for key, text in OWN.get(group, {}).items() if key in options and (parsed := parse_range(text))}
    return Choice(options, own | used | ranges | read_ranges(section, options, path))


def _use(group: str, options: dict[str, Any], files: list[Path], depth: int) -> Choice:
    if "use" not in options:
        return Choice(options, {})
    rest = {k: v for k, v in options.items() if k != "use"}
    if depth > 8:
        raise InputError(f"{files[-1]}: 'use: {options['use']}' leads in a circle")
    used = read_choice(group, str(options["use"]), files, depth + 1)
    merged = OmegaConf.to_container(OmegaConf.merge(used.options, rest), resolve=False)
    return Choice(merged, used.ranges)  # type: ignore[arg-type]


def choice_path(group: str, choice: str) -> Path:
    """The file of a choice: shipped, given as a path, or beside the module of another package."""
    if choice.endswith((".yaml", ".yml")) or "/" in choice:
        path = Path(choice).expanduser()
        if not path.is_file():
            raise InputError(f"{group}={choice}: no such file; shipped choices: {', '.join(choices(group))}")
        return path
    for folder in (group, "task") if group == "suite" else (group,):
        path = config_root() / folder / f"{choice}.yaml"
        if path.is_file():
            return path
    if choice in (others := extensions(group)):
        return _extension_path(others[choice])
    valid = choices(group)
    near = get_close_matches(choice, valid, 1, 0.6)
    hint = f" did you mean {near[0]}?" if near else ""
    raise InputError(f"{group}={choice}: no such choice;{hint} choices: {', '.join(valid)}")


def first_line(error: Exception) -> str:
    """What a library's exception says, without the rest of its page."""
    return (str(error).splitlines() or [type(error).__name__])[0]
