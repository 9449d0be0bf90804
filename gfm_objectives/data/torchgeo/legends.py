"""Classes and colours of the layers of these data sets. Label i is entry i; codes in files are the readers' business."""

from __future__ import annotations

from gfm_objectives.sensors import Legend


def _legend(name: str, *rows: tuple[str, str]) -> Legend:
    return Legend(name, tuple(r[0] for r in rows), None, tuple(r[1] for r in rows))


BURN = _legend("burn", ("not burned", "#d9d9d9"), ("burned", "#c4281b"))
WATER = _legend("water", ("dry", "#d9ceb8"), ("water", "#2b6cb0"))
BUILDING = _legend("building", ("no building", "#d9d9d9"), ("building", "#c4281b"))
BOUNDARY = _legend("boundary", ("field or rest", "#d9ceb8"), ("boundary", "#303030"))
BIOMASS = Legend("biomass", ("t/ha",))
MADOS = _legend(  # gkakogeorgiou/mados, utils/assets.py
    "mados",
    ("marine debris", "#ff0000"),
    ("dense sargassum", "#008000"),
    ("sparse floating algae", "#32cd32"),
    ("natural organic material", "#a52a2a"),
    ("ship", "#ffa500"),
    ("oil spill", "#d8bfd8"),
    ("marine water", "#000080"),
    ("sediment-laden water", "#ffd700"),
    ("foam", "#800080"),
    ("turbid water", "#bdb76b"),
    ("shallow water", "#00ced1"),
    ("waves and wakes", "#ffe4c4"),
    ("oil platform", "#696969"),
    ("jellyfish", "#ff69b4"),
    ("sea snot", "#ffff00"),
)
PASTIS = _legend(  # VSainteuf/pastis-benchmark, documentation; class 19, void, is no label
    "pastis",
    ("background", "#000000"),
    ("meadow", "#aec7e8"),
    ("soft winter wheat", "#ff7f0e"),
    ("corn", "#ffbb78"),
    ("winter barley", "#2ca02c"),
    ("winter rapeseed", "#98df8a"),
    ("spring barley", "#d62728"),
    ("sunflower", "#ff9896"),
    ("grapevine", "#9467bd"),
    ("beet", "#c5b0d5"),
    ("winter triticale", "#8c564b"),
    ("winter durum wheat", "#c49c94"),
    ("fruits, vegetables, flowers", "#e377c2"),
    ("potatoes", "#f7b6d2"),
    ("leguminous fodder", "#7f7f7f"),
    ("soybeans", "#c7c7c7"),
    ("orchard", "#bcbd22"),
    ("mixed cereal", "#dbdb8d"),
    ("sorghum", "#17becf"),
)
SOUTH_SUDAN = _legend(
    "crop", ("sorghum", "#e49635"), ("maize", "#dfc35a"), ("rice", "#419bdf"), ("groundnut", "#88b053")
)
DYNAMIC_EARTH = _legend(  # the order of aysim/dynnet, colours from memory of its plots; snow, band 7, is no label
    "land_cover",
    ("impervious", "#606060"),
    ("agriculture", "#cccc00"),
    ("forest and other vegetation", "#00cc00"),
    ("wetlands", "#000099"),
    ("soil", "#994c00"),
    ("water", "#0080ff"),
)
FIVE_BILLION = _legend(  # x-ytong/DPA, dataloaders/utils.py
    "gid24",
    ("industrial area", "#c80000"),
    ("paddy field", "#00c800"),
    ("irrigated field", "#96fa00"),
    ("dry cropland", "#96c896"),
    ("garden land", "#c800c8"),
    ("arbor forest", "#9600fa"),
    ("shrub forest", "#9696fa"),
    ("park", "#c896c8"),
    ("natural meadow", "#fac800"),
    ("artificial meadow", "#c8c800"),
    ("river", "#0000c8"),
    ("urban residential", "#fa0096"),
    ("lake", "#0096c8"),
    ("pond", "#00c8fa"),
    ("fish pond", "#96c8fa"),
    ("snow", "#fafafa"),
    ("bareland", "#c8c8c8"),
    ("rural residential", "#c89696"),
    ("stadium", "#fac896"),
    ("square", "#969600"),
    ("road", "#fa9696"),
    ("overpass", "#fa9600"),
    ("railway station", "#fac8fa"),
    ("airport", "#c89600"),
)
