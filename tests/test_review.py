"""Reviews of maps: areas as published, samples that are probability samples, tiles that come back as chips."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from kept import BANDS, LEGEND, kept, scene, write
from PIL import Image

from gfm_objectives import cli
from gfm_objectives.batch import Batch, Series
from gfm_objectives.predict.raster import rgb
from gfm_objectives.review.areas import allocate, from_chips, stratified
from gfm_objectives.review.choosing import Tile, unlike
from gfm_objectives.review.tiles import write_pictures
from gfm_objectives.review.words import plus_minus

# Olofsson et al. 2014, table 8: deforestation, gain, stable forest, stable non-forest; rows = map.
PAPER = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])


def gfm(*words):
    return cli.main([str(w) for w in words])


def test_areas_and_accuracies_as_in_the_paper():
    e = stratified(PAPER, PIXELS)
    ha = 1e7 * 0.09
    assert e.area[0] * ha == pytest.approx(21_158, abs=1) and e.area_half[0] * ha == pytest.approx(6_158, abs=2)
    assert e.overall == pytest.approx(0.95, abs=0.005) and e.overall_half == pytest.approx(0.02, abs=0.005)
    assert e.users.round(2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert e.users_half.round(2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert e.producers.round(2).tolist() == [0.75, 0.85, 0.93, 0.96]


def test_the_interval_covers_what_it_should():
    rng, pixels = np.random.default_rng(0), np.array([9000, 1000])
    right = np.array([[0.9, 0.1], [0.3, 0.7]])  # of each stratum, what it truly is
    truth = (pixels / pixels.sum()) @ right
    found = pixels[1] * right[1, 1] / pixels.sum() / truth[1]  # producer's accuracy
    inside = []
    for _ in range(600):
        counts = np.stack([rng.multinomial(n, p) for n, p in zip((150, 60), right, strict=True)])
        e = stratified(counts, pixels)
        inside.append((abs(e.area[1] - truth[1]) <= e.area_half[1], abs(e.producers[1] - found) <= e.producers_half[1]))
    assert (np.mean(inside, 0) >= 0.92).all() and (np.mean(inside, 0) <= 0.98).all(), np.mean(inside, 0)


def test_chips_give_an_interval_only_where_there_are_areas():
    one = np.array([[80, 20], [10, 90]])
    share, half = from_chips([one] * 3, np.array([500, 500]))
    assert half is None and share[1] == pytest.approx(0.5 * 20 / 110 * 0 + 0.5 * 10 / 90 + 0.5 * 90 / 110)
    rng = np.random.default_rng(0)
    _, half = from_chips([one + rng.integers(0, 20, (2, 2)) for _ in range(8)], np.array([500, 500]))
    assert half is not None and (half > 0).all() and half[0] == pytest.approx(half[1])
    wrong = rng.integers(0, 30, (8, 2))  # of 100 pixels that are said to be of each class
    chips = [np.array([[100 - a, b], [a, 100 - b]]) for a, b in wrong.tolist()]
    each = 0.25 * wrong[:, 0] + 0.75 * (100 - wrong[:, 1])  # then it is the mean over areas, with its usual interval
    share, half = from_chips(chips, np.array([250, 750]))
    assert share[1] == pytest.approx(each.mean() / 100)
    assert half[1] == pytest.approx(2.364624 * each.std(ddof=1) / 8**0.5 / 100)


def test_allocation():
    assert allocate(np.array([900, 100, 0, 5]), 100, 20).tolist() == [20 + 49, 20 + 5, 0, 5]


def test_figures_have_the_digits_of_their_intervals():
    nan = float("nan")
    said = [plus_minus(*x) for x in ((877.5, 187.3), (0.95312, 0.0204), (3.14159, None), (2, nan), (nan, 1), (5, 0))]
    assert said == ["880 +- 190", "0.953 +- 0.020", "3.142", "2", "unknown", "5 +- 0"]


def test_unlike_rows_are_chosen():
    x = np.array([[0, 0.0], [0, 0.01], [5, 0], [0, 5], [5, 0.01]])
    assert set(unlike(x, 3)) == {0, 2, 3} or set(unlike(x, 3)) == {0, 4, 3}


@pytest.fixture
def mapped(tmp_path):
    """A model, a scene and its map, with what it doubts."""
    areas = {f"a{k}": (np.eye(3, dtype=int) * 50 + k).tolist() for k in range(6)}
    reliability = {c: [[100.0, 0.6, 0.5]] for c in LEGEND.classes}
    calibration = {"temperature": 1.5, "ece_before": 0.2, "ece_after": 0.1, "reliability": reliability}
    model = kept(tmp_path / "model", areas=areas, calibration=calibration)
    image = scene(tmp_path / "scene.tif", 160, 192)
    words = [f"model={model}", f"input={image}", "scale=0.0001", "precision=fp32", "device=cpu"]
    assert gfm("predict", *words, f"output={tmp_path / 'map.tif'}", "extra=entropy") == 0
    return tmp_path, model, image


def test_a_sample_is_drawn_by_class_and_estimated(mapped, capsys):
    root, _, _ = mapped
    assert gfm("review", f"sample={root / 'map.tif'}", f"out={root}", "name=few", "n=5", "least=10") == 0
    assert "places are drawn, since least=10 of each class is more" in capsys.readouterr().err
    assert gfm("review", f"sample={root / 'map.tif'}", f"out={root}", "name=s", "n=60", "least=10") == 0
    with rasterio.open(root / "map.tif") as file:
        values = file.read(1)
    about = json.loads((root / "s" / "sample.json").read_text())
    names = dict(zip(about["codes"], about["classes"], strict=True))
    with (root / "s" / "sample.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len({(r["row"], r["column"]) for r in rows}) == len(rows) >= 55
    for r in rows:
        code = values[int(r["row"]), int(r["column"])]
        assert about["classes"][about["strata"][r["id"]]] == names[code], "a place lies in its stratum"
        r["reference"] = names[code]
    order = [about["strata"][r["id"]] for r in rows]
    assert order != sorted(order), "their order says nothing of the map"
    rows[0]["reference"] = "unsure"
    labelled = root / "s" / "sample.csv"
    with labelled.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert gfm("review", f"estimate={labelled}") == 0
    found = json.loads((root / "s" / "areas.json").read_text())
    km2 = [(values == c).sum() * 1e-4 for c in about["codes"]]
    assert found["area_km2"] == pytest.approx(km2) and found["overall"] == 1.0
    assert "1 left out" in capsys.readouterr().out
    labelled.write_text(labelled.read_text().replace("water", "lava"))
    assert gfm("review", f"estimate={labelled}") == 2
    err = capsys.readouterr().err
    assert "'lava' is no class" in err and "line " in err
    assert gfm("review", f"sample={root / 'map.tif'}", f"out={root}", "name=s") == 2, "labels are not overwritten"
    text = labelled.read_text().replace("lava", "water")
    as_saved = text.replace(",", ";").encode("utf-8-sig")  # by a spreadsheet
    labelled.write_bytes(as_saved)
    (root / "s" / "areas.json").unlink()
    assert gfm("review", f"estimate={labelled}") == 0
    assert json.loads((root / "s" / "areas.json").read_text())["overall"] == 1.0
    capsys.readouterr()
    labelled.write_text(text + text.splitlines()[2] + "\n")
    assert gfm("review", f"estimate={labelled}") == 2
    assert "is there twice" in capsys.readouterr().err
    for content, told in ((text.replace("id", "nr", 1), "no column id"), (text.replace("water", "wäter"), "in UTF-8")):
        labelled.write_text(content, encoding="latin-1")
        assert gfm("review", f"estimate={labelled}") == 2
        err = capsys.readouterr().err
        assert f"sample.csv: no {'text ' * ('UTF' in told)}{told.removeprefix('no ')}" in err and err.count("\n") == 1


def test_tiles_to_label_come_back_as_chips(mapped, capsys):
    root, model, image = mapped
    words = [f"map={root / 'map.tif'}", f"model={model}", f"input={image}", "scale=0.0001", f"out={root}", "name=look"]
    assert gfm("review", *words, "tiles=5") == 0
    told = capsys.readouterr().out
    assert "assumes that the test chips represent the map" in told and f"also={root / 'look' / 'chips.yaml'}" in told
    out = root / "look"
    tiles = json.loads((out / "tiles.geojson").read_text())["features"]
    assert len(tiles) == 5 and all(-180 <= t["geometry"]["coordinates"][0][0][0] <= 180 for t in tiles)
    with rasterio.open(root / "map_entropy.tif") as file:
        doubt = file.read(1)[:160, :192].reshape(5, 32, 6, 32).swapaxes(1, 2).reshape(30, -1).astype(float)
    doubt = np.array([d[d != 255].mean() / 250 for d in doubt if (d != 255).mean() >= 0.5])
    told = [t["properties"]["doubt"] for t in tiles]
    assert told[0] == pytest.approx(doubt.max(), abs=1e-4) and told == sorted(told, reverse=True)
    page = (out / "index.html").read_text()
    assert page.count("<figure tabindex") == 5 and "http" not in page
    assert all(f'href="#{t["properties"]["id"]}"' in page for t in tiles) and page.count("±") == 3
    with Image.open(out / "pictures" / "overview.png") as picture, rasterio.open(root / "map.tif") as file:
        assert picture.size == (192, 160)
        colours = {code: rgb(c) for code, c in zip(LEGEND.codes, LEGEND.colors, strict=True)} | {255: (255, 255, 255)}
        assert all(picture.getpixel((x, y)) == colours[file.read(1)[y, x]] for x, y in ((3, 3), (90, 80), (191, 159)))
    with Image.open(out / "pictures" / "doubt.png") as picture, rasterio.open(root / "map_entropy.tif") as file:
        assert picture.size == (192, 160) and "pictures/doubt.png" in page
        values, shown = file.read(1), np.asarray(picture).astype(int).sum(2)
        assert np.corrcoef(values[values != 255], shown[values != 255])[0, 1] > 0.9
    for t in tiles:
        for what in ("image", "map", "doubt"):
            assert (out / t["properties"][f"thumbnail_{what}"]).is_file()
    name = tiles[0]["properties"]["id"]
    row, column = int(name[1:7]), int(name[8:])
    with rasterio.open(out / "images" / "s2" / f"{name}.tif") as cut, rasterio.open(image) as whole:
        part = whole.read()[:, row : row + 32, column : column + 32] * 1e-4
        got = cut.read()
        assert np.nanmax(np.abs(got - np.where(part < 0, np.nan, part))) < 1e-6
        assert (cut.transform.c, cut.transform.f) == (500_000 + 10 * column, 5_000_000 - 10 * row)
    with rasterio.open(out / "guess" / f"{name}.tif") as guess, rasterio.open(root / "map.tif") as file:
        said = file.read(1)[row : row + 32, column : column + 32]
        assert (guess.read(1) == said).all(), "codes of the legend come in another order than labels of the map"
    shares = [(said == code).sum() / (said != 255).sum() for code in LEGEND.codes]
    assert [tiles[0]["properties"][c] for c in LEGEND.classes] == pytest.approx(shares, abs=1e-4)
    for t in tiles[:2]:
        with rasterio.open(out / "labels" / f"{t['properties']['id']}.tif", "r+") as file:
            assert (file.read(1) == 255).all()
            file.write(np.full((1, 32, 32), 80, np.uint8))
    from gfm_objectives.compare.joining import labelled
    from gfm_objectives.config import load_choice
    from gfm_objectives.data import build_source

    source = build_source(load_choice("data", str(out / "chips.yaml")), "pretrain")
    some = labelled(source, "cover")
    assert len(source) == 5 and len(some) == 2
    assert (some.read([0, 1]).targets["cover"] == 1).all()
    assert gfm("review", *words, "tiles=5") == 0
    assert len(labelled(build_source(load_choice("data", str(out / "chips.yaml")), "pretrain"), "cover")) == 2, (
        "labels that were drawn stay"
    )


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_without_a_place_knows_its_pixels(tmp_path):
    model, image = kept(tmp_path / "model"), scene(tmp_path / "s.tif", 64, 64, crs=None)
    words = [f"model={model}", f"input={image}", "scale=0.0001", "device=cpu", f"output={tmp_path / 'm.tif'}"]
    assert gfm("predict", *words) == 0
    assert gfm("review", f"sample={tmp_path / 'm.tif'}", f"out={tmp_path}", "name=s", "n=30", "least=5") == 0
    about = json.loads((tmp_path / "s" / "sample.json").read_text())
    assert about["km2"] == pytest.approx(sum(about["pixels"]) * 1e-4)


def test_the_entropy_of_another_map_is_told(mapped, capsys):
    root, model, image = mapped
    write(root / "map_entropy.tif", np.zeros((1, 100, 100), np.uint8), nodata=255)
    words = [f"map={root / 'map.tif'}", f"model={model}", f"input={image}", "scale=0.0001", f"out={root}", "name=e"]
    assert gfm("review", *words) == 2
    err = capsys.readouterr().err
    assert "map_entropy.tif: is not of" in err and err.count("\n") == 1


def test_two_maps_are_compared(mapped, capsys):
    root, _, image = mapped
    with rasterio.open(root / "map.tif") as file:
        values, about = file.read(), file.profile
        tags = file.tags(1)
    worse = values.copy()
    worse[:, 40:100, 40:80] = np.where(worse[:, 40:100, 40:80] == 80, 10, 80)
    with rasterio.open(
        root / "new.tif",
        "w",
        **{k: about[k] for k in ("width", "height", "count", "dtype", "nodata", "crs", "transform")},
        driver="GTiff",
    ) as file:
        file.write(worse)
        file.update_tags(1, **tags)
    write(root / "labels.tif", values)
    pair = f"compare={root / 'map.tif'},{root / 'new.tif'}"
    assert gfm("review", pair, f"labels={root / 'labels.tif'}", f"out={root}", "name=c") == 0
    found = json.loads((root / "c" / "compare.json").read_text())
    assert found["changed_km2"] == pytest.approx(2400 * 1e-4) and found["miou"][0] == 1.0 > found["miou"][1]
    assert "changed: 0.24 km2" in capsys.readouterr().out
    (lost,) = json.loads((root / "c" / "regressions.geojson").read_text())["features"]
    assert lost["properties"]["lost"] == pytest.approx(2400 / (values != 255).sum()) and found["regressions"] == 1
    pair = f"compare={root / 'new.tif'},{root / 'map.tif'}"
    assert gfm("review", pair, f"labels={root / 'labels.tif'}", f"out={root}", "name=back") == 0
    assert json.loads((root / "back" / "compare.json").read_text())["regressions"] == 0, "what gets better is none"
    write(root / "none.tif", np.full_like(values, 255))
    assert gfm("review", pair, f"labels={root / 'none.tif'}", f"out={root}", "name=none") == 0
    assert f"labels: no pixel of {root / 'map.tif'} has one" in capsys.readouterr().err
    assert gfm("review", f"compare={root / 'map.tif'},{image}", f"out={root}") == 2
    assert "names no classes" in capsys.readouterr().err


def test_calibration_of_one_who_is_too_sure():
    from gfm_objectives.finetune.calibration import Likelihoods, Reliability, best_temperature, calibration_error

    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 64, 64, generator=g) * 2
    p = logits.softmax(1).movedim(1, -1).reshape(-1, 3)
    target = torch.multinomial(p, 1, generator=g).view(4, 64, 64)
    target[0, :10] = -1
    sums = Likelihoods("segmentation", ()).observe(logits * 3, target, 3).sum(0)
    temperature = best_temperature(sums)
    assert temperature == pytest.approx(3, rel=0.05)
    errors = [
        calibration_error(Reliability("segmentation", (), temperature=t).observe(logits * 3, target, 3).sum(0))
        for t in (1.0, temperature)
    ]
    assert errors[0] > 0.1 > 0.03 > errors[1]


@pytest.mark.parametrize(("dates", "looks"), [(1, {"image"}), (3, {"first", "last"})])
def test_a_tile_of_a_series_shows_its_first_and_its_last_date(tmp_path, dates, looks):
    x = torch.zeros(1, dates, 4, 8, 8)
    x[:, -1, :, :4] = 1.0  # the upper half is brighter at the end
    series = Series(x, torch.ones(1, dates, 8, 8, dtype=torch.bool), torch.zeros(1, dates), BANDS["s2"])
    batch, tile = Batch({"s2": series}, {}, torch.tensor([10.0])), Tile(0, 0, 8, 0.5, np.array([1.0, 0.0]))
    m, card = SimpleNamespace(read=lambda box: np.zeros((8, 8), np.int64)), SimpleNamespace(legend=LEGEND)
    names = write_pictures(tile, m, np.zeros((8, 8)), batch, card, tmp_path)
    assert set(names) == looks | {"map", "doubt"}
    pictures = {what: np.asarray(Image.open(tmp_path / name)) for what, name in names.items() if what in looks}
    assert all((p[0] != p[-1]).any() == (what != "first") for what, p in pictures.items())
