"""Splits on the device that fine-tunes, and the device of each worker."""

from __future__ import annotations

from queue import SimpleQueue

import held
import pytest
import torch
from test_finetune import SEGMENTATION, build, flops, places

from gfm_objectives.compare import holding
from gfm_objectives.compare.holding import Holding, device_of, usual_workers
from gfm_objectives.compare.trials import Workers, place_of
from gfm_objectives.data.places import Kept, OnDevice, Subset
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.finetune import HParams, evaluate, finetune

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_split_on_a_device_gives_the_same_weights_and_scores() -> None:
    """Bit for bit, the fit of the head and a subset of the labels included."""
    train, val = (Subset(held.Held(places(n, seed)), range(n - 2)) for n, seed in ((14, 0), (10, 1)))
    found = []
    for of_train, of_val in ((train, val), (OnDevice(train, CPU), OnDevice(val, CPU))):
        model = build()
        finetune(model, of_train, SEGMENTATION, "label", flops(600), HParams(0.01, head_first=True), seed=2)
        stats, shown = evaluate(model, of_val, SEGMENTATION, "label", 3, 16, show=(1,))
        found.append(([p.clone() for p in model.parameters()], stats, shown[1]))
    one, other = found
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert torch.equal(one[1], other[1]) and (one[2] == other[2]).all()


def test_splits_stay_while_there_is_room_and_the_last_asked_for_longest() -> None:
    train = Kept(Synthetic("train", size=16, dates=1), 4, ("map",))
    size = OnDevice(train, CPU).nbytes
    hold = Holding(CPU, 2.5 * size)
    a, b = hold(train, "a"), hold(train, "b")
    assert hold(train, "a") is a and hold(train, "b") is b
    hold(train, "a")
    hold(train, "c")
    assert list(hold.kept) == [("a",), ("c",)], "b was asked for least lately"
    assert Holding(CPU, 0.5 * size)(train, "a") is train, "too large: read from the host"
    train.whole = True
    assert hold(train, "tiles") is train


def test_a_cpu_keeps_what_it_has() -> None:
    train = held.Held(places(4))
    assert holding.held(train, CPU, 1, "train") is train


def test_worker_i_has_gpu_i_modulo_their_number() -> None:
    assert [device_of(i, CUDA, 2).index for i in range(5)] == [0, 1, 0, 1, 0]
    assert device_of(3, torch.device("cuda:1"), 2) == torch.device("cuda:1") and device_of(3, CPU, 1) == CPU


def test_one_run_a_gpu_where_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [usual_workers(d, 8) for d in (CPU, CUDA, torch.device("cuda:1"))] == [8, 3, 1]


def test_workers_are_told_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five on two GPUs, which need not be there for that."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    about = Workers(5, CUDA, torch.float32)._about(SimpleQueue())
    places = [place_of(*about) for _ in range(5)]
    assert [p["device"].index for p in places] == [0, 1, 0, 1, 0] and {p["together"] for p in places} == {3}
    (one,) = (place_of(*Workers(1, torch.device("cuda:1"), torch.float32)._about(SimpleQueue())) for _ in range(1))
    assert one == {"device": torch.device("cuda:1"), "together": 1}
