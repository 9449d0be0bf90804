"""The synthetic source: places of procedural Earths, a function of (world, seed, split, index) and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.chance import seed_of
from gfm_objectives.data import earth
from gfm_objectives.data.earth import labels, mapping, sensing, tables
from gfm_objectives.data.earth.chance import Draws
from gfm_objectives.data.earth.events import NATURAL, Event
from gfm_objectives.data.earth.fire import fire_draws, make_fire
from gfm_objectives.data.earth.layout import layout_draws, make_layout
from gfm_objectives.data.earth.regions import WORLDS, ZONE_OF, Regions, make_regions
from gfm_objectives.data.earth.sea import make_sea, sea_draws
from gfm_objectives.data.source import SPLITS, Source
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import S2_TEN, SENSORS, SHIPPED

VERSION = 1  # raise it when content changes for another reason than the source text
BANDS = {
    "s2": S2_TEN,
    "s1": SENSORS["s1"].band_names,
    "dem": SENSORS["dem"].band_names,
    "hls": SENSORS["hls"].band_names,
}
PLACES = {"pretrain": 100_000, "train": 1000, "val": 500, "test": 1000}
REGIONS = {"pretrain": 300, "finetune": 8, "test": 24}
EVENT_OF = {"burn": "fire", "debris": "coast"}  # layer -> the event without which it is empty
CHUNK = 16  # places made together: enough to spread the cost of a call, few enough for the cache of one core
REPEATS = 8  # places in a row that may show the first of them again


class Synthetic(Source):
    """Places of a procedural Earth; docs/synthetic.md says what is modelled and what is not.

    split: one of SPLITS; world: dev (to iterate on) or final (for the verdict), two families of Earths; seed: the
    number of the Earth, whose regions and places are its own in every split (None: 0); size in pixels of 10 m; dates
    per sensor and year; sensors among s2, s1, dem, hls; layers among map, map_exact, landcover, crop, flood, burn,
    boundary, debris, builtup; places and regions: how many, by split and by zone; clouds: mean cover 0..1;
    label_noise: share of wrong pixels in the map; redundancy: share of pretraining places that show an earlier place at
    other dates; temporal: how far the seasons of crops lie apart (1 = as in life, 0 = not at all); events: share of
    places with a fire and on the coast (None: as NATURAL in pretraining, none in the other splits); a place without an
    event is the same whatever their shares are; test_shift: how far test regions lie beyond the prior of the others,
    0..1; map_errors: random, or pixels (a weak classifier's); map_year: age of the map in years.

    InputError for unknown names, numbers out of range, and a layer whose event never occurs.
    """

    synthetic = True

    def __init__(
        self,
        split: str,
        *,
        world: str = "dev",
        seed: int | None = None,
        size: int = 64,
        dates: int = 4,
        sensors: Sequence[str] = ("s2", "s1", "dem"),
        layers: Sequence[str] = ("map",),
        places: Mapping[str, int] | None = None,
        regions: Mapping[str, int] | None = None,
        clouds: float = 0.3,
        label_noise: float = 0.23,
        redundancy: float = 0.3,
        temporal: float = 1.0,
        events: Mapping[str, float] | None = None,
        test_shift: float = 0.0,
        map_errors: str = "random",
        map_year: int = 0,
    ) -> None:
        assert split in SPLITS, split
        seed = 0 if seed is None else seed
        for key, number, top in (("seed", seed, 2**63), ("map_year", map_year, mapping.YEARS)):
            if not isinstance(number, int) or not 0 <= number <= top:
                raise InputError(f"data.{key}={number}: must be a whole number in 0..{top}")
        _choice("world", [world], WORLDS)
        _choice("sensors", sensors, BANDS)
        _choice("layers", layers, tables.LEGENDS)
        _choice("events", events or (), NATURAL)
        _choice("map_errors", [map_errors], mapping.ERRORS)
        if events is None and split == "pretrain":
            events = NATURAL
        self.events = dict.fromkeys(NATURAL, 0.0) | dict(events or {})
        for layer in layers:
            if not self.events.get(EVENT_OF.get(layer, ""), 1.0):
                raise InputError(f"data.layers={layer}: every place is 0; set data.events.{EVENT_OF[layer]} above 0")
        dials: tuple[tuple[str, float, float], ...] = (
            ("clouds", clouds, 0.95),
            ("label_noise", label_noise, 0.6),
            ("redundancy", redundancy, 1.0),
            ("temporal", temporal, 2.0),
            ("test_shift", test_shift, 1.0),
            *((f"events.{k}", v, 1.0) for k, v in self.events.items()),
        )
        for dial, level, most in dials:
            if not 0 <= level <= most:
                raise InputError(f"data.{dial}={level}: must lie in 0..{most}")
        if not 16 <= size <= 256 or not 1 <= dates <= 24:
            raise InputError(f"data.size={size}, data.dates={dates}: size must lie in 16..256 and dates in 1..24")
        self.split, self.zone = split, ZONE_OF[split]
        self.world, self.seed, self.size, self.dates = world, seed, size, dates
        self.earth = f"{world}:{seed}"
        self.sensors, self.layers = tuple(sensors), tuple(layers)
        self.places = PLACES | dict(places or {})
        self.clouds, self.label_noise, self.temporal = clouds, label_noise, temporal
        self.redundancy = redundancy if split == "pretrain" else 0.0  # labelled places are all different
        self.map_errors, self.map_year = map_errors, map_year
        self.test_shift = test_shift if split == "test" else 0.0
        self.region_count = (REGIONS | dict(regions or {}))[self.zone]
        self.regions: Regions = make_regions(world, self.zone, seed, self.region_count, temporal, self.test_shift)
        self.spec = Spec(
            bands={s: BANDS[s] for s in self.sensors},
            dates={s: 1 if s == "dem" else dates for s in self.sensors},
            size=size,
            gsd=10.0,
            legends={layer: tables.LEGENDS[layer] for layer in self.layers},
        )
        options = {k: getattr(self, k) for k in ("split", "world", "seed", "size", "dates", "sensors", "layers")}
        options |= {
            k: getattr(self, k)
            for k in ("places", "clouds", "label_noise", "redundancy", "temporal", "region_count", "events")
        }
        options |= {k: getattr(self, k) for k in ("test_shift", "map_errors", "map_year")}
        text = json.dumps([VERSION, source_hash(), repr({k: SENSORS[k] for k in SHIPPED}), options], sort_keys=True)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return self.places[self.split]

    def groups(self) -> list[str]:
        """The region of each place, named as no other on any Earth: world:seed:zone-number, such as dev:3:test-7."""
        return [f"{self.earth}:{self.zone}-{self.region_of(i)}" for i in range(len(self))]

    def layout_of(self, index: int) -> int:
        """The place `index` shows: its own, or for a near-repeat the first of its row of REPEATS."""
        return index - index % REPEATS if self._chance("repeat", index) < self.redundancy else index

    def _chance(self, what: str, index: int) -> float:
        """A number of the place, uniform in 0..1."""
        return seed_of(self.world, self.split, self.seed, what, index) % 10_000 / 10_000

    def burns(self, index: int) -> bool:
        """Whether the place has fires, of this year or an earlier one."""
        return self._chance("fire", index) < self.events["fire"]

    def sea_of(self, index: int) -> float:
        """How far open water rises in the place, in units of relief; 0 inland."""
        home = self.layout_of(index)
        return 1.5 + 3 * self._chance("sea", home) if self._chance("coast", home) < self.events["coast"] else 0.0

    def region_of(self, index: int) -> int:
        return seed_of(self.world, self.split, self.seed, "where", self.layout_of(index)) % self.region_count

    def read(self, indices: Sequence[int]) -> Batch:
        for i in indices:
            if not 0 <= i < len(self):
                raise IndexError(f"place {i} of {len(self)}")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the split of work between threads would change the last bits
        try:
            parts = [self._make(indices[k : k + CHUNK]) for k in range(0, len(indices), CHUNK)]
        finally:
            torch.set_num_threads(threads)
        return parts[0] if len(parts) == 1 else collate(parts)

    def _make(self, indices: Sequence[int]) -> Batch:
        homes = [self.layout_of(i) for i in indices]
        region = self.regions.rows(torch.tensor([self.region_of(i) for i in indices]))
        ground = self._draws("layout", homes, layout_draws(self.size))
        looks = self._draws("looks", indices, sensing.look_draws(self.size, self.dates))
        sea = torch.tensor([self.sea_of(i) for i in indices])
        layout = make_layout(ground, region, self.size, sea)
        lonlat = region.lonlat + 2.4 * (ground.uniform(2) - 0.5)

        calendar = sensing.make_calendar(looks, region, self.dates)
        flood = labels.make_flood(looks, layout, self.dates)
        events = self._events(indices, layout, region, calendar)
        for event in events.values():
            flood.water[event.place] = False  # fires need dry weather, and the sea does not flood
        sensors = self._sense(looks, layout, region, calendar, flood, list(events.values()))
        exact = labels.map_exact(layout)
        made: dict[str, Callable[[], Tensor]] = {
            "map": lambda: self._map(homes, ground, layout, region),
            "map_exact": lambda: exact,
            "landcover": lambda: layout.use,
            "crop": lambda: labels.crop_label(layout),
            "flood": lambda: labels.flood_label(layout, flood),
            "burn": lambda: events["fire"].target(len(indices)),
            "boundary": lambda: labels.boundary_label(layout),
            "debris": lambda: events["coast"].target(len(indices)),
            "builtup": lambda: labels.builtup_label(layout),
        }
        targets = {layer: made[layer]() for layer in self.layers}
        return Batch(sensors, targets, torch.full((len(indices),), self.spec.gsd), lonlat)

    def _map(self, homes: Sequence[int], ground: Draws, layout: sensing.Layout, region: Regions) -> Tensor:
        """(B, H, W) the map, from chance of its own where it is not `ground`'s; near-repeats have the same."""
        if self.map_year:
            draws = self._draws("map year", homes, mapping.year_draws(self.size))
            layout = mapping.other_year(draws, layout, self.map_year)
        exact = labels.map_exact(layout)
        if self.map_errors == "random":
            return labels.noisy_map(ground, exact, region, self.label_noise)
        draws = self._draws("mapper", homes, mapping.MAPPER_DRAWS)
        mapper = mapping.fit_mapper(self.world, self.seed, self.temporal)
        return mapping.pixel_map(draws, mapper, layout, region, exact, self.label_noise)

    def _draws(self, what: str, places: Sequence[int], count: int) -> Draws:
        return Draws([seed_of(self.world, self.split, self.seed, what, p) for p in places], count, self.earth)

    def _events(
        self, indices: Sequence[int], layout: sensing.Layout, region: Regions, calendar: sensing.Calendar
    ) -> dict[str, Event]:
        """The events of a batch, from chance of their own: places without one are what they were."""
        hit = {
            "coast": [self.sea_of(i) > 0 for i in indices],
            "fire": [self.burns(i) for i in indices],
        }
        out = {}
        for name, which in hit.items():
            place = torch.tensor(which).nonzero()[:, 0]
            ids = [indices[p] for p in place.tolist()]
            here = [seed_of(self.world, self.split, self.seed, name, "draws", i) for i in ids]
            zone = [seed_of(self.world, self.zone, self.seed, name, "region", self.region_of(i)) for i in ids]
            if not ids:
                out[name] = Event(place, [], torch.zeros(0, self.size, self.size, dtype=torch.long))
                continue
            home, ground, country = Draws(zone, 64, self.earth), layout.rows(place), region.rows(place)
            if name == "fire":
                draws = Draws(here, fire_draws(self.size), self.earth)
                out[name] = make_fire(place, draws, home, ground, country, calendar.season[place])
            else:
                draws = Draws(here, sea_draws(self.size, self.dates), self.earth)
                out[name] = make_sea(place, draws, home, ground, country, self.dates)
        return out

    def _sense(
        self,
        looks: Draws,
        layout: sensing.Layout,
        region: Regions,
        calendar: sensing.Calendar,
        flood: labels.Flood,
        events: Sequence[Event],
    ) -> dict[str, Series]:
        """Each sensor draws from its own copy of the chance, so that leaving one out does not change the others."""
        group = sensing.group_of(layout)
        # rain brings the clouds that hide the flood
        worse = 1.4 * flood.water.flatten(2).any(2)
        hidden = flood.canopy[:, None]
        out = {}
        for name in self.sensors:
            draws = looks.fork(list(BANDS).index(name), sensing.look_draws(self.size, self.dates))
            if name == "dem":
                out[name] = sensing.elevation(layout, draws)
                continue
            when = sensing.near(calendar, draws, 3)
            green, straw = sensing.cover(layout, region, when.season)
            if name == "s1":
                drowned = flood.water & (hidden > 0)
                calm = flood.water & (hidden == 0)
                out[name] = sensing.radar(layout, region, green, group, when, calm, drowned, events, draws)
                continue
            phi = sensing.abundances(layout, region, green, straw, group)
            phi = sensing.FOOTPRINT[name](phi)
            sky = sensing.make_sky(draws, when, self.clouds, worse, self.size)
            visible = flood.water * (1 - hidden)
            out[name] = sensing.optical(name, BANDS[name], layout, region, phi, when, sky, visible, events, draws)
        return {s: out[s] for s in self.sensors}


def _choice(key: str, given: Iterable[str], known: Sequence[str] | Mapping[str, object]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"data.{key}={name}: no such choice; choose from {', '.join(known)}")


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Hash of the generator's own text: any edit makes another Earth."""
    files = [Path(__file__), *sorted(Path(earth.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
