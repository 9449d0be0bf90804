"""Maps of whole scenes: equal to one pass of windows, resumed to the same bytes, scored as evaluation scores."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from kept import BANDS, LEGEND, kept, scene, write
from rasterio import _env

from gfm_objectives import cli
from gfm_objectives.batch import Batch, Series
from gfm_objectives.data.source import normalise
from gfm_objectives.data.windows import sliding
from gfm_objectives.errors import InputError
from gfm_objectives.finetune.calibration import strangeness
from gfm_objectives.finetune.evaluation import evaluate
from gfm_objectives.predict import assembling
from gfm_objectives.predict.ground import Files, Ground
from gfm_objectives.predict.job import Job
from gfm_objectives.predict.mapping import Mapper
from gfm_objectives.predict.predictor import Predictor
from gfm_objectives.predict.raster import CACHE_MB, rgb
from gfm_objectives.predict.scene import Quality
from gfm_objectives.predict.seams import Seams
from gfm_objectives.predict.tiling import Tiling
from gfm_objectives.runs.segmenter import load_segmenter
from gfm_objectives.tasks.kinds import KINDS

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return kept(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return scene(tmp_path_factory.mktemp("scene") / "scene.tif")


def gfm(*words, command="predict"):
    return cli.main([command, *map(str, words), "device=cpu", "precision=fp32"])


def predict(model, image, output, *words, scale="scale=0.0001"):
    return gfm(f"model={model}", f"input={image}", f"output={output}", scale, *words)


def whole(path) -> Batch:
    """The scene as one raw batch."""
    with rasterio.open(path) as file:
        values = file.read().astype(np.float32)
    valid = torch.from_numpy((values != -9999).all(0))[None, None]
    x = torch.from_numpy(values * np.float32(1e-4))[None, None]
    return Batch({"s2": Series(x, valid, torch.zeros(1, 1), BANDS["s2"])}, {}, torch.tensor([10.0]))


@pytest.mark.parametrize("block", [64, 96, 256])
def test_blocks_leave_no_trace(model, image, tmp_path, block):
    assert predict(model, image, tmp_path / "map.tif", f"block={block}", "extra=probability,entropy,ood") == 0
    network = load_segmenter(model).network
    with torch.inference_mode():
        logits = sliding(network, normalise(whole(image)), 32, 8)
    codes = np.array(LEGEND.codes)[logits.argmax(0).numpy()]
    with rasterio.open(tmp_path / "map.tif") as file, rasterio.open(image) as given:
        made = file.read(1)
        assert file.crs == given.crs and file.transform == given.transform and file.nodata == 255
        assert (
            file.profile["tiled"]
            and file.profile["compress"] == "deflate"
            and file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        )
        shown = {code: file.colormap(1)[code] for code in LEGEND.codes}
        assert shown == {c: (*rgb(text), 255) for c, text in zip(LEGEND.codes, LEGEND.colors, strict=True)}
        assert shown[80] == (0x2B, 0x6C, 0xB0, 255) and file.tags(1)["class_80"] == "water"
    assert (made[:20, :30] == 255).all(), "no data where the scene has none"
    seen = made != 255
    assert seen.mean() > 0.9 and len(np.unique(made[seen])) > 1
    assert (made == codes)[seen].mean() > 0.9999  # ties aside, whatever batches windows went in
    with rasterio.open(tmp_path / "map_probability.tif") as file:
        p = file.read(1) * file.scales[0]
    wanted = (logits / 1.5).softmax(0).amax(0).numpy()
    assert np.abs(p - wanted)[seen].max() < 0.003
    with rasterio.open(tmp_path / "map_ood.tif") as file:
        assert len(np.unique(file.read(1)[seen])) > 3
    assert not (tmp_path / "map.tif.blocks").exists()
    assert {p.name for p in tmp_path.iterdir() if p.name.startswith(".")} == set()


def test_killed_and_resumed_to_the_same_bytes(model, image, tmp_path, monkeypatch):
    assert predict(model, image, tmp_path / "a.tif", "block=64") == 0
    kept_blocks, put = [], Job.put

    def dying(self, number, arrays):
        if len(kept_blocks) == 4:
            raise KeyboardInterrupt
        kept_blocks.append(number)
        put(self, number, arrays)

    monkeypatch.setattr(Job, "put", dying)
    assert predict(model, image, tmp_path / "b.tif", "block=64") == 130
    assert not (tmp_path / "b.tif").exists() and len(list((tmp_path / "b.tif.blocks").glob("0*.npz"))) == 4
    again = []
    monkeypatch.setattr(Job, "put", lambda self, n, arrays: (again.append(n), put(self, n, arrays)))
    assert predict(model, image, tmp_path / "b.tif", "block=64") == 0
    assert set(again) | set(kept_blocks) == set(range(9)) and not set(again) & set(kept_blocks)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_what_shows_nothing_is_not_computed_and_overviews_hold_classes(model, tmp_path, monkeypatch):
    with rasterio.open(scene(tmp_path / "s.tif", 520, 128)) as file:
        values = file.read()
    values[:, 90:] = -9999
    write(tmp_path / "s.tif", values, nodata=-9999, names=BANDS["s2"])
    shown, call = [], Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", lambda self, raw: (shown.append(len(raw)), call(self, raw))[1])
    assert predict(model, tmp_path / "s.tif", tmp_path / "m.tif", "block=64", "overlap=0") == 0
    assert sum(shown) == 12, "of 4 x 17 windows those with data, though the second row of blocks has some without"
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.overviews(1) and (file.read(1)[90:] == 255).all()
        four = file.read(1).reshape(260, 2, 64, 2).swapaxes(1, 2).reshape(260, 64, 4)
    with rasterio.open(tmp_path / "m.tif", overview_level=0) as file:
        assert (file.read(1)[..., None] == four).any(2).all(), "a class of one of its pixels: classes have no mean"


def test_what_is_far_from_what_was_learned_is_strange():
    known = {"mean": torch.ones(3), "whiten": torch.eye(3), "quantiles": torch.linspace(0, 2, 9)}
    x = torch.tensor([[1.0, 1, 1], [2, 2, 2], [9, 9, 9]])
    assert strangeness(x, known).tolist() == pytest.approx([0, 4 / 9, 1])


def test_flags_and_pixels_of_degrees():
    flags = np.array([0, 2, 4, 6, 9, np.nan])
    assert Quality(1, (1,), (9,)).raised(flags).tolist() == [False, True, False, True, True, True]
    degree = 10 / 111_320
    ground = Ground(20, 20, rasterio.CRS.from_epsg(4326), rasterio.Affine(2 * degree, 0, 5, 0, -degree, 60))
    assert ground.gsd == pytest.approx(10, rel=1e-3), "a degree of longitude is half as long at 60 degrees"


def test_the_cache_of_rasters_does_not_grow_with_the_machine(model, image, tmp_path, monkeypatch):
    seen, read = set(), Mapper.read

    def told(self, number):
        seen.add(_env.get_gdal_config("GDAL_CACHEMAX"))
        return read(self, number)

    monkeypatch.setattr(Mapper, "read", told)
    assert predict(model, image, tmp_path / "m.tif") == 0 and seen == {CACHE_MB}, "of the thread that reads"


def test_blocks_of_another_map_are_refused(model, image, tmp_path, capsys):
    assert predict(model, image, tmp_path / "m.tif", "block=64", "blocks=4/3") == 2
    assert not (tmp_path / "m.tif.blocks").exists(), "what is refused leaves nothing"
    capsys.readouterr()
    assert predict(model, image, tmp_path / "m.tif", "block=64", "blocks=1/3") == 0
    assert "6 of 9 blocks are left" in capsys.readouterr().out
    assert predict(model, image, tmp_path / "m.tif", "block=64", "overlap=0", "blocks=2/3") == 2
    assert "tiling" in capsys.readouterr().err
    assert predict(model, image, tmp_path / "m.tif", "block=64", "blocks=2/3") == 0
    assert predict(model, image, tmp_path / "m.tif", "block=64", "blocks=3/3") == 0
    assert (tmp_path / "m.tif").exists(), "whoever comes last writes the map"
    assert predict(model, image, tmp_path / "m.tif") == 2
    assert "exists" in capsys.readouterr().err


def test_the_score_is_that_of_evaluation(model, image, tmp_path):
    rng = np.random.default_rng(1)
    labels = rng.choice([10, 80, 7, 0], (1, 150, 130)).astype(np.uint8)
    write(tmp_path / "labels.tif", labels)
    assert predict(model, image, tmp_path / "map.tif", "block=64", f"labels={tmp_path / 'labels.tif'}") == 0
    about = json.loads((tmp_path / "map.tif.json").read_text())
    lookup = {10: 0, 80: 1, 7: 2, 0: -1}
    target = torch.tensor(np.vectorize(lookup.get)(labels))

    class One:
        def tiles(self):
            return 1

        def tile(self, k):
            return normalise(whole(image)).replace(targets={"cover": target})

    stats, _ = evaluate(load_segmenter(model).network, One(), KINDS["segmentation"], "cover", 3, 32)
    from gfm_objectives.metrics import METRICS, total

    assert about["scores"]["miou"] == pytest.approx(total(METRICS["miou"], stats), abs=1e-4)
    assert 0 < about["errors"]["at_borders"] < 1 and about["seams"].keys() == {
        "across window borders",
        "across block borders",
        "elsewhere",
    }


def test_labels_that_say_nothing_are_told(model, image, tmp_path, capsys):
    write(tmp_path / "elsewhere.tif", np.full((1, 64, 64), 10, np.uint8), origin=(900_000, 4_000_000))
    write(tmp_path / "others.tif", np.full((1, 150, 130), 99, np.uint8))
    for name in ("elsewhere", "others"):
        words = [f"labels={tmp_path / name}.tif", "overwrite=true"]
        assert predict(model, image, tmp_path / "map.tif", *words) == 0
        told = capsys.readouterr().err
        assert "warning: labels: no pixel of " in told and "map.tif has one" in told
        assert json.loads((tmp_path / "map.tif.json").read_text())["scores"] == {}


def test_seams_are_seen_where_they_are():
    tiling = Tiling(64, 96, 32, 0, 64)
    y, x = np.mgrid[:64, :96]
    values = ((y // 32) + (x // 32)) % 2  # another class in every window
    seams = Seams(tiling)
    for number in range(len(tiling)):
        top, left, h, w = tiling.box(number)
        seams.add(number, values[top : top + h, left : left + w], np.ones((h, w), bool))
    shares = seams.shares()
    assert shares["elsewhere"] == 0 and shares["across window borders"] == shares["across block borders"] == 1
    assert seams.pairs[:, 0].sum() == 64 * 95 + 63 * 96


def test_a_mosaic_in_another_projection_and_other_pixels(model, image, tmp_path, capsys):
    with rasterio.open(image) as file:
        values = file.read()
    for k, part in enumerate(np.array_split(np.arange(130), 3)):
        origin = (500_000 + 10 * int(part[0]), 5_000_000)
        write(tmp_path / f"t{k}.tif", values[:, :, part], nodata=-9999, names=BANDS["s2"], origin=origin)
    assert predict(model, tmp_path, tmp_path / "out" / "map.tif") == 0
    assert predict(model, image, tmp_path / "one.tif") == 0
    with rasterio.open(tmp_path / "out" / "map.tif") as a, rasterio.open(tmp_path / "one.tif") as b:
        assert a.transform == b.transform and (a.read(1) == b.read(1)).mean() > 0.999
    coarse = scene(tmp_path / "coarse.tif", 60, 60, gsd=25.0)
    assert predict(model, coarse, tmp_path / "c.tif") == 2
    assert "pixels of 25 m" in capsys.readouterr().err
    assert predict(model, coarse, tmp_path / "c.tif", "gsd=model") == 0
    with rasterio.open(tmp_path / "c.tif") as file:
        assert file.shape == (150, 150) and file.res == (10.0, 10.0)


def test_sensors_and_dates_by_yaml_are_warped_onto_one_ground(tmp_path):
    model = kept(tmp_path / "model", bands=BANDS | {"dem": ("elevation",)}, dates=2)
    scene(tmp_path / "a.tif")
    scene(tmp_path / "b.tif", seed=1)
    height = np.linspace(0, 300, 60 * 60, dtype=np.float32).reshape(1, 60, 60)
    with rasterio.open(tmp_path / "a.tif") as file:
        west, south, east, north = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    step = max(east - west, north - south) / 50
    write(tmp_path / "dem.tif", height, crs="EPSG:4326", gsd=step, origin=(west - step, north + step))
    (tmp_path / "scene.yaml").write_text(
        "sensors:\n  s2:\n    - {file: a.tif, date: 2020-04-01, scale: 1.0e-4}\n"
        "    - {file: b.tif, date: 2020-07-01, scale: 1.0e-4}\n  dem: {file: dem.tif}\n"
    )
    with pytest.warns(match="dem: 1 dates, the model learned from 2"):
        from gfm_objectives.predict.opening import open_scene
        from gfm_objectives.runs.segmenter import read_card

        opened = open_scene([str(tmp_path / "scene.yaml")], read_card(model), {})
    batch = opened.reader()((0, 0, 150, 130))
    assert batch.sensors["s2"].x.shape == (1, 2, 4, 150, 130) and batch.sensors["s2"].day[0].tolist() == [
        7396.0,
        7487.0,
    ]
    dem = batch.sensors["dem"]
    assert dem.valid[0, 0].all() and not dem.valid[0, 1].any()
    assert 0 < float(dem.x[0, 0].min()) < float(dem.x[0, 0].max()) < 300


def test_numbers_and_polygons(image, tmp_path, capsys):
    task = {"name": "h", "kind": "regression", "layer": "cover", "metric": "rmse", "offset": 20.0, "scale": 5.0}
    model = kept(tmp_path / "r", task=task)
    assert predict(model, image, tmp_path / "h.tif", "block=64") == 0
    with rasterio.open(tmp_path / "h.tif") as file:
        values = file.read(1)
        assert file.dtypes == ("float32",) and np.isnan(values[:20, :30]).all()
    with torch.inference_mode():
        wanted = sliding(load_segmenter(model).network, normalise(whole(image)), 32, 8)[0].numpy() * 5 + 20
    assert np.nanmax(np.abs(values - wanted)) < 1e-3
    import geopandas

    model, image = kept(tmp_path / "m"), scene(tmp_path / "small.tif", 50, 60)
    assert predict(model, image, tmp_path / "all.tif", "min_area=2000") == 0
    assert f"min_area= and simplify= are of polygons; output={tmp_path / 'all.tif'} has none" in capsys.readouterr().err
    assert predict(model, image, tmp_path / "f.gpkg", "min_area=2000", "simplify=5") == 0
    table = geopandas.read_file(tmp_path / "f.gpkg")
    assert set(table["class"]) <= {"land", "water", "ice"} and table["area_m2"].min() >= 2000
    assert table.crs.to_epsg() == 32633
    assert predict(model, image, tmp_path / "g.geojson") == 0
    everything = geopandas.read_file(tmp_path / "g.geojson")
    corners = [t.geometry.count_coordinates().sum() for t in (table, everything[everything["area_m2"] >= 2000])]
    assert 3 * len(table) < corners[0] < corners[1]
    with rasterio.open(tmp_path / "all.tif") as file:
        assert everything["area_m2"].sum() == pytest.approx(100 * (file.read(1) != 255).sum())


def test_bands_by_wavelength_by_common_names_and_by_word(model, image, tmp_path):
    assert predict(model, image, tmp_path / "a.tif") == 0
    with rasterio.open(image) as file:
        values = file.read()[::-1]
    write(tmp_path / "waves.tif", values, nodata=-9999)
    with rasterio.open(tmp_path / "waves.tif", "r+") as file:
        for n, um in enumerate((0.842, 0.665, 0.560, 0.490), 1):
            file.update_tags(n, wavelength=str(um))
    write(tmp_path / "names.tif", values, nodata=-9999, names=("NIR", "Red", "Green", "Blue"))
    write(tmp_path / "mute.tif", np.concatenate([values, values[:1]]), nodata=-9999)
    for name, words in (("waves", []), ("names", []), ("mute", ["bands=B8,B4,b03,B02,-"])):
        assert predict(model, tmp_path / f"{name}.tif", tmp_path / f"m_{name}.tif", *words) == 0
        with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / f"m_{name}.tif") as b:
            assert (a.read(1) == b.read(1)).all(), name


def test_an_empty_scene_is_no_data_everywhere(model, tmp_path, capsys):
    write(tmp_path / "e.tif", np.full((4, 70, 70), -9999, np.int16), nodata=-9999, names=BANDS["s2"])
    assert predict(model, tmp_path / "e.tif", tmp_path / "m.tif", "block=64") == 0
    assert "nothing is mapped: the input has no data" in capsys.readouterr().err
    with rasterio.open(tmp_path / "m.tif") as file:
        assert (file.read(1) == 255).all()


@pytest.mark.parametrize(
    ("change", "words", "told"),
    [
        ({"bands": ("B02", "B03", "B04", "B05")}, ["scale=0.0001"], "no band B08 of s2"),
        ({"bands": ("", "", "", "")}, ["scale=0.0001"], "bands=B02,B03,B04,B08"),
        ({"bands": ("bands", "bands", "bands", "bands")}, ["scale=0.0001"], "bands=B02,B03,B04,B08"),
        ({}, [], "scale=0.0001 if it is stored x 10000"),
        ({}, ["scale=1e-8"], "scale=1 if it is stored so"),
        ({}, ["scale=1e-4", "extra=doubt"], "extra=doubt: choose"),
        ({}, ["scale=1e-4", "blocks=4/3"], "blocks=4/3"),
        ({}, ["scale=1e-4", "blocks=²/3"], "blocks=²/3"),
        ({}, ["scale=1e-4", "date=yesterday"], "is no date"),
    ],
)
def test_what_a_model_cannot_be_shown(model, tmp_path, capsys, change, words, told):
    scene(tmp_path / "s.tif", **change)
    code = gfm(f"model={model}", f"input={tmp_path / 's.tif'}", f"output={tmp_path / 'm.tif'}", *words)
    err = capsys.readouterr().err
    assert code == 2 and told in err and err.count("\n") == 1, err
    assert not (tmp_path / "m.tif").exists()


def test_the_input_is_not_written_over(model, tmp_path, capsys):
    image = scene(tmp_path / "s.tif")
    before = image.read_bytes()
    assert gfm(f"model={model}", f"input={image}", f"output={image}", "scale=0.0001", "overwrite=true") == 2
    assert "s.tif: is what is read" in capsys.readouterr().err and image.read_bytes() == before
    words = ["extra=probability", "overwrite=true"]
    scene(tmp_path / "m_probability.tif")
    assert predict(model, tmp_path / "m_probability.tif", tmp_path / "m.tif", *words) == 2
    assert "m_probability.tif: is what is read" in capsys.readouterr().err
    assert predict(model, image, tmp_path / "m.tif", *words[:1]) == 2
    assert "m_probability.tif: exists" in capsys.readouterr().err


def test_a_kill_while_the_map_is_written_leaves_nothing_in_the_way(model, image, tmp_path, monkeypatch):
    def dying(*_):
        raise KeyboardInterrupt

    whole, resampled = tmp_path / "m.tif", assembling.finish
    monkeypatch.setattr(assembling, "finish", lambda *given: (resampled(*given), dying())[0])
    assert predict(model, image, whole, "extra=entropy") == 130
    assert not whole.exists() and (tmp_path / "m_entropy.tif").exists(), "extras come first"
    monkeypatch.undo()
    assert predict(model, image, whole, "extra=entropy") == 0 and whole.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".") or p.suffix == ".blocks"]


def test_what_lies_beside_a_map_is_there_before_it(model, image, tmp_path, monkeypatch):
    def dying(source, target):
        if Path(target) == whole:
            raise KeyboardInterrupt
        replace(source, target)

    whole, replace = tmp_path / "m.tif", os.replace
    monkeypatch.setattr(os, "replace", dying)
    assert predict(model, image, whole) == 130 and not whole.exists()
    assert (tmp_path / "m.tif.json").exists() and (tmp_path / "m.tif.aux.xml").exists()


def test_files_of_a_mosaic_are_read_alike_or_refused(model, image, tmp_path, capsys):
    with rasterio.open(image) as file:
        values = file.read()
    names = BANDS["s2"]
    left = write(tmp_path / "left.tif", values[:, :, :70], nodata=-9999, names=names)
    beside = {"nodata": -9999, "origin": (500_700, 5_000_000)}
    write(tmp_path / "turned.tif", values[::-1, :, 70:], names=names[::-1], **beside)
    write(tmp_path / "few.tif", values[:3, :, 70:], names=names[:3], **beside)
    write(tmp_path / "scaled.tif", values[:, :, 70:], names=names, **beside)
    with rasterio.open(tmp_path / "scaled.tif", "r+") as file:
        file.scales = (1e-4,) * 4
    for name, scale, told in (
        ("turned", "scale=0.0001", "turned.tif: its bands are B02=4, B03=3, B04=2, B08=1, which is not the order of"),
        ("few", "scale=0.0001", "few.tif: no band B08"),
        ("scaled", "scale=null", "the files of its mosaic differ, or their bands, in scale (x 0.0001 + 0, x 1 + 0)"),
    ):
        words = f"[{tmp_path / 'left.tif'},{tmp_path / name}.tif]"
        assert predict(model, words, tmp_path / "map.tif", scale=scale) == 2
        assert told in capsys.readouterr().err, (name, left)
    assert not list(tmp_path.glob("map*"))


def test_what_a_mask_hides_is_nothing(model, image, tmp_path):
    with rasterio.open(image) as file:
        values = file.read()
    seen = (values != -9999).all(0)
    write(tmp_path / "masked.tif", np.where(seen, values, 0).astype(np.int16), names=BANDS["s2"])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "masked.tif", "r+") as file:
        file.write_mask(seen)
    assert predict(model, image, tmp_path / "map.tif") == 0
    assert predict(model, tmp_path / "masked.tif", tmp_path / "masked_map.tif") == 0
    want, got = (rasterio.open(tmp_path / f"{name}.tif").read(1) for name in ("map", "masked_map"))
    assert (want == 255).sum() == 600 and (got == want).all()
    ground = Ground(150, 130, rasterio.CRS.from_epsg(32633), rasterio.Affine(10, 0, 500_003, 0, -10, 5_000_000))
    write(tmp_path / "bytes.tif", np.full((4, 150, 130), 90, np.uint8))  # GDAL takes the fourth for alpha
    with pytest.raises(InputError, match="calls band 4 alpha, so it cannot be warped"):
        Files(ground).read(tmp_path / "bytes.tif", [1, 4], (0, 0, 150, 130))
    warped = Files(ground).read(tmp_path / "masked.tif", [1, 2, 3, 4], (0, 0, 150, 130))
    assert np.isnan(warped[:, :19, :29]).all() and np.isfinite(warped[:, 22:148, 32:128]).all()


def test_the_unit_is_looked_at_where_there_is_data(model, tmp_path, capsys):
    """A swath that leaves the middle of the scene empty."""
    values = np.full((4, 700, 600), -9999, np.int16)
    values[:, :60] = 1500
    write(tmp_path / "swath.tif", values, nodata=-9999, names=BANDS["s2"])
    assert predict(model, tmp_path / "swath.tif", tmp_path / "map.tif", "block=256", scale="scale=1") == 2
    assert "scale=0.0001 if it is stored x 10000" in capsys.readouterr().err
    assert not (tmp_path / "map.tif").exists()
    assert predict(model, tmp_path / "swath.tif", tmp_path / "map.tif", "block=256", scale="scale=0.0001") == 0


def test_bands_of_a_file_with_scales_of_their_own(model, image, tmp_path, capsys):
    with rasterio.open(image) as file:
        values = np.concatenate([file.read(), np.ones((1, *file.shape), np.int16)])
    write(tmp_path / "s.tif", values, nodata=-9999, names=(*BANDS["s2"], "mask"))
    for scales, code in (((1e-4,) * 4 + (1.0,), 0), ((1e-4,) * 3 + (1e-3, 1.0), 2)):
        with rasterio.open(tmp_path / "s.tif", "r+") as file:
            file.scales = scales
        assert gfm(f"model={model}", f"input={tmp_path / 's.tif'}", f"output={tmp_path / f'm{code}.tif'}") == code
    assert "s.tif: its bands differ in scale (x 0.0001 + 0, x 0.001 + 0)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sensors: {s2: {file: s.tif, scale: a}}", "sensors.s2.scale=a: expected a number"),
        ("sensors: {s2: {file: 3}}", "sensors.s2.file=3: expected a path"),
        ("sensors: {s2: {file: s.tif}}\ngsd: ten", "gsd=ten: expected metres per pixel"),
        ("sensors: {s2: {file: s.tif}}\nlayers: [map]", "layers: expected map"),
    ],
)
def test_a_scene_described_wrongly(model, tmp_path, capsys, text, told):
    scene(tmp_path / "s.tif")
    (tmp_path / "s.yaml").write_text(text)
    assert gfm(f"model={model}", f"input={tmp_path / 's.yaml'}", f"output={tmp_path / 'm.tif'}") == 2
    err = capsys.readouterr().err
    assert f"s.yaml: {told}" in err and err.count("\n") == 1, err


def test_a_block_that_is_cut_off_is_told(tmp_path):
    job = Job(tmp_path / "m.tif", {}, 1)
    job.put(0, {"map": np.zeros(1000)})
    job.path(0).write_bytes(job.path(0).read_bytes()[:90])
    with pytest.raises(InputError, match=r"0000000\.npz: damaged; delete it"):
        job.get(0)


def test_a_truncated_file_and_a_full_disk(model, image, tmp_path, capsys, monkeypatch):
    cut = tmp_path / "cut.tif"
    cut.write_bytes(image.read_bytes()[:9000])
    assert predict(model, cut, tmp_path / "m.tif") == 2
    err = capsys.readouterr().err
    assert "cut.tif: cannot be read" in err and err.count("\n") == 1

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    assert predict(model, image, tmp_path / "m.tif") == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err and "goes on" in err and err.count("\n") == 1
    monkeypatch.undo()
    assert predict(model, image, tmp_path / "m.tif", "overlap=0") == 0, "no block was kept: another map may begin"
