"""Classes and colours of the layers of these data sets. Label i is entry i; codes in files are the readers' affair."""

from __future__ import annotations

from gfm_objectives.data.torchgeo.files import table_of
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

IGBP = _legend(  # MODIS, class 1 to 17; colours of the MCD12 user guide
    "igbp",
    ("evergreen needleleaf forest", "#05450a"),
    ("evergreen broadleaf forest", "#086a10"),
    ("deciduous needleleaf forest", "#54a708"),
    ("deciduous broadleaf forest", "#78d203"),
    ("mixed forest", "#009900"),
    ("closed shrubland", "#c6b044"),
    ("open shrubland", "#dcd159"),
    ("woody savanna", "#dade48"),
    ("savanna", "#fbff13"),
    ("grassland", "#b6ff05"),
    ("permanent wetland", "#27ff87"),
    ("cropland", "#c24f44"),
    ("urban", "#a5a5a5"),
    ("cropland and natural vegetation", "#ff6d4c"),
    ("snow and ice", "#69fff8"),
    ("barren", "#f9ffa4"),
    ("water", "#1c0dff"),
)
CLC19 = _legend(  # BigEarthNet's 19 of CORINE's 44 classes, in torchgeo's order
    "clc19",
    ("urban fabric", "#e6004d"),
    ("industrial or commercial units", "#cc4df2"),
    ("arable land", "#ffffa8"),
    ("permanent crops", "#e68000"),
    ("pastures", "#e6e64d"),
    ("complex cultivation patterns", "#ffe64d"),
    ("agriculture with natural vegetation", "#e6cc4d"),
    ("agro-forestry areas", "#f2cca6"),
    ("broad-leaved forest", "#80ff00"),
    ("coniferous forest", "#00a600"),
    ("mixed forest", "#4dff00"),
    ("natural grassland and sparsely vegetated areas", "#ccf24d"),
    ("moors, heathland and sclerophyllous vegetation", "#a6ff80"),
    ("transitional woodland, shrub", "#a6f200"),
    ("beaches, dunes, sands", "#e6e6e6"),
    ("inland wetlands", "#a6a6ff"),
    ("coastal wetlands", "#ccccff"),
    ("inland waters", "#80f2e6"),
    ("marine waters", "#e6f2ff"),
)
LBM = _legend(  # SeasoNet's 33 classes; colours of torchgeo
    "lbm",
    ("continuous urban fabric", "#e6004d"),
    ("discontinuous urban fabric", "#ff0000"),
    ("industrial or commercial units", "#cc4df2"),
    ("road and rail networks", "#cc0000"),
    ("port areas", "#e6cccc"),
    ("airports", "#e6cce6"),
    ("mineral extraction sites", "#a600cc"),
    ("dump sites", "#a64d00"),
    ("construction sites", "#ff4dff"),
    ("green urban areas", "#ffa6ff"),
    ("sport and leisure facilities", "#ffe6ff"),
    ("non-irrigated arable land", "#ffffa8"),
    ("vineyards", "#e68000"),
    ("fruit trees and berry plantations", "#f2a64d"),
    ("pastures", "#e6e64d"),
    ("broad-leaved forest", "#80ff00"),
    ("coniferous forest", "#00a600"),
    ("mixed forest", "#4dff00"),
    ("natural grasslands", "#ccf24d"),
    ("moors and heathland", "#a6ff80"),
    ("transitional woodland, shrub", "#a6f200"),
    ("beaches, dunes, sands", "#e6e6e6"),
    ("bare rock", "#cccccc"),
    ("sparsely vegetated areas", "#ccffcc"),
    ("inland marshes", "#a6a6ff"),
    ("peat bogs", "#4d4dff"),
    ("salt marshes", "#ccccff"),
    ("intertidal flats", "#a6a6e6"),
    ("water courses", "#00ccf2"),
    ("water bodies", "#80f2e6"),
    ("coastal lagoons", "#00ffa6"),
    ("estuaries", "#a6ffe6"),
    ("sea and ocean", "#e6f2ff"),
)
EUROSAT = Legend(  # in torchgeo's order, that of the folders' names
    "eurosat",
    (
        "annual crop",
        "forest",
        "herbaceous vegetation",
        "highway",
        "industrial buildings",
        "pasture",
        "permanent crop",
        "residential buildings",
        "river",
        "sea and lake",
    ),
)
NLCD = Legend(  # mrlc.gov's class legend; colours of torchgeo
    "nlcd",
    (
        "open water",
        "perennial ice or snow",
        "developed, open space",
        "developed, low intensity",
        "developed, medium intensity",
        "developed, high intensity",
        "barren land",
        "deciduous forest",
        "evergreen forest",
        "mixed forest",
        "shrub or scrub",
        "grassland or herbaceous",
        "pasture or hay",
        "cultivated crops",
        "woody wetlands",
        "emergent herbaceous wetlands",
    ),
    (11, 12, 21, 22, 23, 24, 31, 41, 42, 43, 52, 71, 81, 82, 90, 95),
    tuple(
        "#466b9f #d1def8 #dec5c5 #d99282 #eb0000 #ab0000 #b3ac9f #68ab5f #1c5f2c #b5c58f #ccb879 #dfdfc2 #dcd939 "
        "#ab6c28 #b8d9eb #6c9fb8".split()
    ),
)


def _listed(name: str) -> Legend:
    """A legend of a list that ships with the package: code, class, color."""
    rows = table_of(f"{name}.csv")
    classes, colors = (tuple(r[key] for r in rows) for key in ("class", "color"))
    return Legend(name, classes, tuple(int(r["code"]) for r in rows), colors)


CDL = _listed("cdl")  # USDA's Cropland Data Layer: the codes and colours of torchgeo, less 0 and 81, no data
