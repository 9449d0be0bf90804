"""The command line, gfm <command>; and what train.py and eval.py call."""

from __future__ import annotations

import os
import select
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from gfm_objectives import __version__
from gfm_objectives.errors import InputError, InputWarning, explain
from gfm_objectives.signals import end_workers, listening

# Threads that wait give their core back: where others share the machine, spinning took up to seven times the CPU time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
# What its C++ warns of is for developers: with several processes, that every weight had a gradient. Errors are told.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


@dataclass(frozen=True, slots=True)
class Command:
    """run: module:function, called with each config of the command's yaml or, of a command without one, with its
    words: it then returns what is printed. It is imported after the config has been checked, torch with it: mistakes
    and --help answer at once, and `preparing` is said before, as that takes seconds.

    bare: the key that words without = belong to; joined: several are one list; whole: run takes all configs of a sweep
    at once; listens: to signals that ask it to leave; usage: of a command without a yaml; words: all that it knows.
    """

    about: str
    run: str
    preparing: str
    bare: str = ""
    joined: bool = False
    whole: bool = False
    listens: bool = False
    usage: str = ""
    words: tuple[str, ...] = ()


COMMANDS = {
    "train": Command(
        "pretrain an encoder with one objective to a budget in FLOPs",
        "pretrain:run_all",
        "the data, the encoder and the count of its FLOPs",
        whole=True,
        listens=True,
    ),
    "plan": Command(
        "say what a pretraining run will take: days, kWh, euro, memory, tokens per parameter",
        "planning:run",
        "the data, the count of FLOPs and a step on no device",
    ),
    "sweep": Command(
        "run a study: many pretraining runs, planned first, resumed, compared", "sweep:run", "the study", bare="study"
    ),
    "replay": Command(
        "run a step of a run again and say why its loss was no number", "pretrain.replaying:run", "the run", bare="run"
    ),
    "eval": Command(
        "fine-tune encoders and their rivals on tasks and report the gain", "compare:run", "runs, tasks and the plan"
    ),
    "init": Command(
        "look at a folder of rasters and write the yaml that describes it",
        "inspection.drafting:main",
        "a look at the files",
        usage="FOLDER [out=name.yaml] [attribute=column]: looks at a folder of rasters and writes the yaml that "
        "describes it (docs/chips.md); attribute names the column of vector labels that holds the class",
    ),
    "inspect": Command(
        "show how a folder of chips is understood: counts, ranges, pictures", "inspection:run", "the data", bare="data"
    ),
    "data": Command(
        "list the data sets that are known, which are on disk, and what fetches the others",
        "data.torchgeo.listing:main",
        "the list of data sets",
        usage="list: the data sets that are read in their real layouts, which of them are on disk, and where the "
        "others come from (docs/real_data.md)",
        words=("list",),
    ),
    "prepare": Command(
        "read data once and write it as shards, which load many times faster", "data.prepare:run", "the data"
    ),
    "curate": Command(
        "find near-duplicates and empty places; write the keep-list that data.keep= reads",
        "curation.curating:run",
        "the data",
    ),
    "leakage": Command(
        "name the ground that a run's data, or the training split, shares with a task's test",
        "curation.leakage:run",
        "the data of both sides",
        bare="run",
    ),
    "finetune": Command(
        "train one model for a task, keep it, or say which to use and why",
        "compare.single:run",
        "the task and its data",
    ),
    "predict": Command(
        "map a whole scene with a kept model, of any size, to a GeoTIFF or polygons",
        "predict:run",
        "the model and the scene",
    ),
    "review": Command("look at a map: doubt, tiles to label, areas with intervals, changes", "review:run", "the map"),
    "export": Command(
        "write a model for other programs: torch.export, ONNX, timm, torchgeo, ...", "export:run", "the model"
    ),
    "report": Command(
        "write report.html, the page people open, from one or two results folders",
        "report.html:run",
        "the results",
        bare="results",
        joined=True,
    ),
    "fit": Command(
        "fit a law to a table of runs: loss, score or gain against parameters, tokens, FLOPs",
        "scaling.program:run",
        "the points",
        bare="points",
    ),
    "published": Command(
        "draw the published models' gain against compute, your runs beside them",
        "scaling.essay:run",
        "the published figures",
        bare="results",
        joined=True,
    ),
    "yardstick": Command(
        "print what frozen encoders of finished runs know of held-out places",
        "report.yardstick:table",
        "the runs",
        usage="runs/a runs/b ...: what frozen encoders know of held-out places (docs/yardstick.md); runs that differ "
        "in the seed alone are one row",
    ),
    "reproduce": Command(
        "write the tables and figures of README.md and docs/results.md anew from results/",
        "report.pages:main",
        "the pages",
        usage="readme: writes every table and figure of README.md and docs/results.md anew from results/; in a "
        "checkout of the repository, no options",
        words=("readme",),
    ),
}


def train(argv: Sequence[str] | None = None) -> int:
    """What train.py calls. Returns the exit code."""
    return guarded(lambda: _called("train", sys.argv[1:] if argv is None else argv, "python train.py"), argv is None)


def evaluate(argv: Sequence[str] | None = None) -> int:
    """What eval.py calls. Returns the exit code."""
    return guarded(lambda: _called("eval", sys.argv[1:] if argv is None else argv, "python eval.py"), argv is None)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script `gfm`. Returns the exit code; whatever a command raises for its user is told in one line."""
    command, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if command in COMMANDS:
        return guarded(lambda: _called(command, rest, f"gfm {command}"), argv is None)
    if command in ("--version", "-V"):
        return _say(f"gfm-objectives {__version__}")
    if command in ("", "--help", "-h", "help"):
        rows = [f"  gfm {name:<10} {c.about}" for name, c in COMMANDS.items()]
        told = ["usage: gfm <command> [key=value ...]", *rows, "", "gfm <command> --help lists its keys"]
        return guarded(lambda: _say("\n".join(told)))
    near = get_close_matches(command, COMMANDS, 1)
    if not near and command.isidentifier():
        from gfm_objectives.config.files import entries, keys_of

        near = [f"{name} {command}=..." for name in ("review", *entries()) if command in keys_of(name)]
    hint = f"; did you mean gfm {near[0]}?" if near else ""
    return _fail(f"gfm {command}: no such command{hint or '; commands: ' + ', '.join(COMMANDS)}")


def guarded(call: Callable[[], int], last: bool = False) -> int:
    """The exit code of `call`. Mistakes of the user and faults of the machine are one line each, without a traceback;
    errors of ours keep theirs, as everything does with GFM_TRACEBACK=1. last: the process ends with it."""
    if isinstance(sys.stdout, TextIOWrapper):  # what a terminal's encoding lacks is no reason to end
        with suppress(OSError):  # a pipe in the place of a file, which cannot tell where it stands
            sys.stdout.reconfigure(errors="backslashreplace")
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
        if isinstance(e, SystemExit) and isinstance(e.__context__, BrokenPipeError):
            return 141  # rich has seen it first, and put the null device in the place of the pipe
        if isinstance(e, SystemExit) and not isinstance(e.__context__, KeyboardInterrupt):
            raise  # Lightning turns an interrupt into an exit; other exits are not ours to judge
        with suppress(KeyboardInterrupt):  # whoever presses it twice is not to read where the first one was
            if last:
                end_workers()
            print("interrupted; the same command goes on with what is not done", file=sys.stderr, flush=True)
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


def _called(name: str, argv: Sequence[str], program: str) -> int:
    """_run, from its first line on with an ear to whoever asks it to leave, where the command listens."""
    with listening() if COMMANDS[name].listens else nullcontext():
        return _run(name, argv, program)


def _run(name: str, argv: Sequence[str], program: str) -> int:
    """Run a command with its words; `program` is what was typed to call it."""
    command, words = COMMANDS[name], list(argv)
    if "--version" in words:
        return _say(f"gfm-objectives {__version__}")
    asked = bool({"--help", "-h"} & {*words})
    if command.usage:
        wrong = tuple(words) != command.words if command.words else not words
        if asked or wrong:
            return (_say if asked else _fail)(f"{program} {command.usage}")
        return _say(_function(name)(words))
    if asked:
        from gfm_objectives.config.usage import usage

        return _say(usage(name, program, [w for w in words if not w.startswith("-")]))
    from gfm_objectives.config import compose

    configs = compose(name, _keyed(command, words))
    for key in ("output", "out"):  # a file that each of them would write
        files = [str(c[key]) for c in configs if key in c and Path(str(c[key])).suffix]
        if len({*files}) < len(files):
            raise InputError(
                f"{key}={files[0]}: {len(configs)} runs would write it one over the other; give one at a time"
            )
    if len(configs) > 1:
        print(f"{len(configs)} runs: {', '.join(c.name for c in configs)}")
    run = _function(name, configs[0].name)
    for given in [configs] if command.whole else configs:
        run(given)
    return 0


def _keyed(command: Command, words: Sequence[str]) -> list[str]:
    """The words as key=value."""
    bare = [w for w in words if command.bare and "=" not in w and not w.startswith("-")]
    rest = [w for w in words if w not in bare]
    if command.joined:
        return rest + [f"{command.bare}={','.join(bare)}"] * bool(bare)
    return rest + [f"{command.bare}={w}" for w in bare]


def _function(command: str, name: str = "") -> Callable[[Any], Any]:
    """What runs the command, imported after a word of it; name: of its run, without which its result is printed."""
    told = f"{name or command}: preparing {COMMANDS[command].preparing}"
    print(told, file=sys.stdout if name else sys.stderr, flush=True)
    module, _, function = COMMANDS[command].run.partition(":")
    return getattr(import_module(f"gfm_objectives.{module}"), function)


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
    """One line, whatever the text was; what a terminal would obey is shown as it is written in Python."""
    line = " ".join(text.splitlines())
    told = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print(f"error: {told}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
