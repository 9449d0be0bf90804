"""Which data a pretraining run reads: a `data.seed` left open is the run's own seed."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf


def data_options(cfg: DictConfig) -> dict[str, Any]:
    """The options of the run's data. `data.seed: null` means the Earth of the run's own seed.

    Answered here and not in the config: runs that differ in the seed alone must go on to differ in nothing else there,
    for they are one contender.
    """
    options: dict[str, Any] = OmegaConf.to_container(cfg.data)  # type: ignore[assignment]
    return options | {"seed": cfg.seed} if options.get("seed", 0) is None else options
