"""Whole loops of pretraining, reading included: this project's, and a plain one on torchgeo's data set.

    GFM_DATA=/data python benchmarks/loops.py [encoder=nano,tiny] [batch=8] [steps=6] [repeats=9]

The plain loop is what a script would have: torchgeo's MMEarth (its miniature; twelve bands of Sentinel-2), torch's
DataLoader, forward, backward, AdamW. Ours is what `train.py` does at every step, on shards of the same places: order
that resumes, flips and quarter turns, clipping, checks of the loss, accounts, tables; with compile=off and on. First
with the same model as the plain loop, the MAE of `peers.py` on timm's ViT, so that the arithmetic is the same to a
FLOP, also with all places in memory on both sides; then with objective=mae on our encoder of that size, which has more
to compute. One thread, no workers, fp32, sides take turns.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import torch
from inputs import sharded
from peers import OURS, PATCH, Plain
from torch import Tensor
from torch.utils.data import DataLoader

from gfm_objectives.batch import Batch
from gfm_objectives.budget import Budget
from gfm_objectives.config import compose, load_choice
from gfm_objectives.data.source import Source
from gfm_objectives.flops import Cost
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import build_objective
from gfm_objectives.objectives.objective import Objective, Variant
from gfm_objectives.pretrain.measuring import Measuring
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.pretrain.steps import Step
from gfm_objectives.runs.provenance import settled
from gfm_objectives.training.compiling import wanted
from gfm_objectives.training.launching import launched

CPU = torch.device("cpu")
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8A", "B8", "B9", "B11", "B12")  # as torchgeo names them


class Theirs(Objective):
    """The plain MAE as an objective of this project."""

    def __init__(self, model: Plain, source: Source) -> None:
        super().__init__(model, source.spec)  # type: ignore[arg-type]

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        return {"loss": self.encoder(batch.sensors["s2"].x[:, 0])}  # type: ignore[arg-type]


class Held(Source):
    """The places of another source in memory."""

    synthetic = False

    def __init__(self, source: Source) -> None:
        self.spec, self.fingerprint = source.spec, source.fingerprint
        self.batch = source.read(range(len(source)))

    def __len__(self) -> int:
        return len(self.batch)

    def read(self, indices: Sequence[int]) -> Batch:
        return self.batch.take(torch.tensor(indices))


class Ours:
    """A side: so many steps of `train.py` a round, of a run that has no end; folder: for its tables."""

    def __init__(
        self, objective: Objective, flops: float, source: Source, folder: Path, steps: int, batch: int, *words: str
    ) -> None:
        line = ["data=synthetic", "yardstick=false", "loader.workers=0", "threads=1", "loggers=[]", "keep_at=[]"]
        line += [f"optim.batch_size={batch}", "optim.lr=1e-4", "budget.flops=1e18", "name=loop", *words]
        cfg = settled(compose("train", line)[0])
        kind = Step(objective.variants()[-1], PATCH, source.spec.size)
        self.run = Pretraining(
            objective,
            {kind: Cost(flops, {})},
            Budget(cfg.budget.flops),
            cfg,
            source,
            folder,
            launched(CPU, None, 1),
        )
        self.run.begin(Measuring(torch.float32), wanted(cfg.compile, CPU))
        self.steps, self.batches = steps, iter(self.run.loader)

    def __call__(self) -> int:
        before = self.run.count["samples"]
        for _ in range(self.steps):
            self.run.step(next(self.batches))
        return int(self.run.count["samples"] - before)


class PlainLoop:
    """A side: so many steps of a script a round. alike: it clips and fuses AdamW, as ours does."""

    def __init__(self, model: Plain, dataset: Any, steps: int, batch: int, alike: bool = False) -> None:
        self.model, self.steps, self.alike = model, steps, alike
        self.loader = DataLoader(dataset, batch, shuffle=True, drop_last=True, collate_fn=images)
        self.batches, self.optimiser = (
            iter(self.loader),
            torch.optim.AdamW(model.parameters(), 1e-4, fused=alike or None),
        )

    def __call__(self) -> int:
        done = 0
        while done < self.steps:
            for x in self.batches:
                self.optimiser.zero_grad()
                self.model(x).backward()
                if self.alike:
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimiser.step()
                done += 1
                if done == self.steps:
                    break
            else:
                self.batches = iter(self.loader)
        return done * len(x)


def images(places: list[dict[str, Any]]) -> Tensor:
    return torch.stack([p["image_sentinel2"] for p in places])


def of_torchgeo(root: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchgeo.datasets import MMEarth

        return MMEarth(
            str(root), subset="MMEarth64", modalities=("sentinel2",), modality_bands={"sentinel2": list(BANDS)}
        )


def model(size: str) -> Plain:
    shape = load_choice("encoder", size)
    torch.manual_seed(0)
    return Plain(shape["dim"], shape["depth"], shape["heads"], len(BANDS))


def theirs(size: str, source: Source) -> Objective:
    return Theirs(model(size), source)


def mae(size: str, source: Source) -> Objective:
    """objective=mae on our encoder, hiding as the plain one does."""
    torch.manual_seed(0)
    encoder = build_encoder(load_choice("encoder", size), source.spec)
    return build_objective({**load_choice("objective", "mae"), **OURS}, encoder, source.spec)


def flops_of(objective: Objective, source: Source, batch: int) -> float:
    """FLOPs a sample."""
    places, variant = source.read(range(batch)), objective.variants()[-1]
    return common.counted(lambda: objective(places, variant)["loss"]) / batch


Sides = dict[str, tuple[float, Callable[[], int]]]  # FLOPs a sample, and a round


def compared(sides: Sides, repeats: int) -> list[common.Row]:
    """A row for each side, beside the first."""
    found = common.alternate({name: side for name, (_, side) in sides.items()}, repeats)
    base, (first, _) = next(iter(found.values())), next(iter(sides.values()))
    rows = []
    for name, rounds in found.items():
        flops, times = sides[name][0], common.ratio(rounds, base, "cpu")
        rows.append(
            {
                "side": name,
                "MFLOP a sample": flops / 1e6,
                "samples/s of CPU": rounds.rate("cpu"),
                "GFLOP/s": flops * rounds.rate("cpu") / 1e9,
                "x samples/s": times,
                "x at equal FLOPs": times * flops / first,
            }
        )
    return rows


def verdict(what: str, ours: list[common.Row], plain: list[common.Row], target: float) -> str:
    """The best of ours beside the best of the plain loops, in a sentence."""
    best, beside = (max(r["x at equal FLOPs"] for r in rows) for rows in (ours, plain))
    word = "reached" if best / beside >= target else "missed"
    return f"{what}: {best / beside:.2f} x the plain loop; the target of {target} is {word}."


def main(argv: list[str]) -> None:
    given = common.words(argv, encoder="nano,tiny", batch=8, steps=6, repeats=9)
    torch.set_num_threads(1)
    root = Path(os.environ["GFM_DATA"]) / "formats" / "torchgeo" / "mmearth"
    work = (given["steps"], given["batch"])
    sections: dict[str, list[common.Row]] = {}
    notes: list[str] = []

    def keep(title: str, sides: Sides) -> list[common.Row]:
        sections[title] = compared(sides, given["repeats"])
        return sections[title]

    def side(objective: Objective, source: Source, *words: str) -> tuple[float, Ours]:
        flops = flops_of(copy.deepcopy(objective), source, given["batch"])
        return flops, Ours(objective, flops, source, Path(tempfile.mkdtemp(dir=out)), *work, *words)

    def plain(size: str, places: Any, alike: bool = False) -> tuple[float, PlainLoop]:
        flops = flops_of(theirs(size, shards), shards, given["batch"])
        return flops, PlainLoop(model(size), places, *work, alike)

    with tempfile.TemporaryDirectory() as out:
        shards, dataset = sharded("mmearth", root, out, "data.sensors=[s2]"), of_torchgeo(root)
        for size in given["encoder"].split(","):
            rows = keep(
                f"The same MAE, {size}, its places in memory",
                {
                    "a plain loop": plain(size, list(dataset)),
                    "a plain loop that clips and fuses AdamW as ours does": plain(size, list(dataset), True),
                    "this project's loop": side(theirs(size, shards), Held(shards)),
                },
            )
            notes.append(verdict(f"{size}, the same model and work, its places in memory", rows[2:], rows[1:2], 1.0))
            rows = keep(
                f"MAE, {size}, reading included",
                {
                    "a plain loop on torchgeo's MMEarth": plain(size, dataset),
                    "the same model in this project's loop, shards": side(theirs(size, shards), shards),
                    "and compile=on": side(theirs(size, shards), shards, "compile=on"),
                    "objective=mae on our encoder, shards": side(mae(size, shards), shards),
                    "objective=mae and compile=on": side(mae(size, shards), shards, "compile=on"),
                },
            )
            notes.append(verdict(f"{size}, the same model, with what is added", rows[1:3], rows[:1], 1.3))
            notes.append(verdict(f"{size}, our encoder, with what is added, at equal FLOPs", rows[3:], rows[:1], 1.3))
            command = " ".join(["python benchmarks/loops.py", *argv])
            common.write("loops", "A whole loop of pretraining", command, sections, notes)


if __name__ == "__main__":
    main(sys.argv[1:])
