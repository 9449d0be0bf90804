"""InfoNCE: which of the keys belongs to the query (van den Oord et al. 2018, arXiv 1807.03748)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(query: Tensor, key: Tensor, rivals: Tensor, temperature: float) -> Tensor:
    """-log of softmax(cosine / temperature) at the query's own key: (..., K), float32 even under autocast.

    query, key (..., K, D): key i belongs to query i; rivals (..., K, K) bool: which other keys compete with it.
    """
    logits = cosines(query, key) / temperature
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    own_logit = logits.diagonal(dim1=-2, dim2=-1)
    return logits.masked_fill(~(rivals | own), -torch.inf).logsumexp(-1) - own_logit


def cosines(query: Tensor, key: Tensor) -> Tensor:
    """(..., K, K) of rows (..., K, D), float32 even under autocast."""
    with float32(query.device):
        return F.normalize(query.float(), dim=-1) @ F.normalize(key.float(), dim=-1).mT


def float32(device: torch.device) -> AbstractContextManager[None]:
    """Autocast off: differences of cosines over 0.1 drown in bfloat16's three digits."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
