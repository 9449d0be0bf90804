"""What the procedural Earth is made of: land uses, surface elements, spectra, seasons, backscatter, legends."""

from __future__ import annotations

import torch
from torch import Tensor

from gfm_objectives.sensors import Legend

# A land use is what an area is for and needs context to see; an element is what covers one pixel. A garden is the
# element grass in the use settlement. The pretraining map names elements, the land cover task names uses.
USES = (
    "water",
    "wetland",
    "coniferous forest",
    "broadleaved forest",
    "orchard",
    "arable land",
    "grassland and heath",
    "bare ground",
    "dense urban",
    "scattered settlement",
)
CROPS = ("winter cereal", "winter oilseed", "spring cereal", "maize", "root crops", "forage")
GROUND = ("water", "conifer", "broadleaf", "shrub", "grass", "meadow", "soil", "rock", "reed", "roof", "asphalt")
ELEMENTS = (*GROUND, *CROPS, "fallow")
E = {name: i for i, name in enumerate(ELEMENTS)}
U = {name: i for i, name in enumerate(USES)}

LEGENDS: dict[str, Legend] = {
    "map": Legend(
        "synthetic broad map",
        ("water", "trees", "shrub", "grass", "crops", "built-up", "bare", "wetland"),
        colors=("#419bdf", "#397d49", "#dfc35a", "#88b053", "#e49635", "#c4281b", "#a59b8f", "#7a87c6"),
    ),
    "landcover": Legend(
        "synthetic land cover",
        USES,
        colors=(
            "#2b7bba",
            "#7ec8c0",
            "#0f4f2c",
            "#4c9a3f",
            "#b565a7",
            "#f1d37a",
            "#b5d67a",
            "#b9a89a",
            "#8c1515",
            "#e8806a",
        ),
    ),
    "crop": Legend(
        "synthetic crop type", CROPS, colors=("#e6c229", "#f17105", "#a0c75a", "#1a8fe3", "#6610f2", "#2d936c")
    ),
    "flood": Legend(
        "synthetic flood", ("dry land", "permanent water", "flood"), colors=("#d9cfb8", "#2b5d9b", "#5fd3e6")
    ),
}
LEGENDS |= {
    "burn": Legend("synthetic burn scar", ("not burnt", "burn scar"), colors=("#d9cfb8", "#8a1c1c")),
    "boundary": Legend(
        "synthetic field boundaries", ("no field", "field", "field boundary"), colors=("#e4e0d6", "#cfe08a", "#6b4f1d")
    ),
    "debris": Legend("synthetic floating debris", ("no debris", "floating debris"), colors=("#9cc3dd", "#d6279a")),
    "builtup": Legend(
        "synthetic built-up density", ("not built-up", "sparse", "dense"), colors=("#e4e0d6", "#f0a35e", "#9b1d20")
    ),
}
LEGENDS["map_exact"] = LEGENDS["map"]
# The laboratory's (data/earth/far.py): what is near does not tell.
LEGENDS["far"] = Legend(
    "synthetic, told by what is far",
    ("neither", "village", "town", "rain-fed field", "irrigated field"),
    colors=("#e4e0d6", "#e8806a", "#8c1515", "#f1d37a", "#3f8f5f"),
)
FAR_MAP = Legend(
    "synthetic broad map of near and far",
    (*LEGENDS["map"].classes, "town", "irrigated crops"),
    colors=(*(LEGENDS["map"].colors or ()), "#7a0f0f", "#b3741a"),
)

# Map class of each element, in the order of ELEMENTS.
MAP_OF = torch.tensor([0, 1, 1, 2, 3, 3, 6, 6, 7, 5, 5, *[4] * len(CROPS), 4])

# Classes a mapper mistakes each map class for (two each, the likelier first).
CONFUSED_WITH = torch.tensor([[7, 6], [2, 3], [3, 1], [4, 2], [3, 6], [6, 4], [5, 4], [3, 0]])

# Reflectance of pure materials in the ten bands S2_TEN (B02 ... B12): round figures after the USGS spectral library
# (splib07) and common image statistics. The first three change with the season, the others do not.
SEASONAL = ("leaf", "straw", "soil")
CONSTANT = ("needle", "rock", "water", "sediment", "roof", "asphalt")
SPECTRA = torch.tensor(
    [
        [0.030, 0.060, 0.030, 0.100, 0.300, 0.390, 0.420, 0.440, 0.220, 0.100],  # leaf
        [0.080, 0.120, 0.160, 0.190, 0.220, 0.245, 0.270, 0.290, 0.340, 0.250],  # straw
        [0.070, 0.100, 0.140, 0.165, 0.185, 0.205, 0.225, 0.245, 0.320, 0.280],  # soil
        [0.020, 0.036, 0.022, 0.060, 0.165, 0.210, 0.230, 0.240, 0.110, 0.050],  # needle
        [0.130, 0.165, 0.200, 0.220, 0.235, 0.250, 0.260, 0.270, 0.330, 0.300],  # rock
        [0.050, 0.045, 0.028, 0.022, 0.016, 0.014, 0.012, 0.010, 0.006, 0.004],  # water
        [0.080, 0.110, 0.125, 0.120, 0.090, 0.085, 0.075, 0.065, 0.025, 0.015],  # sediment
        [0.130, 0.145, 0.170, 0.180, 0.190, 0.200, 0.210, 0.220, 0.255, 0.235],  # roof
        [0.085, 0.090, 0.097, 0.102, 0.108, 0.112, 0.117, 0.122, 0.140, 0.135],  # asphalt
    ]
)
CLOUD = torch.tensor([0.50, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56, 0.56, 0.42, 0.33])
# Landsat bands as the nearest of S2_TEN.
HLS_FROM_S2 = {"coastal": 0, "blue": 0, "green": 1, "red": 2, "nir": 7, "swir1": 8, "swir2": 9}

# Per element: constant fractions in the order of CONSTANT; what they leave open is shared by SEASONAL.
_FRACTIONS = {
    "water": {"water": 0.85, "sediment": 0.15},
    "conifer": {"needle": 0.82},
    "broadleaf": {"needle": 0.08},
    "soil": {"rock": 0.12},
    "rock": {"rock": 0.75},
    "reed": {"water": 0.3},
    "roof": {"roof": 0.8, "asphalt": 0.1},
    "asphalt": {"asphalt": 0.85},
}

# Per element: greenness without season, pulse (centre, half width in days from local midwinter; amplitude), second
# pulse (centre, half width, amplitude), share of straw in what is not green, brightness (shadow within the canopy).
_SEASON = {
    "water": (0, 182, 60, 0, 0, 20, 0, 0, 1.0),
    "conifer": (0.70, 200, 90, 0.10, 0, 20, 0, 0.2, 0.80),
    "broadleaf": (0.10, 200, 82, 0.78, 0, 20, 0, 0.4, 0.70),
    "shrub": (0.30, 190, 95, 0.30, 0, 20, 0, 0.4, 0.82),
    "grass": (0.22, 165, 75, 0.45, 0, 20, 0, 0.8, 1.0),
    "meadow": (0.30, 180, 110, 0.50, 215, 14, -0.25, 0.6, 1.0),
    "soil": (0.04, 170, 70, 0.06, 0, 20, 0, 0.1, 1.0),
    "rock": (0.05, 180, 70, 0.08, 0, 20, 0, 0.1, 1.0),
    "reed": (0.10, 210, 62, 0.65, 0, 20, 0, 0.9, 0.85),
    "roof": (0.15, 190, 90, 0.35, 0, 20, 0, 0.1, 1.0),
    "asphalt": (0.15, 190, 90, 0.35, 0, 20, 0, 0.2, 1.0),
    "winter cereal": (0.03, 135, 52, 0.85, 345, 60, 0.28, 0.3, 1.0),
    "winter oilseed": (0.03, 118, 56, 0.85, 315, 58, 0.55, 0.3, 1.0),
    "spring cereal": (0.03, 157, 42, 0.85, 275, 30, 0.15, 0.3, 1.0),
    "maize": (0.03, 212, 46, 0.88, 0, 20, 0, 0.3, 1.0),
    "root crops": (0.03, 212, 72, 0.82, 0, 20, 0, 0.2, 1.0),
    "forage": (0.15, 190, 125, 0.60, 230, 16, -0.3, 0.3, 1.0),
    "fallow": (0.08, 185, 80, 0.22, 0, 20, 0, 0.4, 1.0),
}

# Per element: mean backscatter VV, VH in dB without leaves, change at full greenness, and how far the roughness and
# moisture of open ground moves it (0..1).
_RADAR = {
    "water": (-20.0, -27.0, 0, 0, 0),
    "conifer": (-8.8, -14.6, 0, 0, 0.1),
    "broadleaf": (-8.6, -15.2, 0.2, 1.2, 0.1),
    "shrub": (-11.0, -18.0, 0.4, 1.5, 0.3),
    "grass": (-12.5, -20.5, 0.3, 2.0, 0.5),
    "meadow": (-12.3, -20.3, 0.3, 2.0, 0.5),
    "soil": (-13.0, -22.0, 0, 2.0, 1.0),
    "rock": (-11.0, -19.0, 0, 1.0, 0.3),
    "reed": (-9.5, -19.0, 1.0, 2.0, 0.1),
    "roof": (-4.0, -11.5, 0, 0, 0.0),
    "asphalt": (-14.0, -22.5, 0, 0, 0.3),
    "fallow": (-13.0, -22.0, 0.5, 3.0, 1.0),
}
_CROP_RADAR = (-12.5, -21.5, 0.5, 5.0, 0.8)  # one for all crops: they differ in season only


def fractions() -> Tensor:
    """(elements, constant materials)."""
    return torch.tensor([[_FRACTIONS.get(e, {}).get(m, 0.0) for m in CONSTANT] for e in ELEMENTS])


def seasons(temporal: float) -> Tensor:
    """(elements, 9) as listed above; `temporal` scales how far the crops' seasons lie apart (0 = all the same)."""
    table = torch.tensor([_SEASON[e] for e in ELEMENTS], dtype=torch.float32)
    crops = slice(E[CROPS[0]], E[CROPS[-1]] + 1)
    centre = table[crops].mean(0)
    table[crops] = centre + temporal * (table[crops] - centre)
    return table


def radar() -> Tensor:
    """(elements, 5): VV, VH in dB, their change at full greenness, sensitivity to roughness."""
    return torch.tensor([_RADAR.get(e, _CROP_RADAR) for e in ELEMENTS], dtype=torch.float32)
