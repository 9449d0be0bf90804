"""Events: what lies over the ground of a few places for some dates, and how the sensors see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfm_objectives.data.earth.chance import Draws
from gfm_objectives.data.earth.regions import BEND, SHAPES

# Share of pretraining places with each event, so that a corpus holds what an archive holds; tasks choose their own.
NATURAL = {"fire": 0.03, "coast": 0.03}


@dataclass(slots=True)
class Cover:
    """Something over the ground of N places. Of several the later lies on top.

    share (N, T, H, W) 0..1 of each pixel, sharp; spectrum (N, 10) reflectance in S2_TEN; echo (VV, VH) dB that it adds
    to the backscatter at a share of 1.
    """

    share: Tensor
    spectrum: Tensor
    echo: tuple[float, float] = (0.0, 0.0)


@dataclass(slots=True)
class Event:
    """One kind of event in a batch: place (N,) its rows; covers of these rows; label (N, H, W) long, exact."""

    place: Tensor
    covers: list[Cover]
    label: Tensor

    def target(self, places: int) -> Tensor:
        """(B, H, W) long: the label, 0 in the places without the event."""
        out = torch.zeros(places, *self.label.shape[1:], dtype=torch.long)
        out[self.place] = self.label
        return out


def bent(spectra: Tensor, home: Draws) -> Tensor:
    """(N, kinds, 10): `spectra` (kinds, 10) as the region of each place has them; `home` draws by region."""
    return spectra * torch.exp((home.normal(len(spectra), len(SHAPES)) * BEND) @ SHAPES)


def lay(
    x: Tensor, events: Sequence[Event], footprint: Callable[[Tensor], Tensor], pick: list[int], std: Tensor
) -> None:
    """Mix the covers into x (B, T, bands, P), reflectance in units of `std` (bands,), in place.

    `footprint` smears shares as the sensor does; `pick` are its bands among S2_TEN.
    """
    for event in events:
        for cover in event.covers:
            share = footprint(cover.share).flatten(2)  # (N, T, P)
            colour = cover.spectrum[:, pick] / std  # (N, bands)
            for n, place in enumerate(event.place.tolist()):
                x[place].lerp_(colour[n, :, None], share[n, :, None])


def echo(x: Tensor, events: Sequence[Event]) -> None:
    """Add the echoes of the covers to x (B, T, 2, H, W) dB, in place."""
    for event in events:
        for cover in event.covers:
            if any(cover.echo):
                db = torch.tensor(cover.echo)[:, None, None]
                for n, place in enumerate(event.place.tolist()):
                    x[place] += db * cover.share[n, :, None]
