"""The command line, gfm train | eval | inspect | yardstick | reproduce; and what train.py and eval.py call."""

from __future__ import annotations

import os
import select
import sys
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from gfm_objectives import __version__
from gfm_objectives.errors import InputError, InputWarning, explain

# Threads that wait give their core back: where others share the machine, spinning took up to seven times the CPU time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

# Everything that imports torch is imported after the config has been checked: mistakes and --help answer at once.


def train(argv: Sequence[str] | None = None, program: str = "python train.py") -> int:
    """Pretrain one encoder, or one for each config of a sweep. Returns the exit code."""
    return _composed(_train, argv, "train", program)


def evaluate(argv: Sequence[str] | None = None, program: str = "python eval.py") -> int:
    """Compare encoders with their contenders on a suite of tasks. Returns the exit code."""
    return _composed(_evaluate, argv, "eval", program)


def inspect(argv: Sequence[str] | None = None, program: str = "gfm inspect") -> int:
    """Show how data is understood before anything is trained on it. Returns the exit code."""
    return _composed(_inspect, argv, "inspect", program)


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

    return _say("\n".join(map(str, rewrite())) or "nothing changed")


def yardstick(argv: Sequence[str] | None = None, program: str = "gfm yardstick") -> int:
    """Print what the yardstick measured of finished pretraining runs, as a table. Returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or {"--help", "-h"} & {*words}:
        return (_say if words else _fail)(
            f"{program} runs/a runs/b ...: what frozen encoders know of held-out places (docs/yardstick.md); "
            "runs that differ in the seed alone are one row"
        )
    from gfm_objectives.report.yardstick import table

    return _say(table(words))


def fit(argv: Sequence[str] | None = None, program: str = "gfm fit") -> int:
    """Fit a law to a table of runs. Returns the exit code."""
    return _guarded(_fit, argv, "fit", program)


def published(argv: Sequence[str] | None = None, program: str = "gfm published") -> int:
    """Draw gain against compute of the published models. Returns the exit code."""
    return _guarded(_published, argv, "published", program)


def report(argv: Sequence[str] | None = None, program: str = "gfm report") -> int:
    """Write report.html of one or two results folders. Returns the exit code."""
    return _guarded(_report, argv, "report", program)


def sweep(argv: Sequence[str] | None = None, program: str = "gfm sweep") -> int:
    """Run a study of many pretraining runs. Returns the exit code."""
    return _guarded(_sweep, argv, "sweep", program)


COMMANDS: dict[str, tuple[Callable[[Sequence[str], str], int], str]] = {
    "train": (train, "pretrain an encoder with one objective to a budget in FLOPs"),
    "eval": (evaluate, "fine-tune encoders and their contenders on tasks and report the gain"),
    "init": (init, "look at a folder of rasters and write the yaml that describes it"),
    "inspect": (inspect, "show how a folder of chips (a yaml) is understood: counts, ranges, pictures"),
    "yardstick": (yardstick, "print what frozen encoders of finished runs know of held-out places"),
    "fit": (fit, "fit a law to a table of runs: loss, score or gain against parameters, tokens, FLOPs"),
    "published": (published, "draw the published models' gain against compute, your runs beside them"),
    "report": (report, "write report.html, the page people open, from one or two results folders"),
    "sweep": (sweep, "run a study: many pretraining runs, planned first, resumed, compared"),
    "reproduce": (reproduce, "write the tables and figures of README.md and docs/results.md anew from results/"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `gfm`. Returns the exit code; whatever a command raises for its user is told in one line."""
    command, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if command in COMMANDS:
        return guarded(lambda: COMMANDS[command][0](rest, f"gfm {command}"))
    if command in ("--version", "-V"):
        return _say(f"gfm-objectives {__version__}")
    if command in ("", "--help", "-h", "help"):
        rows = [f"  gfm {name:<10} {about}" for name, (_, about) in COMMANDS.items()]
        told = ["usage: gfm <command> [key=value ...]", *rows, "", "gfm <command> --help lists its keys"]
        return guarded(lambda: _say("\n".join(told)))
    near = get_close_matches(command, COMMANDS, 1) or [c for c in COMMANDS if f"{command}.yaml" == f"{c}.yaml"]
    hint = f"; did you mean gfm {near[0]}?" if near else ""
    return _fail(f"gfm {command}: no such command{hint or '; commands: ' + ', '.join(COMMANDS)}")


def guarded(call: Callable[[], int]) -> int:
    """The exit code of `call`. Mistakes of the user and faults of the machine are one line each, without a traceback;
    errors of ours keep theirs, as everything does with GFM_TRACEBACK=1."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", InputWarning)
            warnings.showwarning = _warn
            code = call()
            sys.stdout.flush()
            return code
    except InputError as e:
        return _fail(str(e))
    except BrokenPipeError as e:
        return _left(e)
    except (KeyboardInterrupt, SystemExit) as e:
        if isinstance(e, SystemExit) and not isinstance(e.__context__, KeyboardInterrupt):
            raise  # Lightning turns an interrupt into an exit; other exits are not ours to judge
        print("interrupted; the same command goes on with what is not done", file=sys.stderr)
        return 130
    except Exception as e:
        told = None if os.environ.get("GFM_TRACEBACK") else explain(e)
        if told is None:
            raise
        return _fail(told)


def _left(error: BrokenPipeError) -> int:
    """The reader of what is printed has gone, as in `| head`: nothing is wrong, and nobody is there to be told."""
    poll = select.poll()
    for fd in (1, 2):
        poll.register(fd, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        raise error  # of another pipe: a worker's
    null = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(null, fd)  # Python flushes once more at its end
    return 141  # as the shell says of what ends by SIGPIPE


def _composed(action: Callable[[list[str]], None], argv: Sequence[str] | None, entry: str, program: str) -> int:
    """A command whose words are key=value."""
    words = sys.argv[1:] if argv is None else list(argv)

    def call() -> int:
        if "--version" in words:
            return _say(f"gfm-objectives {__version__}")
        if {"--help", "-h"} & {*words}:
            from gfm_objectives.config.usage import usage

            return _say(usage(entry, program, [w for w in words if not w.startswith("-")]))
        action(words)
        return 0

    return guarded(call)


def _train(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("train", words)
    if len(configs) > 1:
        print(f"{len(configs)} runs: {', '.join(c.name for c in configs)}")
    _preparing(configs[0].name, "the data, the encoder and the count of its FLOPs")
    from gfm_objectives.pretrain import run
    from gfm_objectives.runs.folder import check_data, is_finished, using

    check_data(configs)
    for i, cfg in enumerate(configs, 1):
        if len(configs) > 1 and not cfg.overwrite and is_finished(cfg):
            print(f"[{i}/{len(configs)}] {cfg.name}: finished before, skipped (overwrite=true trains it again)")
            continue
        with using(cfg):
            run(cfg)


def _evaluate(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("eval", words)
    if len(configs) > 1:
        print(f"{len(configs)} comparisons, one after the other: {', '.join(c.name for c in configs)}")
    _preparing(configs[0].name, "runs, tasks and the plan")
    from gfm_objectives.compare import run

    for cfg in configs:
        run(cfg)


def _inspect(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("inspect", [w if "=" in w or w.startswith("-") else f"data={w}" for w in words])
    _preparing(configs[0].name, "the data")
    from gfm_objectives.inspection import run

    for cfg in configs:
        run(cfg)


def _preparing(name: str, what: str) -> None:
    """Said before torch is loaded, which takes seconds, on a network disk a minute."""
    print(f"{name}: preparing {what}", flush=True)
def _fit(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("fit", [w if "=" in w or w.startswith("-") else f"points={w}" for w in words])
    from gfm_objectives.scaling.program import run

    for cfg in configs:
        run(cfg)


def _published(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("published", _folders(words))
    from gfm_objectives.scaling.essay import run

    for cfg in configs:
        run(cfg)


def _report(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("report", _folders(words))
    from gfm_objectives.report.html import run

    for cfg in configs:
        run(cfg)


def _sweep(words: list[str]) -> None:
    from gfm_objectives.config import compose

    configs = compose("sweep", [w if "=" in w or w.startswith("-") else f"study={w}" for w in words])
    from gfm_objectives.sweep import run

    for cfg in configs:
        run(cfg)


def _folders(words: list[str]) -> list[str]:
    """Words without = are results folders."""
    bare = [w for w in words if "=" not in w and not w.startswith("-")]
    return [w for w in words if w not in bare] + [f"results={','.join(bare)}"] * bool(bare)


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
