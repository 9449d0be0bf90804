"""The table of sources. A new reader is one file and one line here, or a row of torchgeo/table.py; modules are
imported when used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from gfm_objectives.config.values import show
from gfm_objectives.data.kept import curated
from gfm_objectives.data.source import SPLITS, Source
from gfm_objectives.data.torchgeo import DATASETS
from gfm_objectives.errors import InputError

SOURCES = {
    "synthetic": "gfm_objectives.data.synthetic:Synthetic",
    "chips": "gfm_objectives.data.chips:Chips",
    "oscd": "gfm_objectives.data.oscd:OSCD",
    "mmearth": "gfm_objectives.data.mmearth:MMEarth",
    "mosaics": "gfm_objectives.data.mosaics:Mosaics",
    "shards": "gfm_objectives.data.shards:Shards",
}


def build_source(options: Mapping[str, Any], split: str) -> Source:
    """The source `options["name"]` for one of SPLITS; the other options go to its constructor as keywords.

    `options["keep"]`, for any source: a keep-list of `gfm curate`, in which {seed} stands for the number of the Earth.
    """
    keep, options = options.get("keep"), {k: v for k, v in options.items() if k != "keep"}
    name = options.get("name")
    if name not in SOURCES and name not in DATASETS:
        raise InputError(f"data.name={show(name)}: no such source; choose from {', '.join([*SOURCES, *DATASETS])}")
    assert split in SPLITS, split
    source, known = _source(name)
    for key in options:
        if key != "name" and key not in known:
            raise InputError(f"data.{key}: {name} has no such option; choose from {', '.join(known)}")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and options.get(key) is None:
            raise InputError(f"data.{key}: is missing, and {name} needs it")
    built = source(split=split, **{k: v for k, v in options.items() if k != "name"})
    return curated(built, split, str(keep).replace("{seed}", str(options.get("seed")))) if keep else built


def _source(name: str) -> tuple[Callable[..., Source], dict[str, Parameter]]:
    """What makes a source, and the options it takes."""
    if name in DATASETS:
        from gfm_objectives.data.torchgeo.adapter import Adapter, accepted

        return partial(Adapter, DATASETS[name]), {k: p for k, p in accepted(DATASETS[name]).items() if k != "split"}
    module, cls = SOURCES[name].split(":")
    source = getattr(import_module(module), cls)
    return source, {k: p for k, p in signature(source).parameters.items() if k != "split"}
