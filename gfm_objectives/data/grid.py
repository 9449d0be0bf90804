"""One grid for all files of a chip: where a raster lies, which way it comes to another, and windows of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from gfm_objectives.data.rasters import Window, at

LARGEST = 10  # two sizes are the same ground where their ratio is p / q with p or q at most this: 10 m and 15, 20, 60 m
MARGIN = 3  # pixels read around a window, for what interpolation looks at
DEGREE = 111_195.0  # metres


@dataclass(frozen=True, slots=True)
class Grid:
    """Height and width in pixels, and (coordinate system, affine transform) where the file is georeferenced."""

    height: int
    width: int
    place: tuple[Any, Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def local(self) -> bool:
        """Whether its coordinate system is one of its own, of which nothing on Earth is known."""
        if self.place is None:
            return False
        crs = self.place[0]
        return hasattr(crs, "is_projected") and not (crs.is_projected or crs.is_geographic)

    def way(self, other: Grid) -> str | None:
        """How a raster on `other` comes to this grid: '' as it is, 'warp', 'ratio', or None if it cannot.

        Georeferenced grids of one shape that agree within half a pixel count as the same; so does a local coordinate
        system beside another, as nothing but the corners can be compared.
        """
        if self.place is not None and other.place is not None:
            if self.shape == other.shape and self._close(other):
                return ""
            return None if self.local != other.local or (self.local and self.place[0] != other.place[0]) else "warp"
        if self.shape == other.shape:
            return ""
        rows, columns = Fraction(self.height, other.height), Fraction(self.width, other.width)
        return "ratio" if rows == columns and min(rows.numerator, rows.denominator) <= LARGEST else None

    def _close(self, other: Grid) -> bool:
        assert self.place is not None and other.place is not None
        (crs, transform), (other_crs, other_transform) = self.place, other.place
        if crs != other_crs and not (self.local or other.local):
            return False
        mine, theirs = (np.array(t, float).reshape(3, 3) for t in (transform, other_transform))
        corners = np.array([(0, 0, 1), (self.width, 0, 1), (0, self.height, 1)]).T  # column, row, 1
        shift = np.linalg.solve(mine, theirs @ corners) - corners
        return bool(np.abs(shift).max() <= 0.5)

    @property
    def metres(self) -> float | None:
        """Metres per pixel by the georeference, rotated ones and degrees included; None where that is not known."""
        if self.place is None or self.local:
            return None
        crs, t = self.place
        dx, dy = (t.a, t.d), (t.b, t.e)
        if crs.is_geographic:
            lat = t.f + t.e * self.height / 2 + t.d * self.width / 2
            across = DEGREE * math.cos(math.radians(lat))
            dx, dy = (dx[0] * across, dx[1] * DEGREE), (dy[0] * across, dy[1] * DEGREE)
        else:
            unit = crs.linear_units_factor[1]
            dx, dy = (dx[0] * unit, dx[1] * unit), (dy[0] * unit, dy[1] * unit)
            if (crs.to_epsg() or 0) in (3857, 3395):  # Mercator: metres of the map are longer than those of the ground
                y = t.f + t.e * self.height / 2 + t.d * self.width / 2
                shrink = 1 / math.cosh(y / 6378137.0)
                dx, dy = (dx[0] * shrink, dx[1] * shrink), (dy[0] * shrink, dy[1] * shrink)
        return math.sqrt(math.hypot(*dx) * math.hypot(*dy))

    def corners(self) -> np.ndarray | None:
        """(4, 2) longitude and latitude of its corners in order, unwrapped around the first; None where not known: also
        where a coordinate system is named and no transform was ever set, as in MADOS."""
        if self.place is None or self.local or self.place[1].is_identity:
            return None
        from rasterio.errors import RasterioError
        from rasterio.warp import transform

        crs, t = self.place
        points = [at(t, c, r) for c, r in ((0, 0), (self.width, 0), (self.width, self.height), (0, self.height))]
        try:
            lon, lat = transform(crs, "EPSG:4326", *map(list, zip(*points, strict=True)))
        except RasterioError:
            return None
        out = np.stack([lon, lat], 1)
        out[:, 0] = out[0, 0] + (out[:, 0] - out[0, 0] + 180) % 360 - 180
        return out if np.isfinite(out).all() and np.abs(out[:, 1]).max() <= 90 else None

    def cut(self, window: Window) -> Grid:
        """The grid of a window of it."""
        top, left, height, width = window
        if self.place is None:
            return Grid(height, width)
        from rasterio import Affine

        crs, transform = self.place
        a, b, c, d, e, f = tuple(transform)[:6]
        return Grid(height, width, (crs, Affine(a, b, c + a * left + b * top, d, e, f + d * left + e * top)))

    def source(self, other: Grid, window: Window) -> tuple[Window, Window]:
        """What to read of `other` to know a window of this grid: (window of `other`, the window of this grid that it
        is resampled to, which holds `window`)."""
        way = self.way(other)
        if way == "":
            return window, window
        top, left, height, width = window
        if way == "ratio":
            ratio = Fraction(self.height, other.height)  # pixels of this grid for one of the other
            p, q = ratio.numerator, ratio.denominator  # p of these lie over q of those
            edges = [_lattice(a, n, p, q, whole) for a, n, whole in ((top, height, other.height),
                                                                     (left, width, other.width))]  # fmt: skip
            (r0, r1), (c0, c1) = edges
            mine = (r0 * p // q, c0 * p // q, (r1 - r0) * p // q, (c1 - c0) * p // q)
            return (r0, c0, r1 - r0, c1 - c0), mine
        return self._beneath(other, window), window

    def _beneath(self, other: Grid, window: Window) -> Window:
        """The part of `other`, in another georeference, under a window of this grid."""
        from rasterio.warp import transform

        assert self.place is not None and other.place is not None
        part = self.cut(window)
        assert part.place is not None
        along = np.linspace(0, 1, 9)
        edge = [(x, y) for x in along for y in (0.0, 1.0)] + [(x, y) for x in (0.0, 1.0) for y in along]
        points = [at(part.place[1], x * part.width, y * part.height) for x, y in edge]
        xs, ys = transform(part.place[0], other.place[0], *map(list, zip(*points, strict=True)))
        inverse = ~other.place[1]
        columns, rows = np.array([at(inverse, *xy) for xy in zip(xs, ys, strict=True)]).T
        scale = max(np.ptp(columns) / part.width, np.ptp(rows) / part.height, 1.0)
        pad = math.ceil(MARGIN * scale)
        r0, r1 = (int(np.clip(v, 0, other.height)) for v in (math.floor(rows.min()) - pad, math.ceil(rows.max()) + pad))
        c0, c1 = (int(np.clip(v, 0, other.width))
                  for v in (math.floor(columns.min()) - pad, math.ceil(columns.max()) + pad))  # fmt: skip
        return r0, c0, r1 - r0, c1 - c0


def _lattice(start: int, length: int, p: int, q: int, whole: int) -> tuple[int, int]:
    """First and last row to read of a file of `whole` rows, q of which lie under p of the grid's, so that both ends
    are edges of pixels on both."""
    first = (start // p) * q
    last = -(-(start + length) // p) * q
    margin = -(-MARGIN * max(1, -(-q // p)) // q) * q
    return max(0, first - margin), min(whole, last + margin)
