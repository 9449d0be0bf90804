"""The text of --help: groups with their choices, and every key with its default, comment and range in the yaml."""

from __future__ import annotations

import re
from pathlib import Path

from gfm_objectives.config.files import Choice, choice_path, choices, config_root, load_choice, read_choice, read_entry
from gfm_objectives.config.ranges import find
from gfm_objectives.config.values import leaves, show


def usage(entry: str, program: str) -> str:
    """The help of `train` or `eval`, as `program` (the words typed before the keys) was called."""
    path = config_root() / f"{entry}.yaml"
    groups, keys = read_entry(entry)
    lines = [f"usage: {program} [group=choice] [key=value] [config=file.yaml] [--help] [--version]", ""]
    lines += [*_header(path), "", "A comma list of values is a sweep, save for keys whose default is a list."]
    lines += ["config=runs/demo/config.yaml starts from that run's config; other words still apply.", ""]
    lines += ["groups (group=choice, or group=file.yaml):"]
    for group, default in groups.items():
        lines += [f"  {group}={default}"]
        lines += [_row(f"    {name}", _about(group, name)) for name in choices(group)]
    lines += ["", "keys and their defaults:", *_keys(keys, _comments(path))]
    for group, default in groups.items():
        lines += ["", f"keys of {group}, as {group}={default} has them:", *_group_keys(group, default)]
        shown = {k for k, _ in leaves(load_choice(group, default))}
        for name in choices(group):
            chosen = _settable(group, name)
            other = Choice({k: v for k, v in chosen.options.items() if k not in shown}, chosen.ranges)
            if other.options and group not in ("suite", "data"):
                rows = _keys(other, _comments(choice_path(group, name)), f"{group}.")
                lines += [f"  only with {group}={name}:", *rows]
    if "suite" in groups:
        tasks = load_choice("suite", groups["suite"])["tasks"]
        lines += ["", "keys of each task (train, val, test: how many places of the split, null = all):"]
        for task in tasks:
            lines += _keys(_settable("task", task), _comments(choice_path("task", task)), f"tasks.{task}.")
    return "\n".join(lines) + "\n"


def _group_keys(group: str, name: str) -> list[str]:
    return _keys(_settable(group, name), _comments(choice_path(group, name)), group + ".")


def _settable(group: str, name: str) -> Choice:
    """The keys of a choice that a command line can set: not its name, nor tables from code to label."""
    options, ranges = read_choice(group, name)
    flat = {k: v for k, v in leaves(options) if k.split(".")[-1] != "name" and not re.search(r"\.-?\d+$", k)}
    return Choice(flat, ranges)


def _keys(choice: Choice, comments: dict[str, str], prefix: str = "") -> list[str]:
    """A row for each key: its default, its comment, and its range in brackets."""
    rows = []
    for key, value in leaves(choice.options):
        stated = find(choice.ranges, key)
        bracket = f"[{stated.text}]" if stated else ""
        rows.append(_row(f"  {prefix}{key}={show(value)}", f"{comments.get(key, '')} {bracket}".strip()))
    return rows


def _row(left: str, right: str) -> str:
    return f"{left:<42} {right}".rstrip()


def _header(path: Path) -> list[str]:
    """The comment lines at the top of a file."""
    lines: list[str] = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return lines


def _about(group: str, name: str) -> str:
    """The first comment line of a choice's file."""
    return next(iter(_header(choice_path(group, name))), "")


def _comments(path: Path) -> dict[str, str]:
    """Dotted key -> the comment at the end of its line. Knows block style with two or more spaces of indent."""
    comments: dict[str, str] = {}
    open_sections: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
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
