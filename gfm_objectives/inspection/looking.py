"""Inspection of data before it is trained on: counts, ranges, histograms, pictures. `run` is what gfm inspect does."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gfm_objectives import disk, lock
from gfm_objectives.curation.information import MOST, tell
from gfm_objectives.data import build_source
from gfm_objectives.data.guards import watch
from gfm_objectives.data.source import Source
from gfm_objectives.data.telling import Telling
from gfm_objectives.errors import InputError, NoSuchSplit
from gfm_objectives.inspection.page import draw_page
from gfm_objectives.inspection.table import render
from gfm_objectives.inspection.tally import SAMPLES, Look, look
from gfm_objectives.report.pictures import LOOKED, telling

__all__ = ["Look", "look", "run"]


def run(cfg: DictConfig) -> Path:
    """Read some places of every split; print tables, and write them with a page of pictures. Returns the folder.

    A split that cannot be read does not hide the others: its InputError is raised when they have been shown; one that
    data for pretraining lacks is told. One process a folder at a time.
    """
    folder = Path(cfg.out) / cfg.name
    with lock.alone(folder):
        _inspect(cfg, folder)
    return folder


def _inspect(cfg: DictConfig, folder: Path) -> None:
    from rich.console import Console

    options: dict[str, Any] = OmegaConf.to_container(cfg.data)  # type: ignore[assignment]
    sources: dict[str, Source] = {}
    faults: list[InputError] = []
    unsplit = options.get("name") == "chips" and not options.get("splits")
    for split in ("pretrain",) if unsplit else ("train", "val", "test"):
        try:
            sources[split] = build_source(options, split)
        except InputError as fault:
            faults.append(fault)
    if not sources:
        raise faults[0]
    if (trained_on := sources.get("train", sources.get("pretrain"))) is not None:
        watch(trained_on, str(options.get("name")))
    looks: dict[str, Look] = {}
    for split, source in sources.items():
        tiles = spread(source.tiles(), cfg.places)
        with Telling(f"tiles of {split}", len(tiles)) as far:
            looks[split] = look(source, tiles, far.done)
    first = next(iter(sources.values()))
    samples = first.read(shown(first))
    told = tell(first, spread(len(first), MOST), folder / "information.png") if cfg.information else []
    with disk.replacing(folder / "inspect.png") as scratch:
        draw_page(cfg.name, first.spec, samples, looks).savefig(scratch, dpi=110)
    text = io.StringIO()
    for console in (Console(), Console(file=text, width=110)):
        console.print(render(cfg.name, sources, looks, options))
        for line in told:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    disk.write(folder / "inspect.txt", text.getvalue())
    print(f"  -> {folder / 'inspect.png'}, {folder / 'inspect.txt'}")
    for lacking in faults:
        if not isinstance(lacking, NoSuchSplit):
            raise lacking
        print(f"  {lacking}")


def shown(source: Source) -> Sequence[int]:
    """Places of the page: of LOOKED those that show most classes of the first layer of classes; else evenly spread."""
    some = spread(len(source), LOOKED)
    for layer, legend in source.spec.legends.items():
        labels = [source.read([k]).targets[layer][0] for k in some] if len(legend) > 1 else []  # one: numbers
        if labels and labels[0].ndim == 2:
            return [some[i] for i in telling(labels, len(legend), SAMPLES)]
    return spread(len(source), SAMPLES)


def spread(n: int, most: int | None) -> Sequence[int]:
    """At most `most` of the numbers 0 to n - 1, evenly spread."""
    if most is None or n <= most:
        return range(n)
    return [int((i + 0.5) * n / most) for i in range(most)]
