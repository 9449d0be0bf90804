"""Bytes alive while a step is computed on the meta device: every storage from its making to its end."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ROUNDED = 512  # bytes, to whose multiples CUDA's allocator rounds; malloc's are finer, and it matters little


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is active, until their storage is gone; a view counts nothing, but
    for one of a tensor that was made before and not told by `hold`.

    now, peak: bytes. What a kernel takes for itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor, which may have been made before."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // ROUNDED) * ROUNDED
        if key in self._known:
            return

        def gone(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                self.hold(made)
        return out


class Fused(TorchFunctionMode):
    """Attention in a kernel that keeps no matrix of weights, which the meta device has not of itself. The CPU's stands
    for all: each keeps its output and a number for each query."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **(kwargs or {}))


# What autocast runs in the lower precision, and what it brings back to float32, by the names of functions that models
# call; the lists of CUDA (pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior).
LOWER = frozenset(
    "linear matmul __matmul__ __rmatmul__ mm bmm addmm baddbmm addbmm einsum conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d conv_transpose3d prelu scaled_dot_product_attention multi_head_attention_forward".split()
)
FULL = frozenset(
    "layer_norm group_norm softmax log_softmax cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss huber_loss "
    "kl_div binary_cross_entropy_with_logits cosine_similarity normalize norm pow __pow__ rsqrt reciprocal exp expm1 "
    "log log10 log1p log2 sum prod cumsum cumprod cdist softplus".split()
)


class Autocast(TorchFunctionMode):
    """Autocast to bfloat16 for the meta device, on which torch has none: weights are cast once and the copies kept."""

    def __init__(self) -> None:
        super().__init__()
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in LOWER:
            args, kwargs = tree_map(self._lower, (args, kwargs))
        elif name in FULL:
            args, kwargs = tree_map(_full, (args, kwargs))
        return func(*args, **kwargs)

    def _lower(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(torch.bfloat16)
        if id(x) not in self._cast:
            self._cast[id(x)] = x.to(torch.bfloat16)
        return self._cast[id(x)]


def _full(x: Any) -> Any:
    return x.to(torch.float32) if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x
