"""The text of --help: groups with their choices, and every key with its default, comment and range in the yaml."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from gfm_objectives.config.files import (
    Choice,
    choice_path,
    choices,
    config_root,
    keys_of,
    load_choice,
    read_choice,
    read_entry,
)
from gfm_objectives.config.ranges import find
from gfm_objectives.config.values import leaves, show
from gfm_objectives.errors import InputError

Comments = dict[str, str]  # dotted key -> what it means
# Keys that every yaml of a group may have, explained once; a comment in the yaml itself goes before.
SHARED: dict[str, Comments] = {
    "task": {
        "kind": "segmentation, change, regression or a kind of scene (docs/chips.md)",
        "metric": "by which settings are chosen and gains measured; null = the first of its kind",
        "layer": "the layer of the data that is predicted",
        "train": "how many places to learn from; null = all",
        "val": "how many whole tiles to choose settings on; null = all",
        "test": "how many whole tiles to score; null = all",
        "index.sensor": "of the spectral index (plus - minus) / (plus + minus), a row without training",
        "index.plus": "its band in front",
        "index.minus": "its band that is subtracted",
        "index.threshold": "above it a pixel is index.above, else index.below",
        "index.above": "label of the task above the threshold",
        "index.below": "label of the task elsewhere",
        "index.change": "true = its drop from the first date to the last",
        "index.only": "labels of the map outside which a pixel is index.below",
    },
    "encoder": {
        "dim": "channels of a token",
        "heads": "of the attention",
        "model": "vit (where it says nothing) or unet",
    },
    "suite": {"tasks": "the tasks that are compared, each a choice or a yaml (docs/chips.md)"},
    "data": {
        "keep": "a keep-list of gfm curate: its places alone are read; null = all",
        "license": "the line that reports carry",
        "root": "folder of the data; $VARIABLES are filled in",
        "sensors": "what the model reads",
        "layers": "targets",
    },
}
NESTED = {  # of a description of chips: the key at the end of a longer one
    "file": "its files, by name, with {chip} and {date}",
    "scale": "factor to physical units",
    "nodata": "value of pixels without data",
    "band": "number of the band in the file, from 1",
    "legend": "its classes: the name of a known legend",
    "classes": "its classes, in the order of their codes",
    "invalid_bits": "bits that mark a pixel as invalid",
    "by": "rule of the split (docs/chips.md)",
    "id": "column that names the chip",
    "column": "column that names the split",
    "group": "column that names the area; areas never part",
    "seed": "of the draw",
    "bands": "name of each band, and its number in the file",
    "train": "of the split train",
    "val": "of the split val",
    "test": "of the split test",
}
# The commands that leave a resolved config, and where.
KEPT_AS = {
    "train": "runs/demo/config.yaml",
    "eval": "results/demo/config.yaml",
    "finetune": "models/model/config.yaml",
}


def usage(entry: str, program: str, topics: Sequence[str] = ()) -> str:
    """The help of `train`, `eval` or `inspect`, as `program` (the words typed before the keys) was called.

    topics: only what these words name: a group, group=choice, a choice, `task`, a key or a section. InputError for
    one that names nothing.
    """
    groups, _ = read_entry(entry)
    if topics:
        blocks = ["\n".join(_topic(entry, groups, topic)) for topic in topics]
        return "\n\n".join(blocks) + "\n"
    path = config_root() / f"{entry}.yaml"
    choice = "[group=choice] " if groups else ""
    again = KEPT_AS.get(entry)
    config = "[config=file.yaml] " if again else ""
    lines = [f"usage: {program} {choice}[key=value] {config}[--help [topic]] [--version]", ""]
    lines += [as_called(line, program) for line in _header(path)]
    lines += ["", "A comma list of values is a sweep, save for keys whose default is a list."]
    if "suite" in groups:
        lines += ["suite=a,b is one suite of both."]
    lines += [f"config={again} starts from that config; other words still apply."] * bool(again)
    lines += ["", "groups (group=choice, or group=file.yaml):"] * bool(groups)
    for group, default in groups.items():
        lines += [f"  {group}={default}", *_rows_of_choices(group)]
    lines += ["", "keys and their defaults:", *_entry_keys(entry)]
    for group, default in groups.items():
        lines += ["", *_group_keys(group, default)]
    some = ["task"] * ("suite" in groups) + ["mae"] * ("objective" in groups)
    known = ", ".join([*groups, *some])
    lines += ["", f"{program} --help TOPIC tells more of one thing: {known}, or any key"] * bool(groups)
    return "\n".join(lines) + "\n"


def meant(entry: str, word: str) -> str:
    """What the word without = was meant to be, as the rest of a sentence."""
    if group := next((g for g in read_entry(entry)[0] if word in choices(g)), None):
        return f"; did you mean {group}={word}?"
    if word in keys_of(entry):
        return ", with no spaces around ="
    example = next(line for line in _header(config_root() / f"{entry}.yaml") if line.startswith("  "))
    return f", as in {' '.join(re.findall(r'[^ ]+=[^ ]+', example))}; --help lists every key"


def as_called(line: str, program: str) -> str:
    """A line with an example, in which the program is named as it was called: gfm train, or python train.py."""
    return re.sub(r"python (train|eval)\.py", r"gfm \1", line) if program.startswith("gfm ") else line


def _topic(entry: str, groups: dict[str, str], topic: str) -> list[str]:
    """What is known of one word."""
    named = [*groups, "task"] if "suite" in groups else [*groups]
    if (of := re.match(r"tasks\.([^.]+)\.", topic)) and "suite" in groups and of[1] in choices("task"):
        rows = [r for r in _choice_keys("task", of[1])[1:] if re.match(rf"  {re.escape(topic)}[.=]", r)]
        return rows or _choice_keys("task", of[1])
    key = {"task": "task."} if "task" in groups else {}  # where a task is not one of several
    group, _, choice = topic.partition("=")
    if group in named and choice:
        return _choice_keys(group, choice, key.get(group))
    if topic in named:
        lines = [f"{topic}:", *_rows_of_choices(topic)]
        return lines + [row for name in _readable(topic) for row in ["", *_choice_keys(topic, name, key.get(topic))]]
    if found := [g for g in named if topic in choices(g)]:
        return [row for g in found for row in _choice_keys(g, topic, key.get(g))]
    every = _entry_keys(entry) + [row for g, c in groups.items() for row in _group_keys(g, c)]
    if rows := [r for r in every if re.match(rf"  {re.escape(group)}[.=]", r)]:
        return rows
    known = f"a group ({', '.join(named)}), a choice of one, or a key" if named else "--help alone lists every key"
    raise InputError(f"--help {topic}: nothing of that name; {known}")


def _readable(group: str) -> list[str]:
    """The choices whose yaml can be read: that of another package may be broken, and breaks nothing else."""
    return [name for name in choices(group) if _read(group, name) is not None]


def _read(group: str, name: str) -> Choice | None:
    try:
        return read_choice(group, name)
    except InputError:
        return None


def _rows_of_choices(group: str) -> list[str]:
    faulty = set(choices(group)) - set(_readable(group))
    broken = {n: "(broken: group=choice says what is wrong with it)" for n in faulty}
    return [_row(f"    {name}", broken.get(name) or _about(group, name)) for name in choices(group)]


def _entry_keys(entry: str) -> list[str]:
    _, keys = read_entry(entry)
    return _keys(keys, _comments(config_root() / f"{entry}.yaml"))


def _group_keys(group: str, default: str) -> list[str]:
    """The keys of the default choice, then what others have beside them."""
    lines = [f"keys of {group}, as {group}={default} has them:"]
    lines += _keys(_settable(group, default), _explained(group, default), f"{group}.")
    shown = {k for k, _ in leaves(load_choice(group, default))}
    for name in _readable(group) if group not in ("suite", "data") else ():
        chosen = _settable(group, name)
        other = Choice({k: v for k, v in chosen.options.items() if k not in shown}, chosen.ranges)
        if other.options:
            lines += [f"  only with {group}={name}:", *_keys(other, _explained(group, name), f"{group}.")]
    return lines


def _choice_keys(group: str, name: str, prefix: str | None = None) -> list[str]:
    prefix = prefix or (f"tasks.{Path(name).stem}." if group == "task" else f"{group}.")
    title = f"{group}={name}: {_about(group, name)}".rstrip(": ")
    return [title, *_keys(_settable(group, name), _explained(group, name), prefix)]


def _settable(group: str, name: str) -> Choice:
    """The keys of a choice that a command line can set: not its name, nor tables from code to label."""
    options, ranges = read_choice(group, name)
    flat = {k: v for k, v in leaves(options) if k.split(".")[-1] != "name" and not re.search(r"\.-?\d+$", k)}
    return Choice(flat, ranges)


def _explained(group: str, name: str) -> Comments:
    """The comments of a choice: its own, else those of the first choice of the group that has the key."""
    out: Comments = {}
    for other in (name, *_shipped_first(group, name)):
        for key, text in _comments(choice_path(group, other)).items():
            out.setdefault(key, text)
    if group == "task":
        source = str(load_choice("task", name)["data"].get("name"))
        of_data = {"chips": "hls_water"}.get(source, source)
        if of_data in choices("data"):
            out |= {f"data.{k}": v for k, v in _explained("data", of_data).items() if f"data.{k}" not in out}
        out |= {f"data.{k}": v for k, v in SHARED["data"].items() if f"data.{k}" not in out}
    return SHARED.get(group, {}) | out


def _shipped_first(group: str, name: str) -> Iterable[str]:
    return (c for c in _readable(group) if c != name)


def _keys(choice: Choice, comments: Comments, prefix: str = "") -> list[str]:
    """A row for each key: its default, its comment, and its range in brackets."""
    rows = []
    for key, value in leaves(choice.options):
        stated = find(choice.ranges, key)
        bracket = f"[{stated.text}]" if stated else ""
        rows.append(_row(f"  {prefix}{key}={show(value)}", f"{_comment(key, comments)} {bracket}".strip()))
    return rows


def _comment(key: str, comments: Comments) -> str:
    """Of the key itself, else of its section, else of what ends like it."""
    section, _, last = key.rpartition(".")
    if section.endswith(".bands"):
        return "number of the band in the file, from 1"
    return comments.get(key) or comments.get(section) or (NESTED.get(last, "") if section else "")


def _row(left: str, right: str) -> str:
    return f"{left:<42} {right}".rstrip()


def _header(path: Path) -> list[str]:
    """The comment lines at the top of a file."""
    lines: list[str] = []
    for line in path.read_text(errors="replace").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return lines


def _about(group: str, name: str) -> str:
    """The first sentence of the comment at the top of a choice's file, to its end."""
    text = " ".join(line.strip() for line in _header(choice_path(group, name)) if not line.startswith("  "))
    end = re.search(r"\.(?= [A-Z]|$)", text)
    return text[: end.end()] if end else text


def _comments(path: Path) -> Comments:
    """Dotted key -> the comment at the end of its line. Knows block style with two or more spaces of indent."""
    comments: Comments = {}
    open_sections: list[tuple[int, str]] = []
    for line in path.read_text(errors="replace").splitlines():
        match = re.match(r"( *)([\w.]+):(?:\s|$)", line)
        if not match:
            continue
        indent, key = len(match[1]), match[2]
        while open_sections and open_sections[-1][0] >= indent:
            open_sections.pop()
        open_sections.append((indent, key))
        comment = re.search(r"\s#\s*(.+)$", line)
        if comment:
            comments[".".join(k for _, k in open_sections)] = comment[1].strip()
    return comments
