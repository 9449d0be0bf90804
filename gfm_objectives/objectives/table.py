"""The table of objectives. A new one is one file and one line here, and a yaml of its options in configs/objective."""

from __future__ import annotations

from gfm_objectives.objectives.contrastive import Contrastive
from gfm_objectives.objectives.cross_sensor import CrossSensor
from gfm_objectives.objectives.jepa import JEPA
from gfm_objectives.objectives.latent import Latent
from gfm_objectives.objectives.mae import MAE
from gfm_objectives.objectives.map_contrast import MapContrast
from gfm_objectives.objectives.masked_seg import MaskedSeg
from gfm_objectives.objectives.mix import Mix
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.objectives.supervised import Supervised
from gfm_objectives.objectives.temporal import Temporal

OBJECTIVES: dict[str, type[Objective]] = {
    "contrastive": Contrastive,
    "cross_sensor": CrossSensor,
    "jepa": JEPA,
    "latent": Latent,
    "mae": MAE,
    "map_contrast": MapContrast,
    "masked_seg": MaskedSeg,
    "mix": Mix,
    "supervised": Supervised,
    "temporal": Temporal,
}
