"""Pretraining against named peers at the same arithmetic: lightly's MAE, and a plain MAE loop on timm's ViT.

    python benchmarks/peers.py [encoder=tiny,small] [batch=16] [repeats=9] [device=cpu]     needs the extra `bench`

All sides: the same ViT (width, depth, heads, patch), one image of ten bands and 64 x 64 pixels, three quarters hidden
cell by cell, the ViT reads the rest, all hidden cells are reconstructed by two blocks of half the width, AdamW. They
take turns in one process, one thread. FLOPs are counted by torch's FlopCounterMode for each: those of ours include the
stem and the way back to full resolution, which the peers lack, so samples/s are printed beside FLOP/s, which is
samples/s at equal FLOPs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial

import common
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.config import load_choice
from gfm_objectives.device import has_bf16
from gfm_objectives.heap import keep_freed
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import build_objective
from gfm_objectives.sensors import S2_TEN

SIZE, PATCH, HIDDEN, DECODER = 64, 8, 0.75, 2
SPEC = Spec({"s2": S2_TEN}, {"s2": 1}, SIZE, 10.0, {})
CELLS = (SIZE // PATCH) ** 2
OURS = {"encode": "seen", "kinds": ["cell"], "mask_ratio": HIDDEN, "predict": HIDDEN, "decoder_depth": DECODER}
Loss = Callable[[], Tensor]


class Plain(nn.Module):
    """MAE (He et al. 2021, arXiv 2111.06377) as one would write it on timm's blocks; no class token, pixels
    normalised per patch."""

    def __init__(self, dim: int, depth: int, heads: int, bands: int = len(S2_TEN)) -> None:
        super().__init__()
        self.vit = VisionTransformer(SIZE, PATCH, bands, 0, "", dim, depth, heads, class_token=False, pos_embed="learn")
        self.embed = nn.Linear(dim, dim // 2)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim // 2))
        self.place = nn.Parameter(torch.randn(1, CELLS, dim // 2) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim // 2, heads, qkv_bias=True) for _ in range(DECODER)))
        self.norm = nn.LayerNorm(dim // 2)
        self.pixels = nn.Linear(dim // 2, PATCH * PATCH * bands)

    def forward(self, images: Tensor) -> Tensor:
        order = torch.rand(len(images), CELLS, device=images.device).argsort(1)
        keep, hidden = order.split([round(CELLS * (1 - HIDDEN)), round(CELLS * HIDDEN)], 1)
        x = rows(self.vit.patch_embed(images) + self.vit.pos_embed, keep)
        x = self.embed(self.vit.norm(self.vit.blocks(x)))  # (B, kept, D / 2)
        y = self.mask_token.to(x.dtype).expand(len(x), CELLS, -1)
        y = y.scatter(1, keep[..., None].expand_as(x), x) + self.place
        prediction = self.pixels(rows(self.norm(self.blocks(y)), hidden))
        patches = images.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH)).permute(0, 2, 4, 3, 5, 1)
        target = rows(patches.reshape(len(images), CELLS, -1), hidden)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (prediction.float() - target).square().mean()


class Lightly(nn.Module):
    """As in lightly's example of MAE, its decoder by its new name."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
        from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM

        vit = VisionTransformer(SIZE, PATCH, len(S2_TEN), 0, "", dim, depth, heads)
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.embed = nn.Linear(dim, dim // 2)
        self.decoder = MaskedVisionTransformerDecoderTIMM(CELLS, dim // 2, DECODER, heads)
        self.pixels = nn.Linear(dim // 2, PATCH * PATCH * len(S2_TEN))

    def forward(self, images: Tensor) -> Tensor:
        from lightly.models import utils

        size = (len(images), self.backbone.sequence_length)
        keep, hidden = utils.random_token_mask(size, HIDDEN, device=images.device)
        x = self.embed(self.backbone.encode(images, idx_keep=keep))
        y = utils.repeat_token(self.decoder.mask_token, size)
        y = self.decoder.decode(self.decoder.add_pos_embed(utils.set_at_index(y, keep, x.type_as(y))))
        prediction = self.pixels(utils.get_at_index(y, hidden))
        target = utils.get_at_index(utils.patchify(images, PATCH), hidden - 1)
        return F.mse_loss(prediction.float(), target)


def rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def batch_of(images: Tensor) -> Batch:
    """The same images as the project has them."""
    batch = SPEC.dummy(len(images), images.device)
    return batch.replace(sensors={"s2": batch.sensors["s2"].replace(x=images[:, None])})


class Side:
    """A model of one of the sides, the loss of a step on images, and its optimiser."""

    def __init__(self, kind: str, size: str, images: Tensor, **options: object) -> None:
        shape = load_choice("encoder", size)
        torch.manual_seed(0)
        if kind == "ours":
            encoder = build_encoder(shape, SPEC)
            self.model: nn.Module = build_objective(
                {**load_choice("objective", "mae"), **OURS, **options}, encoder, SPEC
            )
            batch, variant = batch_of(images), self.model.variants()[-1]  # type: ignore[operator]
            self.forward: Loss = lambda: self.model(batch, variant)["loss"]
        else:
            self.model = {"timm": Plain, "lightly": Lightly}[kind](shape["dim"], shape["depth"], shape["heads"])
            self.forward = lambda: self.model(images)
        self.model.to(images.device)
        self.batch, self.device = len(images), images.device
        self.optimiser = torch.optim.AdamW(self.model.parameters(), 1e-4, fused=True)

    def compiled(self) -> Side:
        self.forward = torch.compile(self.forward)
        return self

    def step(self, dtype: torch.dtype = torch.float32) -> int:
        self.optimiser.zero_grad()
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            loss = self.forward()
        loss.backward()
        self.optimiser.step()
        return self.batch


NAMES = {"timm": "a plain loop on timm's ViT", "lightly": "lightly", "ours": "this project, objective=mae"}


def measured(
    sides: dict[str, Callable[[], int]], flops: dict[str, float], repeats: int, device: str
) -> list[common.Row]:
    """A row for each side, beside the first."""
    found = common.alternate(sides, repeats, device)
    base, clock = next(iter(sides)), common.clock_of(device)
    out = []
    for name, rounds in found.items():
        times = common.ratio(rounds, found[base], clock)
        out.append(
            {
                "side": name,
                "MFLOP a sample": flops[name] / 1e6,
                "samples/s of CPU" if device == "cpu" else "samples/s": rounds.rate(clock),
                **({"samples/s of the clock": rounds.rate("wall")} if device == "cpu" else {}),
                "GFLOP/s": flops[name] * rounds.rate(clock) / 1e9,
                "x samples/s": times,
                "x at equal FLOPs": times * flops[name] / flops[base],
            }
        )
    return out


def same_arithmetic(size: str, batch: int, repeats: int, device: str) -> list[common.Row]:
    images = torch.randn(batch, len(S2_TEN), SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    sides = {kind: Side(kind, size, images) for kind in NAMES}
    flops = {NAMES[k]: common.counted(s.forward) / batch for k, s in sides.items()}
    return measured({NAMES[k]: s.step for k, s in sides.items()}, flops, repeats, device)


def with_additions(size: str, batch: int, repeats: int, device: str, compiling: bool) -> list[common.Row]:
    """What the project adds, one by one, against the plain loop."""
    images = torch.randn(batch, len(S2_TEN), SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    plain, shipped = Side("timm", size, images), Side("ours", size, images, predict=0.25)
    sides: dict[str, Callable[[], int]] = {NAMES["timm"]: plain.step}
    flops = {NAMES["timm"]: common.counted(plain.forward) / batch}
    asked = "ours, asked about a quarter of the cells, as shipped"
    of_shipped = common.counted(shipped.forward) / batch
    sides[asked], flops[asked] = shipped.step, of_shipped
    if has_bf16(torch.device(device)):
        sides["the same in bf16"] = partial(shipped.step, torch.bfloat16)
        flops["the same in bf16"] = of_shipped
    if compiling:
        both = (NAMES["timm"] + ", by torch.compile", "ours, by torch.compile")
        made = Side("timm", size, images), Side("ours", size, images, predict=0.25)
        for name, side, of in zip(both, made, (flops[NAMES["timm"]], of_shipped), strict=True):
            side.compiled().step()
            sides[name], flops[name] = side.step, of
    return measured(sides, flops, repeats, device)


def verdict(rows: list[common.Row], size: str, key: str, target: float) -> str:
    """The best of ours beside the best of the others, in a sentence."""
    ours = [r for r in rows if r["side"].startswith(("this project", "ours", "the same"))]
    best, rival = max(r[key] for r in ours), max(r[key] for r in rows if r not in ours)
    reached = best / rival
    word = "reached" if reached >= target else "missed"
    return f"{size}: {reached:.2f} x the faster peer, {key.removeprefix('x ')}; the target of {target:.1f} is {word}."


def main(argv: list[str]) -> None:
    given = common.words(argv, encoder="tiny,small", batch=16, repeats=9, device="cpu", compile=1)
    torch.set_num_threads(1)
    keep_freed()  # as our steps do; the peers have as few page faults without
    device, sections, notes = given["device"], {}, []
    warnings.filterwarnings("ignore", module="torch")
    command, sizes = " ".join(["python benchmarks/peers.py", *argv]), given["encoder"].split(",")

    def keep(section: str, rows: list[common.Row], *said: str) -> None:
        sections[section] = rows
        notes.extend(said)
        common.write("peers", "Pretraining beside named peers", command, sections, notes, device)

    for size in sizes:
        found = same_arithmetic(size, given["batch"], given["repeats"], device)
        said = [verdict(found, size, key, 1.0) for key in ("x samples/s", "x at equal FLOPs")]
        keep(f"Same arithmetic, {size}, fp32", found, *said)
    work = (sizes[0], given["batch"], given["repeats"], device)
    found = with_additions(*work, False)
    said = ["With what is added, " + verdict(found, sizes[0], "x samples/s", 1.3)]
    if not has_bf16(torch.device(device)):
        said.append("This device has no bf16 of its own, so it was not tried.")
    keep(f"With what the project adds, {sizes[0]}", found, *said)
    if given["compile"]:
        found = with_additions(*work, True)
        keep(f"Both compiled, {sizes[0]}", found, "Compiled, " + verdict(found, sizes[0], "x samples/s", 1.3))


if __name__ == "__main__":
    main(sys.argv[1:])
