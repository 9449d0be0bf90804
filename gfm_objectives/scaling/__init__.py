"""Laws: loss, score and gain against compute, parameters and tokens; and the published models beside them."""

from __future__ import annotations

from gfm_objectives.scaling.fitting import Fit, fit
from gfm_objectives.scaling.laws import LAWS, Law
from gfm_objectives.scaling.points import Points, read

__all__ = ["LAWS", "Fit", "Law", "Points", "fit", "read"]
