"""The command line, gfm train | eval | inspect | yardstick | reproduce; and what train.py and eval.py call."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from gfm_objectives import __version__
from gfm_objectives.errors import InputError, InputWarning

# Everything that imports torch is imported after the config has been checked: mistakes and --help answer at once.


def train(argv: Sequence[str] | None = None, program: str = "python train.py") -> int:
    """Pretrain one encoder, or one for each config of a sweep. Returns the exit code."""
    return _guarded(_train, argv, "train", program)


def evaluate(argv: Sequence[str] | None = None, program: str = "python eval.py") -> int:
    """Compare encoders with their contenders on a suite of tasks. Returns the exit code."""
    return _guarded(_evaluate, argv, "eval", program)


def inspect(argv: Sequence[str] | None = None, program: str = "gfm inspect") -> int:
    """Show how data is understood before anything is trained on it. Returns the exit code."""
    return _guarded(_inspect, argv, "inspect", program)


def init(argv: Sequence[str] | None = None, program: str = "gfm init") -> int:
    """Write the yaml of a folder. Returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or {"--help", "-h"} & {*words}:
        return (_say if words else _fail)(
            f"{program} FOLDER [out=name.yaml] [attribute=column]: looks at a folder of rasters and writes the yaml "
            "that describes it (docs/chips.md); attribute names the column of vector labels that holds the class"
        )
    from gfm_objectives.inspection.drafting import main

    try:
        return _say(main(words))
    except InputError as e:
        return _fail(str(e))


def reproduce(argv: Sequence[str] | None = None, program: str = "gfm reproduce") -> int:
    """Write every table and figure of the repository's pages anew from results/. Returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words != ["readme"]:
        return (_say if {"--help", "-h"} & {*words} else _fail)(
            f"{program} readme: writes every table and figure of README.md and docs/results.md anew from results/; "
            "in a checkout of the repository, no options"
        )
    from gfm_objectives.report.pages import reproduce as rewrite

    try:
        changed = rewrite()
    except InputError as e:
        return _fail(str(e))
    return _say("\n".join(map(str, changed)) or "nothing changed")


def yardstick(argv: Sequence[str] | None = None, program: str = "gfm yardstick") -> int:
    """Print what the yardstick measured of finished pretraining runs, as a table. Returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or {"--help", "-h"} & {*words}:
        return (_say if words else _fail)(
            f"{program} runs/a runs/b ...: what frozen encoders know of held-out places (docs/yardstick.md); "
            "runs that differ in the seed alone are one row"
        )
    from gfm_objectives.report.yardstick import table

    try:
        return _say(table(words))
    except InputError as e:
        return _fail(str(e))


COMMANDS: dict[str, tuple[Callable[[Sequence[str], str], int], str]] = {
    "train": (train, "pretrain an encoder with one objective to a budget in FLOPs"),
    "eval": (evaluate, "fine-tune encoders and their contenders on tasks and report the gain"),
    "init": (init, "look at a folder of rasters and write the yaml that describes it"),
    "inspect": (inspect, "show how a folder of chips (a yaml) is understood: counts, ranges, pictures"),
    "yardstick": (yardstick, "print what frozen encoders of finished runs know of held-out places"),
    "reproduce": (reproduce, "write the tables and figures of README.md and docs/results.md anew from results/"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `gfm`. Returns the exit code."""
    command, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if command in COMMANDS:
        return COMMANDS[command][0](rest, f"gfm {command}")
    if command in ("--version", "-V"):
        return _say(f"gfm-objectives {__version__}")
    if command in ("", "--help", "-h", "help"):
        rows = [f"  gfm {name:<10} {about}" for name, (_, about) in COMMANDS.items()]
        return _say(
            "\n".join(["usage: gfm <command> [key=value ...]", *rows, "", "gfm <command> --help lists its keys"])
        )
    near = get_close_matches(command, COMMANDS, 1) or [c for c in COMMANDS if f"{command}.yaml" == f"{c}.yaml"]
    hint = f"; did you mean gfm {near[0]}?" if near else ""
    return _fail(f"gfm {command}: no such command{hint or '; commands: ' + ', '.join(COMMANDS)}")


def _guarded(action: Callable[[list[str]], None], argv: Sequence[str] | None, entry: str, program: str) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if "--version" in words:
            return _say(f"gfm-objectives {__version__}")
        if "--help" in words or "-h" in words:
            from gfm_objectives.config.usage import usage

            return _say(usage(entry, program))
        with warnings.catch_warnings():
            warnings.simplefilter("default", InputWarning)
            warnings.showwarning = _warn
            action(words)
    except InputError as e:
        return _fail(str(e))
    except (KeyboardInterrupt, SystemExit) as e:
        if isinstance(e, SystemExit) and not isinstance(e.__context__, KeyboardInterrupt):
            raise  # Lightning turns an interrupt into an exit; other exits are not ours to judge
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _train(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("train", words)
    from gfm_objectives.pretrain import run
    from gfm_objectives.runs.folder import is_finished

    if len(configs) > 1:
        print(f"{len(configs)} runs: {', '.join(c.name for c in configs)}")
    for i, cfg in enumerate(configs, 1):
        if len(configs) > 1 and not cfg.overwrite and is_finished(cfg):
            print(f"[{i}/{len(configs)}] {cfg.name}: finished before, skipped (overwrite=true trains it again)")
            continue
        run(cfg)


def _evaluate(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("eval", words)
    from gfm_objectives.compare import run

    for cfg in configs:
        run(cfg)


def _inspect(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("inspect", [w if "=" in w or w.startswith("-") else f"data={w}" for w in words])
    from gfm_objectives.inspection import run

    for cfg in configs:
        run(cfg)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Ours in one line, without the place in the code that Python would show."""
    usual = warnings.formatwarning(message, category, filename, lineno, line)
    print(f"warning: {message}" if category is InputWarning else usual.rstrip("\n"), file=file or sys.stderr)


def _say(text: str) -> int:
    print(text.rstrip("\n"))
    return 0


def _fail(text: str) -> int:
    """One line, whatever the text was."""
    print("error: " + " ".join(text.split("\n")), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
