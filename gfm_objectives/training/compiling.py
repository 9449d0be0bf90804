"""Compiled parts of a model: those that every size and objective has in common, each once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.models.vision_transformer import Block
from torch import nn

from gfm_objectives.errors import InputError
from gfm_objectives.models.attention import CrossBlock
from gfm_objectives.models.stem import Stem
from gfm_objectives.models.vit import Dilated
from gfm_objectives.models.way_back import WayBack

PARTS = (Stem, Block, Dilated, CrossBlock, WayBack)


def wanted(choice: str, device: torch.device) -> bool:
    """What compile=auto, on or off comes to: auto = on a GPU."""
    if choice not in ("auto", "on", "off"):
        raise InputError(f"compile={choice}: choose auto, on or off")
    return choice == "on" or (choice == "auto" and device.type == "cuda")


def compile_parts(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the stem, the blocks and the way back, in place; names of weights stay.

    Parts, and not the whole: a block is compiled once and not for each of 24 (torch's "regional compilation"), so
    that a run starts within seconds and not minutes.
    """
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    # of all modules together, which share one function: parts, patches, sides, variants
    setattr(torch._dynamo.config, limit, max(getattr(torch._dynamo.config, limit), 256))
    warnings.filterwarnings("ignore", message=r"\s*Online softmax is disabled")  # nothing that a user could mend
    for module in model.modules():
        if isinstance(module, PARTS):
            module.compile(backend=backend)  # a copy of the module, such as the one FLOPs are counted on, is eager


@contextmanager
def eager(really: bool) -> Iterator[None]:
    """Nothing is compiled in it: for a batch of another size, of which there is one."""
    if not really:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
