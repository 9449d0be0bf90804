"""Where a result comes from: the commit of the code and the config that decides it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gfm_objectives.config.values import leaves
from gfm_objectives.errors import InputError

# Keys that may change between a run and its resumption without changing its result.
FREE_KEYS = (
    *"name runs resume overwrite loggers log_every checkpoint_every keep_at branch".split(),
    *"yardstick loader threads shard choices".split(),
)


def free_keys(config: Mapping[str, Any]) -> tuple[str, ...]:
    """FREE_KEYS and what this config adds: with batch.global= a run may go on with another number of processes."""
    whole = (config.get("batch") or {}).get("global") is not None
    return (*FREE_KEYS, "batch.micro", *(("devices", "num_nodes") if whole else ("batch.global",)))


def decides(key: str, free: tuple[str, ...]) -> bool:
    """Whether a key, sections joined by dots, decides the result."""
    return key not in free and key.split(".")[0] not in free


def commit() -> str:
    """The commit of this checkout, with a + where files differ from it; '' outside of one."""
    where = Path(__file__).parent
    try:
        head, dirty = (
            subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, timeout=10)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno", "."))
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + "+" * bool(dirty.stdout.strip()) if head.returncode == 0 else ""


def settled(cfg: DictConfig) -> DictConfig:
    """The config with what a null of `optim` leaves to the encoder written out: its learning rate and batch size.
    With batch.global= the batch size follows from it. InputError where the encoder does not say, and for both."""
    out = cfg.copy()
    for key, value in _of_the_encoder(cfg).items():
        out.optim[key] = value
    return out


def _of_the_encoder(cfg: DictConfig) -> dict[str, Any]:
    """What `settled` writes out."""
    if "optim" not in cfg:  # of another program
        return {}
    own, whole = cfg.encoder.get("optim", {}), cfg.get("batch", {}).get("global")
    if whole is not None and cfg.optim.batch_size is not None:
        raise InputError(f"optim.batch_size and batch.global={whole} say the same twice; give one of them")
    left = [k for k, v in cfg.optim.items() if v is None and not (whole and k == "batch_size")]
    for key in left:
        if key not in own:
            raise InputError(f"optim.{key}: the encoder {cfg.encoder.name} has none of its own; set optim.{key}=")
    return {key: own[key] for key in left}


def config_hash(cfg: DictConfig) -> str:
    """Hash of every key that decides the result, the same whether the encoder's values are written out or not."""
    return _hash(decisive(cfg))


def recipe_hash(cfg: DictConfig) -> str:
    """`config_hash` but for the total budget: runs of one recipe share a trunk."""
    kept = decisive(cfg)
    return _hash(kept | {"budget": {k: v for k, v in kept["budget"].items() if k != "flops"}})


def decisive(cfg: DictConfig) -> dict[str, Any]:
    """The keys that decide the result, with their values; without `init` where it is null, as in runs of before."""
    every: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    if own := _of_the_encoder(cfg):  # not by `settled`, whose copy takes longer than all else: studies have many runs
        every["optim"] |= own
    free = free_keys(every)
    kept = {k: v for k, v in every.items() if k not in free and (k, v) != ("init", None)}
    if batch := {k: v for k, v in kept.pop("batch", {}).items() if decides(f"batch.{k}", free)}:
        kept["batch"] = batch
    return kept


def differing(one: DictConfig, other: DictConfig) -> list[str]:
    """The dotted keys in which two recipes differ, the total budget apart."""
    a, b = (dict(leaves(decisive(c))) for c in (one, other))
    return [k for k in sorted(a.keys() | b) if a.get(k) != b.get(k) and k != "budget.flops"]


def _hash(kept: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
