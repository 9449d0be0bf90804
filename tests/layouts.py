"""Stand-ins of data sets in the exact layout of the real ones, of made-up values: a few small tiles of each split."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import numpy as np


def write_tif(path: Path, values: np.ndarray, **about) -> Path:
    """values (C, H, W); descriptions and whatever else rasterio takes."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    path.parent.mkdir(parents=True, exist_ok=True)
    names = about.pop("descriptions", ())
    c, h, w = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", "GTiff", w, h, c, dtype=values.dtype, **about) as file:
            file.write(values)
            for i, name in enumerate(names, 1):
                file.set_band_description(i, name)
    return path


def noise(seed: int, shape: tuple[int, ...], low: float, high: float, dtype: str) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def burn_scars(root: Path, side: int = 32) -> None:
    """Two scenes of each list of data/; values as stored: reflectance, missing as -9999, 9999 and NaN."""
    keys = {
        "train": ["T10SEJ.2018185.v1", "T10SFE.2020267.v1", "T11SKU.2019200.v1"],
        "val": ["T13TCM.2020300.v1", "T10TFP.2019001.v1"],
        "test": ["T10TGS.2018285.v1", "T12STJ.2020163.v1"],
    }
    (root / "splits").mkdir(parents=True)
    for split, names in keys.items():
        (root / "splits" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for i, key in enumerate(names):
            x = noise(i, (6, side, side), 0.02, 0.4, "float32")
            x[0, 0, 0], x[1, 0, 1], x[2, 0, 2] = -9999, 9999, np.nan
            y = (noise(i, (1, side, side), 0, 2, "int16") > 0).astype("int16")
            y[0, 1, :3] = -1, 0, 1
            stem = root / "data" / f"subsetted_512x512_HLS.S30.{key}.4"
            write_tif(stem.with_name(stem.name + "_merged.tif"), x)
            write_tif(stem.with_name(stem.name + ".mask.tif"), y, nodata=-1)


WAVELENGTHS = {  # folder -> nanometres of Sentinel-2A
    60: (443,),
    10: (492, 560, 665, 833),
    20: (704, 740, 783, 865, 1614, 2202),
}


def mados(root: Path) -> None:
    """Crops of 240 px: band k of crop c holds 0.01 k + 0.001 c."""
    (root / "splits").mkdir(parents=True)
    order = sorted(w for waves in WAVELENGTHS.values() for w in waves)
    scenes = {
        "train": ["Scene_0_1", "Scene_0_2", "Scene_2_1"],
        "val": ["Scene_3_5"],
        "test": ["Scene_4_7", "Scene_5_1"],
    }
    for split, names in scenes.items():
        (root / "splits" / f"{split}_X.txt").write_text("\n".join(names) + "\n")
        for name in names:
            scene, _, crop = name.rpartition("_")
            for metres, waves in WAVELENGTHS.items():
                for w in waves:
                    side = 2400 // metres
                    x = np.full((1, side, side), 0.01 * order.index(w) + 0.001 * int(crop), "float32")
                    x[0, 0, 0] = np.nan if w == 443 else x[0, 0, 0]
                    write_tif(root / scene / str(metres) / f"{scene}_L2R_rhorc_{w}_{crop}.tif", x)
            y = np.arange(240 * 240).reshape(1, 240, 240) % 16
            write_tif(root / scene / "10" / f"{scene}_L2R_cl_{crop}.tif", y.astype("float32"))


def pastis(root: Path, side: int = 16, radar: bool = True) -> None:
    """Five folds of two patches with 3 to 9 dates; value of date t, band b in Sentinel-2: 100 t + b."""
    features = []
    for k in range(10):
        t = 3 + k % 7
        dates = {str(i): 20180904 + 100 * (i // 3) + i for i in range(t)}
        about = {"Fold": k // 2 + 1, "ID_PATCH": 10000 + k + (k > 5), "TILE": "t30uxv", "dates-S2": dates}
        name = about["ID_PATCH"]
        s2 = 100 * np.arange(t)[:, None, None, None] + np.arange(10)[:, None, None] + np.zeros((side, side))
        save(root / "DATA_S2" / f"S2_{name}.npy", s2.astype(np.int16))
        if radar:
            about |= {"dates-S1A": {"0": 20180901, "1": 20181001}, "dates-S1D": {"0": 20180915}}
            for kind, n, level in (("S1A", 2, -10), ("S1D", 1, -12)):
                x = level - np.arange(3)[:, None, None] + np.zeros((n, 3, side, side))
                save(root / f"DATA_{kind}" / f"{kind}_{name}.npy", x.astype(np.float16))
        y = np.zeros((3, side, side), np.uint8)
        y[0] = (np.arange(side) + k) % 20
        save(root / "ANNOTATIONS" / f"TARGET_{name}.npy", y)
        features.append({"id": str(k), "type": "Feature", "properties": about, "geometry": None})
    (root / "metadata.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def sen1floods11(root: Path, side: int = 32) -> None:
    hand, lists = (
        root / "v1.1" / "data" / "flood_events" / "HandLabeled",
        root / "v1.1" / "splits" / "flood_handlabeled",
    )
    lists.mkdir(parents=True)
    chips = {
        "train": ["Ghana_103272", "Mekong_16233", "USA_1010394"],
        "valid": ["Ghana_5079", "India_1017769"],
        "test": ["Ghana_313799", "Sri-Lanka_101973"],
        "bolivia": ["Bolivia_103757", "Bolivia_129334"],
    }
    for split, names in chips.items():
        with (lists / f"flood_{split}_data.csv").open("w", newline="") as file:
            csv.writer(file).writerows([f"{n}_S1Hand.tif", f"{n}_LabelHand.tif"] for n in names)
        for i, name in enumerate(names):
            s2 = noise(i, (13, side, side), 500, 3000, "int16")
            s2[10], s2[:, 0, 0] = 0, 0  # cirrus of a clear day; a pixel without data
            s1 = noise(i, (2, side, side), -20, -8, "float32")
            s1[:, 0, 1] = np.nan
            y = noise(i, (1, side, side), -1, 2, "int16")
            y[0, 2, :3] = -1, 0, 1
            write_tif(hand / "S2Hand" / f"{name}_S2Hand.tif", s2, nodata=0)
            write_tif(hand / "S1Hand" / f"{name}_S1Hand.tif", s1, nodata=np.nan)
            write_tif(hand / "LabelHand" / f"{name}_LabelHand.tif", y)
    flood = {"location": "Cambodia", "s1_date": "2018/08/05", "s2_date": "2018/08/04"}
    features = [
        {"properties": flood},
        {"properties": {"location": "Ghana", "s1_date": "2018/09/18", "s2_date": "2018/09/19"}},
    ]
    (root / "v1.1" / "Sen1Floods11_Metadata.geojson").write_text(json.dumps({"features": features}))


def five_billion_pixels(root: Path, scenes: int = 12) -> None:
    """Scenes of 540 x 30 px tagged as CMYK; bands hold 200, 100, 90, 80, which a conversion of colours would change."""
    from PIL import Image

    for folder in ("Image__8bit_NirRGB", "Annotation__index"):
        (root / folder).mkdir(parents=True)
    for k in range(scenes):
        name = f"GF2_PMS1__L1A00001{k:05}-MSS1"
        x = np.broadcast_to(np.array([200, 100, 90, 80], np.uint8), (540, 30, 4)).copy()
        Image.fromarray(x, "CMYK").save(root / "Image__8bit_NirRGB" / f"{name}.tif")
        y = (np.arange(540)[:, None] + np.zeros((1, 30))) % 25
        Image.fromarray(y.astype(np.uint8)).save(root / "Annotation__index" / f"{name}_24label.png")


def dynamic_earthnet(root: Path, side: int = 1024) -> None:
    """A place of each split, months in both styles of date; the second of val has no imagery."""
    from gfm_objectives.data.torchgeo.files import table_of

    rows = table_of("dynamic_earthnet.csv")
    for split in ("train", "val", "test"):
        for n, row in enumerate([r for r in rows if r["split"] == split][: 1 + (split == "val")]):
            planet = root / "planet" / row["zone"] / row["cell"] / row["aoi"] / "PF-SR"
            labels = root / "labels" / f"{row['aoi']}_{row['zone']}" / "Labels" / "Raster" / row["cell"]
            y = np.zeros((7, side, side), np.uint8)
            y[(np.arange(side) * 8 // side) % 7, :, np.arange(side)] = 255
            y[:, 0] = 0
            write_tif(
                labels
                / f"{row['cell']}-2018{'_' if split == 'train' else '-'}01{'_' if split == 'train' else '-'}01.tif",
                y,
                compress="deflate",
            )
            for d in (1, 5, 20) if n == 0 else ():
                x = np.full((4, side, side), 500, np.uint16) * np.arange(1, 5, dtype=np.uint16)[:, None, None]
                x[:, 1, 1] = 0
                write_tif(planet / f"2018-01-{d:02}.tif", x, compress="deflate")


def south_sudan(root: Path) -> None:
    """Nine cells; the eighth is cut short. Four looks, the third empty; Sentinel-2 of look t holds 1000 (t + 1)."""
    for folder in ("npy", "truth", "s1", "s2"):
        (root / folder).mkdir(parents=True)
    with (root / "list_eval_partition.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "partition"), *((k, k % 3) for k in range(9))])
    for k in range(9):
        s2 = np.full((10, 64, 64, 4), 1000.0) * np.arange(1, 5)
        s1 = np.full((3, 64, 64, 4), -12.0) - np.arange(3)[:, None, None, None]
        s2[..., 2] = s1[..., 2] = 0
        np.savez(root / "npy" / f"southsudan_{k:06}.npz", s1=s1, s2=s2)
        np.savez(root / "truth" / f"southsudan_{k:06}.npz", truth=np.arange(64 * 64).reshape(64, 64) % 7)
        for s in ("s1", "s2"):
            dates = ["2017-06-01", "2017-05-01", "2017-07-01", "2017-08-01"]
            (root / s / f"{s}_southsudan_{k:06}.json").write_text(json.dumps({"dates": dates}))
    cut = root / "npy" / "southsudan_000007.npz"
    cut.write_bytes(cut.read_bytes()[:1000])


def spacenet7(root: Path, side: int = 64) -> None:
    """Two months of two places of each split, the second unlabelled; a square building, a corner without image."""
    from gfm_objectives.data.torchgeo.files import table_of

    rows = table_of("spacenet7.csv")
    for split in ("train", "val", "test"):
        for row in [r for r in rows if r["split"] == split][:2]:
            for month in ("01", "02"):
                stem = f"global_monthly_2019_{month}_mosaic_{row['aoi']}"
                x = np.full((4, side, side), 255, np.uint8)
                x[:3] = np.array([120, 100, 80])[:, None, None]
                x[3, :4, :4] = 0
                write_tif(root / "train" / row["aoi"] / "images_masked" / f"{stem}.tif", x)
                ring = [[10, 20], [18, 20], [18, 30], [10, 30], [10, 20]]  # x from 10 to 18, y from 20 to 30
                feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
                labels = root / "train" / row["aoi"] / "labels_match_pix" / f"{stem}_Buildings.geojson"
                labels.parent.mkdir(parents=True, exist_ok=True)
                if month == "01":
                    labels.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


def ai4smallfarms(root: Path, bands: int = 4) -> None:
    """Tiles of different sizes; band b holds 500 (b + 1)."""
    tiles = {
        "train": ["0_vietnam", "2_cambodia"],
        "validate": ["5_vietnam", "6_cambodia"],
        "test": ["12_cambodia", "13_vietnam"],
    }
    for folder, names in tiles.items():
        for i, name in enumerate(names):
            h, w = 40 + 8 * i, 48
            x = np.broadcast_to(500 * np.arange(1, bands + 1)[:, None, None], (bands, h, w)).astype(np.uint16)
            write_tif(root / "sentinel-2-asia" / folder / "images" / f"{name}.tif", x)
            y = np.where(np.arange(w) % 8 == 0, 255, 0) + np.zeros((1, h, 1))
            write_tif(root / "sentinel-2-asia" / folder / "masks" / f"{name}.tif", y.astype(np.uint8))


def biomassters(root: Path, chips: int = 24) -> None:
    """Chips of 256 px with two months; the descending pass of the second is missing, and half of an image is cloudy."""
    for k in range(chips):
        name = f"{k:08x}"
        for m in (0, 4):
            s1 = np.full((4, 256, 256), -12.0, "float32")
            s1[2:] = -9999 if m == 4 else -13
            s2 = np.full((11, 256, 256), 1500, np.uint16)
            s2[10], s2[10, :128], s2[10, 200:] = 0, 90, 255
            write_tif(root / "train_features" / f"{name}_S1_{m:02}.tif", s1, compress="deflate")
            if m == 0:
                write_tif(root / "train_features" / f"{name}_S2_{m:02}.tif", s2, compress="deflate")
        y = np.full((1, 256, 256), 50.0 + k, "float32")
        y[0, :128] = 0
        write_tif(root / "train_agbm" / f"{name}_agbm.tif", y, compress="deflate")


MAKERS = {
    f.__name__: f
    for f in (
        burn_scars,
        mados,
        pastis,
        sen1floods11,
        five_billion_pixels,
        dynamic_earthnet,
        south_sudan,
        spacenet7,
        ai4smallfarms,
        biomassters,
    )
}
