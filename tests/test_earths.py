"""Earths share nothing but the prior; a run of seed s pretrains on Earth s; and the dials that are off by default."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from gfm_objectives import chance
from gfm_objectives.budget import Budget
from gfm_objectives.config import compose
from gfm_objectives.data import SPLITS
from gfm_objectives.data import synthetic as source_module
from gfm_objectives.data.earth import chance as earth_chance
from gfm_objectives.data.earth import mapping, regions, tables
from gfm_objectives.data.earth.chance import Draws
from gfm_objectives.data.earth.layout import FIRST_CROP, layout_draws, make_layout
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.errors import InputError
from gfm_objectives.pretrain import measuring, open_source
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.runs.finished import recipe_of
from gfm_objectives.runs.provenance import config_hash

EARTHS = [("dev", 0), ("dev", 1), ("dev", 7), ("final", 0), ("final", 1)]
EVENTS = {"fire": 1.0, "coast": 1.0}
DIALS: dict[str, object] = {"test_shift": 1.0, "map_errors": "pixels", "map_year": 5}


def test_earths_share_nothing_but_the_prior(monkeypatch: pytest.MonkeyPatch):
    """No seed of chance is drawn from on two Earths, save the one that parts the grid between the worlds."""
    drawn: dict[int, tuple[object, ...]] = {}

    def recording(*key: object) -> int:
        drawn[chance.seed_of(*key)] = key
        return chance.seed_of(*key)

    for module in (source_module, regions, earth_chance, mapping):
        monkeypatch.setattr(module, "seed_of", recording)
    earth_chance.bank.cache_clear()
    mapping.fit_mapper.cache_clear()
    seen: dict[tuple[str, int], dict[int, tuple[object, ...]]] = {}
    for world, seed in EARTHS:
        drawn.clear()
        for split in SPLITS:
            made = Synthetic(split, world=world, seed=seed, size=16, events=EVENTS, layers=("map",), **DIALS)
            made.read(range(12))
        seen[world, seed] = dict(drawn)
        assert len(drawn) > 500
    for a, b in itertools.combinations(EARTHS, 2):
        assert {seen[a][s] for s in seen[a].keys() & seen[b]} == {("cells",)}, (a, b)


def test_an_earth_has_places_and_regions_of_its_own():
    made = {e: Synthetic("test", world=e[0], seed=e[1], layers=("landcover",), sensors=("s2",)) for e in EARTHS}
    places = {e: source.read(range(8)) for e, source in made.items()}
    for a, b in itertools.combinations(EARTHS, 2):
        for field in regions.Regions.__slots__:
            one, other = getattr(made[a].regions, field), getattr(made[b].regions, field)
            varies = (
                one.flatten(1).std(0) > 0 if one.dim() > 1 else torch.ones(1, dtype=torch.bool)
            )  # or the prior's own
            same = (one == other).reshape(len(one), -1)[:, varies].float().mean()
            assert varies.any() and same < 0.1, (a, b, field, same)
        agree = places[a].targets["landcover"][:, None] == places[b].targets["landcover"][None]
        assert agree.float().mean((2, 3)).max() < 0.95, (a, b)
        x, y = places[a].sensors["s2"].x, places[b].sensors["s2"].x
        assert (x == y)[x != 0].float().mean() < 1e-3, (a, b)


def test_areas_are_named_as_no_other_on_any_earth():
    names = [set(Synthetic(s, world=w, seed=n).groups()) for w, n in EARTHS for s in ("pretrain", "train", "test")]
    assert sum(map(len, names)) == len(set.union(*names))
    source = Synthetic("test", seed=3)
    assert source.groups()[5] == f"dev:3:test-{source.region_of(5)}"
    assert set(source.groups()) == {f"dev:3:test-{r}" for r in range(24)}


def test_no_seed_is_earth_0():
    assert Synthetic("val").fingerprint == Synthetic("val", seed=0).fingerprint
    for seed in (-1, "x", 1.5):
        with pytest.raises(InputError, match=r"data\.seed=.*whole number"):
            Synthetic("val", seed=seed)  # type: ignore[arg-type]


# -- a run of seed s pretrains on Earth s


@pytest.mark.parametrize("words, earth", [(["seed=3"], 3), (["seed=3", "data.seed=1"], 1), ([], 0)])
def test_a_run_reads_the_earth_of_its_seed(words: list[str], earth: int, monkeypatch: pytest.MonkeyPatch, tmp_path):
    (cfg,) = compose("train", [*words, "data.size=16"])
    source, _ = open_source(cfg)
    assert source.fingerprint == Synthetic("pretrain", seed=earth, size=16).fingerprint
    held_out: list[tuple[object, str]] = []

    def refusing(options: dict[str, object], split: str) -> None:
        held_out.append((options["seed"], split))
        raise InputError("seen enough")

    monkeypatch.setattr(measuring, "build_source", refusing)
    objective = torch.nn.Identity()
    objective.set_patch, objective.encoder = lambda: None, None
    fabric = SimpleNamespace(device=torch.device("cpu"), global_rank=0, world_size=1, is_global_zero=True)
    module = Pretraining(objective, {}, Budget(1e9), cfg, source, tmp_path, fabric)  # type: ignore[arg-type]
    measuring.Measuring(torch.float32).begin(module)
    assert held_out == [(earth, "val")]


def test_the_config_of_a_run_leaves_the_earth_open():
    """Or runs that differ in the seed would differ in the data too, and be no longer one contender."""
    configs = compose("train", ["seed=0,1,2"])
    assert [cfg.data.seed for cfg in configs] == [None] * 3 and len({config_hash(c) for c in configs}) == 3
    kept = [recipe_of(OmegaConf.to_container(c)) for c in configs]
    assert kept[0] == kept[1] == kept[2]


# -- dials that are off by default


def read(split: str, n: int = 8, **options: object) -> dict[str, Tensor]:
    batch = Synthetic(split, **({"layers": ("map", "map_exact"), "events": {}} | options)).read(range(n))
    assert batch.lonlat is not None
    images = {f"{k}.{f}": getattr(s, f) for k, s in batch.sensors.items() for f in ("x", "valid", "day")}
    return images | batch.targets | {"lonlat": batch.lonlat}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dial", DIALS)
def test_a_dial_changes_what_it_says_and_nothing_else(dial: str, split: str):
    off, on = read(split), read(split, **{dial: DIALS[dial]})
    differ = {k for k in off if not torch.equal(off[k], on[k])}
    if dial != "test_shift":
        assert differ == {"map"}
    else:  # parcels move land use, so everything follows but the elevation of the ground itself
        assert differ == ({"s2.x", "s1.x", "dem.x", "map", "map_exact"} if split == "test" else set())


def test_a_dial_that_is_off_is_as_if_it_were_not_there():
    options = {"test_shift": 0.0, "map_errors": "random", "map_year": 0}
    assert Synthetic("test", **options).fingerprint == Synthetic("test").fingerprint
    prints = {Synthetic("test", **{k: v}).fingerprint for k, v in DIALS.items()} | {Synthetic("test").fingerprint}
    assert len(prints) == 4
    assert Synthetic("pretrain", test_shift=1.0).fingerprint == Synthetic("pretrain").fingerprint


def test_maps_are_the_same_in_any_batch_and_with_any_sensors():
    options = {"layers": ("map",), "map_errors": "pixels", "map_year": 5}
    source = Synthetic("pretrain", redundancy=1.0, **options)
    whole = source.read([9, 3, 20, 0, 1, *range(30, 50)]).targets["map"]
    for at, index in enumerate([9, 3, 20]):
        assert torch.equal(source.read([index]).targets["map"][0], whole[at])
    assert torch.equal(whole[3], whole[4])  # a place seen again has the map it had
    bare = Synthetic("pretrain", redundancy=1.0, sensors=("dem",), **options)
    assert torch.equal(bare.read([9, 3, 20]).targets["map"], whole[:3])


def deviations(source: Synthetic) -> dict[str, Tensor]:
    """In standard deviations of the prior: length of each material's bend (R, materials), shift of the crops' seasons
    (R); and the sides of parcels in pixels (R, 2)."""
    r = source.regions
    bend = (r.spectra / tables.SPECTRA).log() @ torch.linalg.pinv(regions.SHAPES) / regions.BEND
    crops = slice(tables.E[tables.CROPS[0]], tables.E[tables.CROPS[-1]] + 1)
    days = (r.season - tables.seasons(1.0))[:, crops, 1].mean(1)
    return {"bend": bend.norm(dim=-1), "season": days.abs() / 11, "parcel": r.parcel}


def test_shifted_test_regions_lie_beyond_the_prior():
    prior = deviations(Synthetic("pretrain"))
    off, half, on = (deviations(Synthetic("test", test_shift=s)) for s in (0.0, 0.5, 1.0))
    assert on["bend"].median() > prior["bend"].quantile(0.999) > off["bend"].max()
    assert on["season"].min() > prior["season"].quantile(0.95) and on["season"].min() > 2
    low, high = prior["parcel"].min(), prior["parcel"].max()
    assert ((on["parcel"] < low) | (on["parcel"] > high)).all()
    for key in ("bend", "season"):
        assert off[key].mean() + 0.7 < half[key].mean() < on[key].mean() - 0.7, key
    x = read("test", 48, test_shift=1.0)
    assert all(x[f"{s}.x"].isfinite().all() for s in ("s2", "s1", "dem")) and x["s2.x"].abs().max() < 40


def errors(n: int = 96, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    """map, map_exact (n, H, W) and s2 under clear skies (n, T C, H, W)."""
    made = read("pretrain", n, sensors=("s2",), clouds=0.0, redundancy=0.0, **options)
    return made["map"], made["map_exact"], made["s2.x"].flatten(1, 2)


@pytest.mark.parametrize("dial", [0.0, 0.1, 0.23, 0.4])
def test_a_weak_classifier_errs_as_often_as_the_dial_says(dial: float):
    told, exact, _ = errors(160, map_errors="pixels", label_noise=dial, dates=1)
    assert (told != exact).float().mean().item() == pytest.approx(dial, abs=0.03)
    assert dial or torch.equal(told, exact)


def test_a_weak_classifier_errs_where_spectra_mislead():
    """Whoever classifies the images by class means errs at the same pixels, and with the same wrong class."""

    def lift(map_errors: str) -> tuple[float, float]:
        told, exact, x = errors(map_errors=map_errors)
        x, told, exact = x.movedim(1, -1).flatten(0, 2)[::7], told.flatten()[::7], exact.flatten()[::7]
        x = (x - x.mean(0)) / x.std(0)
        mean = torch.stack([x[exact == k].mean(0) for k in range(8)])
        guess = torch.cdist(x, mean).argmin(1)
        wrong, misled = told != exact, guess != exact
        both = wrong & misled
        return (wrong[misled].float().mean() / wrong.float().mean()).item(), (told == guess)[both].float().mean().item()

    often, alike = lift("pixels")
    by_chance, named = lift("random")
    assert often > 1.4 and by_chance < 1.15, (often, by_chance)
    assert alike > named + 0.15, (alike, named)


def test_an_older_map_differs_by_whole_patches_and_more_with_each_year():
    maps = {years: errors(96, map_year=years, label_noise=0.0, dates=1)[:2] for years in (1, 5, 20)}
    changed = {years: told != exact for years, (told, exact) in maps.items()}
    share = {years: c.float().mean().item() for years, c in changed.items()}
    assert 0.005 < share[1] < 0.02 and 0.04 < share[5] < 0.09 and 0.15 < share[20] < 0.27, share
    assert not (changed[1] & ~changed[5]).any() and not (changed[5] & ~changed[20]).any()
    at = changed[5]
    assert (at[:, :, 1:] & at[:, :, :-1]).float().mean() > 0.75 * share[5]  # neighbours change together
    some = at.flatten(1).any(1).float().mean()
    assert 0.75 < some < 1 and changed[1].flatten(1).any(1).float().mean() < 0.7  # not in every place
    told, exact = maps[5]
    water = exact == 0
    assert torch.equal(told == 0, water)  # rivers and lakes stay


def test_crops_rotate_under_an_older_map():
    """The broad map does not tell crops apart, but the composites of its classifier do."""
    keys = list(range(8))
    region = Synthetic("train").regions.rows(torch.tensor(keys))
    now = make_layout(Draws(keys, layout_draws(64), "dev:0"), region, 64, torch.zeros(8))
    then = mapping.other_year(Draws(keys, mapping.year_draws(64), "dev:0"), now, 1)
    field = (now.element >= FIRST_CROP) & (then.element >= FIRST_CROP)
    assert (now.element != then.element)[field].float().mean() > 0.5
    assert torch.equal(now.crop.sort(1).values, then.crop.sort(1).values)  # what a place grows in all is the same
    x = [mapping.composites(Draws(keys, mapping.MAPPER_DRAWS, "dev:0"), y, region) for y in (now, then)]
    apart = (x[0] - x[1]).abs().mean(1).view_as(now.height)
    assert apart[field].mean() > 10 * apart[(now.use == 0) & (then.use == 0)].mean()


def test_dials_are_checked():
    for options, message in (
        ({"test_shift": 1.5}, r"data\.test_shift=1\.5: must lie in 0\.\.1"),
        ({"map_errors": "many"}, r"data\.map_errors=many.*random, pixels"),
        ({"map_year": 21}, r"data\.map_year=21: must be a whole number in 0\.\.20"),
        ({"map_year": 1.5}, r"data\.map_year=1\.5: must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            Synthetic("test", **options)  # type: ignore[arg-type]
