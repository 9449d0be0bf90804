"""What to look at next: doubt, reliability, areas with intervals, changes. `run` is what gfm review does."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gfm_objectives import lock
from gfm_objectives.errors import InputError

__all__ = ["run"]
TASKS = ("map", "sample", "estimate", "compare")


def run(cfg: DictConfig) -> None:
    """One of the reviews of configs/review.yaml: what is asked for decides."""
    asked = [k for k in TASKS if cfg[k]]
    if len(asked) != 1:
        raise InputError(f"give one of {', '.join(f'{k}=' for k in TASKS)}; gfm review --help tells what each does")
    if asked == ["estimate"]:
        from gfm_objectives.review.sampling import estimate

        estimate(cfg.estimate)
        return
    out = Path(cfg.out) / cfg.name
    with lock.alone(out):
        _review(cfg, asked, out)


def _review(cfg: DictConfig, asked: list[str], out: Path) -> None:
    if asked == ["sample"]:
        from gfm_objectives.review.sampling import draw

        draw(cfg.sample, out, cfg.n, cfg.least, cfg.seed)
        return
    if asked == ["compare"]:
        from gfm_objectives.review.comparing import compare

        if len(cfg.compare) != 2:
            raise InputError(
                f"compare={','.join(cfg.compare)}: give two maps, the old one first: compare=old.tif,new.tif"
            )
        compare(cfg.compare[0], cfg.compare[1], list(cfg.labels), out)
        return
    from gfm_objectives.review.looking import look

    look(OmegaConf.to_container(cfg), out)  # type: ignore[arg-type]
