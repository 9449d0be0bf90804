"""Samples per second of fine-tuning: this project's loop, a plain loop with the same model, and torchgeo's task.

    python benchmarks/finetuning.py [steps=8] [repeats=7] [batch=8] [device=cpu]

Contenders: the encoder nano, the U-Net (width 8) and conv (nano without its ViT), to label places of 64 x 64 pixels
with ten classes from four dates of ten bands, four of two and height, all in memory. Ours is `finetune` whole: FLOPs
counted, the loader that resumes, turns and flips, warm-up, clipping, AdamW. The plain loop is what a script would have:
torch's DataLoader, forward, backward, AdamW, no augmentation. The third side is torchgeo's SemanticSegmentationTask
under Lightning's Trainer, its metrics on, logging and checkpoints off, with the same U-Net. All start from the model
before training and take the same steps of the same size in fp32 (bf16 on a GPU, for ours and the plain loop), one
thread, in turns.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gfm_objectives.batch import Batch, Spec, collate
from gfm_objectives.config.files import load_choice
from gfm_objectives.data.source import Source
from gfm_objectives.device import resolve
from gfm_objectives.finetune import HParams, finetune, step_cost
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.sensors import S2_TEN, Legend
from gfm_objectives.tasks.kinds import KINDS

CLASSES, PLACES = 10, 64
SEGMENTATION = KINDS["segmentation"]
SPEC = Spec(
    {"s2": S2_TEN, "s1": ("VV", "VH"), "dem": ("elevation",)},
    {"s2": 4, "s1": 4, "dem": 1},
    64,
    10.0,
    {"label": Legend("letters", tuple("abcdefghij"))},
)


class Noise(Source):
    """Places of noise in memory."""

    fingerprint, synthetic = "noise", True

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        batch, self.spec = SPEC.dummy(PLACES, "cpu"), SPEC
        sensors = {k: s.replace(x=torch.randn(s.x.shape, generator=g)) for k, s in batch.sensors.items()}
        label = torch.randint(CLASSES, (PLACES, SPEC.size, SPEC.size), generator=g)
        self.batch = batch.replace(sensors=sensors, targets={"label": label})

    def __len__(self) -> int:
        return PLACES

    def read(self, indices: Any) -> Batch:
        return self.batch.take(torch.tensor(indices))

    def __getitem__(self, k: int) -> Batch:
        """As torch's DataLoader asks for it."""
        return self.batch.map(lambda t: t[k : k + 1])


def contenders() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    nano = load_choice("encoder", "nano")
    return {
        "nano": Segmenter(Encoder.from_config(nano, SPEC), CLASSES),
        "unet": UNet(SPEC, CLASSES, 8, "stack"),
        "conv": Segmenter(Encoder.from_config(nano | {"depth": 0}, SPEC), CLASSES),
    }


def ours(model: nn.Module, source: Noise, steps: int, batch: int, device: torch.device, dtype: torch.dtype) -> int:
    net = copy.deepcopy(model)
    cost = step_cost(net, source.read([0, 1]), SEGMENTATION, "label").total
    hparams = HParams(lr=1e-3, batch_size=batch)
    done = finetune(net, source, SEGMENTATION, "label", steps * batch * cost, hparams, 0, device, dtype)
    assert done.steps == steps, done
    return done.samples


def plain(model: nn.Module, source: Noise, steps: int, batch: int, device: torch.device, dtype: torch.dtype) -> int:
    net = copy.deepcopy(model).to(device).train()
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    done = 0
    while done < steps * batch:
        for places in DataLoader(source, batch, shuffle=True, collate_fn=collate, drop_last=True):  # type: ignore[arg-type]
            places = places.to(device)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = F.cross_entropy(net(places), places.targets["label"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += batch
            if done == steps * batch:
                break
    return done


# ---------------------------------------------------------------- torchgeo


class OnImages(nn.Module):
    """A model of batches for tasks whose input is one image: its dates and bands as channels, put back in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        batch, first, sensors = SPEC.dummy(len(images), images.device), 0, {}
        for name, s in batch.sensors.items():
            t, c = s.x.shape[1:3]
            sensors[name] = s.replace(x=images[:, first : first + t * c].unflatten(1, (t, c)))
            first += t * c
        return self.model(batch.replace(sensors=sensors))


def as_image(places: list[Batch]) -> dict[str, Tensor]:
    batch = collate(places)
    return {
        "image": torch.cat([s.x.flatten(1, 2) for s in batch.sensors.values()], 1),
        "mask": batch.targets["label"],
    }


def torchgeos(model: nn.Module, source: Noise, steps: int, batch: int, device: torch.device) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning
        from torchgeo.trainers import SemanticSegmentationTask

        class Task(SemanticSegmentationTask):
            monitor = "train_loss"  # of its scheduler: there is nothing to validate on

            def configure_models(self) -> None:
                self.model = OnImages(copy.deepcopy(model))

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        images = sum(SPEC.dates[k] * len(b) for k, b in SPEC.bands.items())
        task = Task(model="unet", in_channels=images, num_classes=CLASSES, lr=1e-3)
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(source, batch, shuffle=True, collate_fn=as_image, drop_last=True)  # type: ignore[arg-type]
        trainer.fit(task, loader)
    assert trainer.global_step == steps, trainer.global_step
    return steps * batch


def main(argv: list[str]) -> None:
    given = common.words(argv, steps=8, repeats=7, batch=8, device="cpu")
    torch.set_num_threads(1)
    device, dtype = resolve(given["device"])
    source, rows, notes, clock = Noise(), [], [], common.clock_of(given["device"])
    work = (source, given["steps"], given["batch"], device)
    title = f"Runs of {given['steps']} steps of {given['batch']} places"
    for name, model in contenders().items():
        sides: dict[str, Callable[[], int]] = {
            "a plain loop": partial(plain, model, *work, dtype),
            "this project": partial(ours, model, *work, dtype),
        }
        if name == "unet":
            sides["torchgeo's task, Lightning's Trainer"] = partial(torchgeos, model, *work)
        flops = step_cost(model, source.read([0, 1]), SEGMENTATION, "label").total
        found = common.alternate(sides, given["repeats"], given["device"])
        base = found["a plain loop"]
        for side, rounds in found.items():
            rate = rounds.rate(clock)
            rows.append(
                {
                    "model": name,
                    "loop": side,
                    "MFLOP a sample": flops / 1e6,
                    f"samples/s of {'CPU' if clock == 'cpu' else 'the clock'}": rate,
                    "GFLOP/s": flops * rate / 1e9,
                    "x": common.ratio(rounds, base, clock),
                }
            )
        for other in (side for side in found if side != "this project"):
            notes.append(f"{name}: {common.ratio(found['this project'], found[other], clock):.2f} x {other}.")
        command = " ".join(["python benchmarks/finetuning.py", *argv])
        common.write("finetuning", "Fine-tuning", command, {title: rows}, notes, given["device"])


if __name__ == "__main__":
    main(sys.argv[1:])
