"""Segments: a target layer made of the images alone, so that masked_seg needs no map. docs/segments.md has a picture.

What the segments are made of is withheld from the encoder: with it in sight, naming them would be colour quantisation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.chance import order
from gfm_objectives.data import codebook
from gfm_objectives.data.codebook import Codebook, Recipe, Views
from gfm_objectives.data.folder import cache_file
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import Legend

LAYERS = ("segments", "shuffled")
FORMAT = 1  # of codebooks; a change of what they are made of raises it
DATES = "dates"


class Segmented(Source):
    """`source` with one more layer, and without what that layer is made of.

    layer: segments, the pseudo-class of every pixel; or shuffled, those of another place: the same segments, equally
    frequent classes, and nothing to learn. withhold: dates (the second, fourth, ... of every sensor that has two or
    more) or a sensor; None: dates where any sensor has two, else the sensor with the fewest bands. The other
    options: see codebook.Recipe. Classes are fitted once on a sample of places that is the same for every run, and kept
    in the cache; each place's are made when it is read.

    InputError where there is nothing to withhold.
    """

    def __init__(
        self,
        source: Source,
        layer: str,
        *,
        withhold: str | None,
        classes: int,
        places: int,
        scale: float,
        size: int,
    ) -> None:
        assert layer in LAYERS, layer
        if layer in source.spec.legends:
            raise InputError(f"objective.target={layer}: the data has a layer of that name; rename it")
        if layer == "shuffled" and len(source) < 2:
            raise InputError("objective.target=shuffled: needs two places or more, to show one the other's segments")
        self.source, self.layer = source, layer
        self.withhold = choose(source.spec, withhold)
        self.synthetic, self.license = source.synthetic, source.license
        names = tuple(f"segment class {i}" for i in range(classes))
        self.spec = replace(
            without(source.spec, self.withhold), legends=source.spec.legends | {layer: Legend(layer, names)}
        )
        recipe = Recipe(classes, min(places, len(source)), scale, size)
        made_of = json.dumps([FORMAT, source.fingerprint, self.withhold, asdict(recipe), _version()])
        path = cache_file("segments", ".safetensors", made_of)
        book = codebook.load(path, made_of)
        if book is None:
            sample = order(0, len(source), np.arange(recipe.places)).tolist()
            book = codebook.fit(lambda i: split(source.read(i), self.withhold)[1], sample, recipe)
            book = codebook.keep(book, path, made_of)
        self.book: Codebook = book
        self.fingerprint = hashlib.sha256(book.digest + f"{made_of}/{layer}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int]) -> Batch:
        seen, withheld = split(self.source.read(indices), self.withhold)
        if self.layer == "shuffled":
            half = len(self) // 2  # each place lends its segments to one other, so classes stay as frequent
            withheld = split(self.source.read([(i + half) % len(self) for i in indices]), self.withhold)[1]
        return seen.replace(targets=seen.targets | {self.layer: self.book.classes(withheld)})

    def groups(self) -> list[str]:
        return self.source.groups()

    def notes(self) -> list[str]:
        return [*self.source.notes(), self.about()]

    def about(self) -> str:
        """One line on what is withheld and what was fitted."""
        old = self.source.spec
        what = [s for s, t in old.dates.items() if t > 1] if self.withhold == DATES else [self.withhold]
        when = "every second date of " if self.withhold == DATES else ""
        of = " of other places (a control)" if self.layer == "shuffled" else ""
        recipe, price = self.book.recipe, self.book.price
        return (
            f"{recipe.classes} pseudo-classes of segments{of}; {when}{', '.join(what)} withheld from the encoder; "
            f"fitted on {recipe.places} places in {price.fit_seconds:.0f} s, {1e3 * price.place_seconds:.1f} ms a place"
        )

    def preparation(self, places: int) -> tuple[float, float]:
        price = self.book.price
        return price.fit_flops + places * price.place_flops, price.fit_seconds + places * price.place_seconds


def choose(spec: Spec, withhold: str | None) -> str:
    """What to withhold: DATES or a sensor of `spec`. InputError where the encoder would be left with nothing."""
    several = any(t > 1 for t in spec.dates.values())
    rest = sorted((s for s in spec.bands if s != "dem"), key=lambda s: len(spec.bands[s]))
    if withhold is None and several:
        return DATES
    if withhold is None and len(spec.bands) > 1:
        return rest[0] if len(rest) > 1 else "dem"  # relief is no surface: withheld only where there is no other choice
    known = [*([DATES] if several else []), *(spec.bands if len(spec.bands) > 1 else [])]
    if not known:
        raise InputError(
            f"objective.target=segments: this data shows one sensor ({next(iter(spec.bands))}) on one date, so nothing "
            "can be withheld from the encoder; add a sensor or a date, or take objective.target=map"
        )
    if withhold not in known:
        raise InputError(f"objective.segments.withhold={withhold}: choose from {', '.join(known)}")
    return withhold


def without(spec: Spec, withhold: str) -> Spec:
    """What is left to see."""
    if withhold == DATES:
        return replace(spec, dates={s: (t + 1) // 2 for s, t in spec.dates.items()})
    return replace(
        spec,
        bands={s: b for s, b in spec.bands.items() if s != withhold},
        dates={s: t for s, t in spec.dates.items() if s != withhold},
    )


def split(batch: Batch, withhold: str) -> tuple[Batch, Views]:
    """What the encoder sees, and what the segments are made of."""
    if withhold != DATES:
        rest = {k: s for k, s in batch.sensors.items() if k != withhold}
        return batch.replace(sensors=rest), {withhold: batch.sensors[withhold]}
    seen = {k: _dates(s, 0) for k, s in batch.sensors.items()}
    return batch.replace(sensors=seen), {k: _dates(s, 1) for k, s in batch.sensors.items() if s.x.shape[1] > 1}


def _dates(s: Series, first: int) -> Series:
    return s.map(lambda t: t[:, first::2])


def _version() -> str:
    """Of what cuts the segments: another one may cut them elsewhere."""
    try:
        return version("scikit-image")
    except PackageNotFoundError:
        codebook.needed("skimage")  # says how to install it
        raise
