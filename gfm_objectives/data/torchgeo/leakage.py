"""Which tasks show the same ground as a pretraining source, as far as their makers' descriptions tell.

By name only: whether two places are the same is for fingerprints to find. What is not listed is not cleared: a global
source of a million places shows any place of a task with a chance of some percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAMPLED = {
    "mmearth": "MMEarth has 1.2 million tiles of 1.3 km all over the Earth, 1 % of its land: by chance alone some "
    "places of a task are among them",
    "ssl4eo_s12": "SSL4EO-S12 has 250,000 places of 2.6 km around the Earth's largest cities, so that cities are in it",
    "sen12ms": "SEN12MS has 252 regions of some 50 km all over the Earth; which tasks lie in them was not audited",
}
CITIES = ("ssl4eo_s12", "ssl4eo_s12_l2a", "ssl4eo_s12_v11", "ssl4eo_s12_v11_l2a")  # the same places
SAMPLED |= dict.fromkeys(CITIES, SAMPLED["ssl4eo_s12"])
SAMPLED["copernicus_pretrain"] = (
    "Copernicus-Pretrain has a million places of 2.6 km in 248,000 cells of 25 km, nearly all of the Earth's land: "
    "some places of any task are among them"
)
LANDSAT = ("ssl4eo_l", "ssl4eo_l_toa")
SAMPLED |= dict.fromkeys(
    LANDSAT, "SSL4EO-L has 250,000 places of 7.9 km around the Earth's largest cities, so that cities are in it"
)
URBAN = ("oscd", "spacenet7", "eurosat")  # tasks made of cities, or with classes of them
SHARED = {  # (task's data, pretraining data) -> how
    ("eurosat", "bigearthnet"): "EuroSAT and BigEarthNet show the same European countries in the same years",
    ("biomassters", "bigearthnet"): "Finland is in both, and BioMassters' chips have no coordinates to compare",
}


def shared(task: Mapping[str, Any], pretraining: Mapping[str, Any]) -> str | None:
    """How the places of a task's data overlap those of pretraining, both by their options; None = nothing is known."""
    theirs, ours = str(task.get("name")), str(pretraining.get("name"))
    if theirs == ours:
        own_folder = theirs in ("chips", "synthetic", "shards") and task.get("root") != pretraining.get("root")
        if theirs == "synthetic" or own_folder:
            return None
        return "the same data set: pretraining saw the training places of this task, and val and test lie among them"
    if (theirs, ours) in SHARED:
        return SHARED[theirs, ours]
    if ours in SAMPLED and theirs not in ("synthetic", "chips") and (ours not in CITIES + LANDSAT or theirs in URBAN):
        return SAMPLED[ours]
    return None
