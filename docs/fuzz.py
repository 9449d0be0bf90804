"""Types random commands and counts what becomes of them: a run, or one clear line; anything else is printed and fails.

    PYTHONPATH=.:tests python docs/fuzz.py [count=1000] [seed=0]

Each is a small command that works, with one to three words of any sort: keys of its own or of nothing, numbers huge,
negative or none, unicode, lists, yaml. What is accepted runs for half a second of CPU time, and is then stopped. Memory
is limited, so that what is too large for this machine has to be told as well.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import faults
import hypothesis
import torch
from hypothesis import strategies as st
from omegaconf import OmegaConf
from test_fuzz import values, words

from gfm_objectives import cli
from gfm_objectives.config import compose, leaves

SECONDS = 0.5
ROOM = 3 * 2**30  # bytes that a command may take beyond what the imports have
BASES = {
    "train": faults.given(faults.SMALL, "name=a", "overwrite=true"),
    "plan": "plan data.size=32 data.dates=1 encoder.depth=1 measured=null device=cpu",
    "eval": faults.given(faults.EVAL, "name=a"),
    "inspect": "inspect data.size=16 data.dates=1 places=2",
    "prepare": faults.given(faults.PREPARE, "overwrite=true"),
}
# Where files go, and what would start many processes: no business of chance.
KEPT = {"runs", "results", "out", "devices", "num_nodes", "workers", "loader.workers", "threads", "overwrite"}
LIKELY = (
    "0 1 2 3 4 8 16 32 0.1 0.5 1e-3 1e9 true false null s2 s1 s2,dem map mae jepa cross_sensor temporal crop".split()
)


def laid_over(base: list[str], odd: list[str]) -> list[str]:
    """The words of `base`, less those of the keys that `odd` has."""
    keys = {w.partition("=")[0] for w in odd}
    return [*(w for w in base if w.partition("=")[0] not in keys), *odd]


class Enough(BaseException):
    """It runs."""


def commands() -> st.SearchStrategy[list[str]]:
    def of(name: str, base: str) -> st.SearchStrategy[list[str]]:
        (cfg,) = compose(name, base.split()[1:])
        keys = [k for k, _ in leaves(OmegaConf.to_container(cfg)) if k not in KEPT]
        key = st.one_of(st.sampled_from(keys), st.sampled_from(keys), st.sampled_from(["data", "objective", "encoder"]))
        word = st.tuples(key, st.one_of(st.sampled_from(LIKELY), values)).map("=".join)
        odd = st.one_of(word, word, word, words.filter(lambda w: w.partition("=")[0] not in KEPT))
        return st.lists(odd, min_size=1, max_size=3).map(lambda ws: laid_over(base.split(), ws))

    return st.one_of(*(of(name, base) for name, base in BASES.items()))


def enough(*_: Any) -> None:
    raise Enough


def outcome(argv: list[str]) -> str:
    """What became of it, in a word or two; the traceback where there is one."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)  # again, where the first was swallowed
            try:
                code = cli.main(argv)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    except Enough:
        return "runs, stopped"
    except BaseException:
        return traceback.format_exc()
    told = [x for x in err.getvalue().splitlines() if x.startswith("error: ")]
    if code == 2 and len(told) == 1 and len(told[0]) > 20:
        return "one line"
    return "runs, to its end" if code == 0 and not told else f"exit code {code}: {err.getvalue()[-300:]}"


def main(count: str = "1000", seed: str = "0") -> int:
    """In the present folder; how many went wrong."""
    import gfm_objectives.compare
    import gfm_objectives.data.prepare
    import gfm_objectives.inspection
    import gfm_objectives.planning
    import gfm_objectives.pretrain  # noqa: F401  (before the time of a command runs)

    torch.set_num_threads(1)
    Path("tiny.yaml").write_text(faults.TASK)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, enough)
    for base in BASES.values():  # imports, once
        assert outcome(base.split()) in ("runs, stopped", "runs, to its end"), base
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[tuple[list[str], str]] = []

    @hypothesis.seed(int(seed))
    @hypothesis.settings(
        max_examples=int(count), deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(commands())
    def type_it(argv: list[str]) -> None:
        became = outcome(argv)
        known = became in ("one line", "runs, stopped", "runs, to its end")
        counts[argv[0], became if known else "WRONG"] += 1
        if not known:
            wrong.append((argv, became))
            print(f"WRONG {argv}\n{became[-700:]}", file=sys.__stdout__, flush=True)

    type_it()
    kinds = ("one line", "runs, to its end", "runs, stopped", "WRONG")
    print(f"| gfm | {' | '.join(kinds)} | all |\n| --- | {'---: | ' * 5}")
    for name in (*BASES, "all"):
        row = [sum(n for (c, k), n in counts.items() if k == kind and name in (c, "all")) for kind in kinds]
        print(f"| {name} | {' | '.join(map(str, [*row, sum(row)]))} |")
    return len(wrong)


if __name__ == "__main__":
    os.environ.pop("GFM_DATA", None)
    with tempfile.TemporaryDirectory() as desk, contextlib.chdir(desk):
        sys.exit(bool(main(*sys.argv[1:])))
