"""Leaving on a signal: at a step boundary, with a checkpoint, a line and an exit code; the same command goes on."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pretrain import SMALL
from test_training import train

from gfm_objectives import cli, config, pretrain, ranks
from gfm_objectives.errors import InputError
from gfm_objectives.pretrain import pretraining
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.signals import SIGNALS, Asked, held, listening
from gfm_objectives.training import launching
from gfm_objectives.training.finite import EVERY
from gfm_objectives.training.leaving import AGAIN, due, requeued

SHORT = ("objective=supervised", "data.size=16", "budget.flops=2e9", "checkpoint_every=1", "loggers=[]", "log_every=1")


def start(folder: Path) -> int:
    """The short run in a process of its own, by the command; what it prints goes to folder/told.txt. A fork: another
    start of Python would take most of the time."""
    if pid := os.fork():
        return pid
    code: object = 1
    try:
        os.setsid()
        folder.mkdir(exist_ok=True)
        sys.stdout = sys.stderr = (folder / "told.txt").open("w", buffering=1)
        keys = dict(w.split("=", 1) for w in (*SMALL, "device=cpu", f"runs={folder}", "name=demo", *SHORT))
        code = cli.train([f"{k}={v}" for k, v in keys.items()])
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def begun(folder: Path, lines: int = 4) -> None:
    """Wait until steps of the run are logged."""
    table, deadline = folder / "demo" / "metrics.csv", time.monotonic() + 300
    while not (table.exists() and table.read_text().count("\n") >= lines):
        assert time.monotonic() < deadline, "no step"
        time.sleep(0.005)


def weights(folder: Path) -> bytes:
    return (folder / "demo" / "encoder.safetensors").read_bytes()


@pytest.mark.parametrize("asking", [signal.SIGUSR1, signal.SIGTERM])
def test_a_run_that_is_asked_leaves_and_goes_on_bit_for_bit(
    tmp_path: Path, asking: signal.Signals, unbroken: Path
) -> None:
    pid = start(tmp_path)
    begun(tmp_path)
    os.kill(pid, asking)
    code, told = ended(pid), (tmp_path / "told.txt").read_text()
    assert code == AGAIN, told
    line = next(x for x in told.splitlines() if "asked to leave" in x)
    assert f"by {asking.name}" in line and "is written; the same command goes on" in line and "Traceback" not in told
    assert not (tmp_path / "demo" / "ledger.json").exists()
    code, told = ended(start(tmp_path)), (tmp_path / "told.txt").read_text()
    assert code == 0 and "goes on from step" in told, told
    assert weights(tmp_path) == weights(unbroken)
    one, other = (Ledger.read(f / "demo" / "ledger.json") for f in (tmp_path, unbroken))
    assert (one.flops_spent, one.samples, one.tokens) == (other.flops_spent, other.samples, other.tokens)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["first", "second"])
def test_two_processes_of_which_one_is_asked_leave_and_go_on_bit_for_bit(tmp_path: Path, asked: str) -> None:
    words = (*SHORT, "devices=2", "optim.batch_size=2", "budget.flops=2.5e9")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    told = (process := train(whole, *words)).communicate(timeout=300)[0]
    assert process.returncode == 0, told
    process = train(broken, *words)
    begun(broken)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(process.pid if asked == "first" else int(children[-1]), signal.SIGUSR1)
    told = process.communicate(timeout=300)[0]
    assert process.returncode == AGAIN and told.count("asked to leave by SIGUSR1") == 1, told
    assert "Traceback" not in told and not (broken / "demo" / "ledger.json").exists(), told
    process = train(broken, *words)
    told = process.communicate(timeout=300)[0]
    left = torch.load(broken / "demo" / "checkpoints" / "last.ckpt", weights_only=True)["run"]
    assert process.returncode == 0 and "goes on from step" in told and left["step"] > EVERY, told
    assert weights(broken) == weights(whole)
    one, other = (Ledger.read(f / "demo" / "ledger.json") for f in (broken, whole))
    counts = ("flops_spent", "samples", "tokens", "visible_tokens", "merged_tokens")
    assert [getattr(one, k) for k in counts] == [getattr(other, k) for k in counts]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    assert ended(start(folder)) == 0
    return folder


def test_a_run_that_is_asked_before_its_first_step_leaves_with_a_checkpoint(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = pretraining.assembled

    def asked_meanwhile(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR2)
        return ready(*given)

    monkeypatch.setattr(pretraining, "assembled", asked_meanwhile)
    code, told = ended(start(tmp_path)), (tmp_path / "told.txt").read_text()
    assert code == AGAIN and "by SIGUSR2, the checkpoint of step 0 (0% of the budget) is written" in told, told
    monkeypatch.undo()
    code, told = ended(start(tmp_path)), (tmp_path / "told.txt").read_text()
    assert code == 0 and "goes on from step 0" in told, told
    assert weights(tmp_path) == weights(unbroken)


def test_signals_mean_afterwards_what_they_meant_before() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with listening() as asked:
        assert not due(asked, 0, torch.device("cpu"))
        with listening() as inner:
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert inner is asked and asked.signal == signal.SIGUSR1, "the first"
    assert signal.getsignal(signal.SIGUSR1) == before
    with listening() as later:
        assert later.signal == 0


def test_a_process_begun_while_signals_are_held_hears_them_once_it_listens() -> None:
    """However early they come: it has not even begun to read Python."""
    code = "from gfm_objectives.signals import listening\nwith listening() as asked: print(int(asked.signal))"
    with held():
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    process.send_signal(signal.SIGUSR1)
    assert (process.communicate(timeout=300)[0].strip(), process.returncode) == (str(int(signal.SIGUSR1)), 0)


INTERRUPTED = """
import os, signal, time
from multiprocessing import forkserver
from gfm_objectives.signals import end_workers, fork_server
if __name__ == "__main__":
    context = fork_server("decimal")
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGINT)  # it has hardly begun to read Python
    worker = context.Process(target=os.kill, args=(0, signal.SIGINT))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker's goes to all of the group
    worker.start()
    worker.join()
    print(worker.exitcode)
    worker = context.Process(target=time.sleep, args=(600,))
    worker.start()
    end_workers()
    worker.join()
    print(worker.exitcode)
"""


def test_workers_and_their_server_leave_ctrl_c_to_their_parent(tmp_path: Path) -> None:
    """It goes to all processes of a terminal, at any moment; each that heard it would print a traceback."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(script)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, start_new_session=True)
    assert (run.stdout, run.stderr) == ("0\n-9\n", "")


def test_further_processes_begin_while_signals_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[set[int]] = []
    monkeypatch.setattr(
        launching.L.Fabric, "launch", lambda _: found.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    )
    launching.launched(torch.device("cpu"))
    assert found[0] >= {*SIGNALS} and not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {*SIGNALS}


def test_of_several_processes_all_leave_at_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another one was asked; all look at the same steps, or one would wait for ever."""
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "worst", lambda t: t.clamp(min=int(signal.SIGTERM)))
    asked = Asked()
    assert [due(asked, step, torch.device("cpu")) for step in (EVERY - 1, EVERY)] == [False, True]
    assert asked.signal == signal.SIGTERM


def scontrol(folder: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name in the path, which notes what it is called with."""
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/called\necho "not allowed" >&2\nexit {code}\n')
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "called"


def test_a_slurm_job_is_requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = scontrol(tmp_path, 0, monkeypatch)
    assert "job 7 is back in the queue" in requeued(signal.SIGUSR1, {"SLURM_JOB_ID": "7"})
    task = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    assert "job 7_1 is back" in requeued(signal.SIGUSR1, task)
    assert called.read_text() == "requeue 7\nrequeue 7_1\n"
    assert requeued(signal.SIGTERM, task) == requeued(signal.SIGUSR1, {}) == "the same command goes on"
    assert called.read_text() == "requeue 7\nrequeue 7_1\n", "what was cancelled or preempted, and what is no job"


def test_a_requeue_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol(tmp_path, 1, monkeypatch)
    assert "scontrol requeue 7 failed (not allowed)" in requeued(signal.SIGUSR1, {"SLURM_JOB_ID": "7"})
    monkeypatch.setenv("PATH", "")
    assert "scontrol requeue 7 failed" in requeued(signal.SIGUSR1, {"SLURM_JOB_ID": "7"})


def test_a_cluster_is_typed_for_you_and_what_is_typed_wins() -> None:
    (cfg,) = config.compose("train", ["cluster=a100", "num_nodes=2", "loader.workers=3"])
    assert (cfg.device, cfg.devices, cfg.num_nodes, cfg.compile, cfg.precision) == ("cuda", 4, 2, "on", "bf16")
    assert (cfg.loader.workers, cfg.loader.prefetch) == (3, 4)
    with pytest.raises(InputError, match="cluster=a10: no such choice; did you mean a100"):
        config.compose("train", ["cluster=a10"])


def test_a_sweep_over_numbers_of_processes_is_refused() -> None:
    with pytest.raises(InputError, match="devices=1,2: the runs of one command share its processes"):
        pretrain.run_all(config.compose("train", ["devices=1,2"]))
    with pytest.raises(InputError, match="num_nodes=1,2"):
        pretrain.run_all(config.compose("train", ["num_nodes=1,2"]))
