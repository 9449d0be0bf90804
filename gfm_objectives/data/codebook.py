"""Pseudo-classes: places cut into segments, each described by what it looks like, named by k-means over the corpus."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gfm_objectives import disk
from gfm_objectives.batch import Series
from gfm_objectives.errors import InputError

Views = Mapping[str, Series]  # the sensors and dates that segments are made of

CHANNELS = 4  # principal axes the segments are cut from: 96 % of the variance of two synthetic S2 dates, half the time
SIGMA = 0.0  # pixels of smoothing before the cut: it makes strips of their own of the edges between flat surfaces
PLACES_OF_AXES = 64
CHUNK = 32  # places read together while fitting
ROUNDS = 25  # of k-means


@dataclass(frozen=True, slots=True)
class Recipe:
    """classes: of k-means; places: that they are fitted on; scale and size: of the cut, see `cut`."""

    classes: int
    places: int
    scale: float
    size: int


@dataclass(frozen=True, slots=True)
class Price:
    """Of fitting, and of one place: FLOPs of matrix products (2 x multiply-accumulate) and CPU seconds."""

    fit_flops: float
    fit_seconds: float
    place_flops: float
    place_seconds: float


@dataclass(frozen=True, slots=True)
class Codebook:
    """What turns a place into classes. C: bands x dates of its views, D: figures that describe a segment.

    axes (C, CHANNELS), scaled so that the image cut has unit variance; mean, std (D,) of descriptions; centres (K, D).
    """

    recipe: Recipe
    price: Price
    axes: Tensor
    mean: Tensor
    std: Tensor
    centres: Tensor

    def classes(self, views: Views) -> Tensor:
        """(B, H, W) long: the class of every pixel's segment, -1 for segments that a sensor nowhere shows valid.

        Place by place and on one thread: batch size and threads would change the last bits, and they a segment.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return torch.stack([self._name(place, *self.cut(place)) for place in _places(views)])
        finally:
            torch.set_num_threads(threads)

    def cut(self, views: Views) -> tuple[Tensor, int]:
        """Segments of the first place, (H, W) long, and their number."""
        return cut(project(views, self.axes), self.recipe.scale, self.recipe.size)

    def _name(self, views: Views, segments: Tensor, count: int) -> Tensor:
        known, z = standardise(describe(views, segments, count), views, self.mean, self.std)
        distance = self.centres.square().sum(1) - 2 * z @ self.centres.T  # (count, K), less what all share
        return torch.where(known, distance.argmin(1), -1)[segments]

    @property
    def digest(self) -> bytes:
        """What the classes depend on."""
        return b"".join(t.numpy().tobytes() for t in (self.axes, self.mean, self.std, self.centres))


def fit(read: Callable[[Sequence[int]], Views], places: Sequence[int], recipe: Recipe) -> Codebook:
    """The codebook of `places`; `read` gives the views of some of them. The same bits each time on one machine.

    InputError where they have fewer segments than there are to be classes, and without scikit-image and faiss.
    """
    faiss, _ = needed("faiss"), needed("skimage.segmentation")
    began, threads = time.process_time(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        axes = principal_axes(read(places[:PLACES_OF_AXES]))
        rows: list[Tensor] = []
        busy = 0.0
        for i in range(0, len(places), CHUNK):
            chunk = read(places[i : i + CHUNK])
            start = time.process_time()
            for views in _places(chunk):
                rows.append(describe(views, *cut(project(views, axes), recipe.scale, recipe.size)))
            busy += time.process_time() - start
        found = torch.cat(rows)  # (N, D), NaN where nothing was valid
        mean = found.nanmean(0).nan_to_num()
        std = (found - mean).square().nanmean(0).sqrt().nan_to_num().clamp(min=1e-6)
        known, z = standardise(found, chunk, mean, std)
        z = z[known]
    finally:
        torch.set_num_threads(threads)
    if not len(z):
        raise InputError(
            f"objective.target=segments: of {len(found)} segments in {len(places)} places none is seen by each of "
            f"{', '.join(chunk)} in what is withheld; withhold one sensor (objective.segments.withhold=), or leave out "
            "the one that is missing (data.sensors=)"
        )
    if len(z) < recipe.classes:
        raise InputError(
            f"objective.segments.classes={recipe.classes}: {len(places)} places have {len(z)} whole segments; "
            "ask for fewer classes, or raise objective.segments.places"
        )
    means = faiss.Kmeans(z.shape[1], recipe.classes, niter=ROUNDS, min_points_per_centroid=1)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        means.train(z.numpy(), init_centroids=far_apart(z, recipe.classes).numpy())
    finally:
        faiss.omp_set_num_threads(threads)
    pixels = chunk[next(iter(chunk))].valid[0, 0].numel()
    one = 2.0 * z.shape[1] * recipe.classes  # a segment against every centre
    price = Price(
        fit_flops=ROUNDS * one * len(z),
        fit_seconds=time.process_time() - began,
        place_flops=2.0 * pixels * axes.numel() + one * len(found) / len(places),
        place_seconds=busy / len(places),
    )
    return Codebook(recipe, price, axes, mean, std, torch.from_numpy(means.centroids.copy()))


# ---------------------------------------------------------------------------------------------------------------------
# Segments and what describes them


def stack(views: Views) -> Tensor:
    """Every band at every date, gaps filled with the pixel's mean over its other dates, else 0: (B, C, H, W)."""
    planes = []
    for s in views.values():
        ok = s.valid[:, :, None]  # (B, T, 1, H, W)
        mean = (s.x * ok).sum(1, keepdim=True) / ok.sum(1, keepdim=True).clamp(min=1)
        planes.append(torch.where(ok, s.x, mean).flatten(1, 2))
    return torch.cat(planes, 1)


def principal_axes(views: Views) -> Tensor:
    """The directions of greatest variance of pixels, (C, CHANNELS), over the square root of all variance."""
    x = stack(views).transpose(0, 1).flatten(1).double()  # (C, pixels)
    covariance = torch.cov(x).reshape(len(x), len(x))
    axes = torch.linalg.eigh(covariance).eigenvectors[:, -CHANNELS:]
    return (axes / covariance.trace().sqrt().clamp(min=1e-6)).float()


def project(views: Views, axes: Tensor) -> Tensor:
    """The first place on the axes: (H, W, CHANNELS)."""
    return stack(views)[0].movedim(0, 2) @ axes


def cut(image: Tensor, scale: float, size: int) -> tuple[Tensor, int]:
    """Segments of an image (H, W, channels), (H, W) long from 0 on, and their number.

    Graph-based: regions grow over the least differences (Felzenszwalb and Huttenlocher 2004,
    https://doi.org/10.1023/B:VISI.0000022288.19776.77). scale: larger = larger segments; size: pixels of the smallest.
    """
    skimage = needed("skimage.segmentation")
    with warnings.catch_warnings():  # that the channels are not three
        warnings.simplefilter("ignore", RuntimeWarning)
        found = skimage.felzenszwalb(image.double().numpy(), scale=scale, sigma=SIGMA, min_size=size)
    segments = torch.from_numpy(found).long()
    return segments, int(segments.max()) + 1


def describe(views: Views, segments: Tensor, count: int) -> Tensor:
    """(count, D): per sensor, each band's mean at every date (spectra and phenology), then its texture.

    Texture is the deviation within the segment, its mean over dates. NaN where no pixel is valid.
    """
    ids, out = segments.flatten(), []
    for s in views.values():
        ok = s.valid[0].flatten(1).float()  # (T, pixels)
        x = s.x[0].flatten(2) * ok[:, None]  # (T, bands, pixels)
        n = torch.zeros(len(ok), 1, count).index_add_(2, ids, ok[:, None])
        mean = torch.zeros(*x.shape[:2], count).index_add_(2, ids, x) / n
        square = torch.zeros(*x.shape[:2], count).index_add_(2, ids, x * x) / n
        texture = (square - mean.square()).clamp(min=0).sqrt().nanmean(0)
        out += [mean.flatten(0, 1), texture]
    return torch.cat(out).T


def standardise(found: Tensor, views: Views, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Which segments every sensor shows, (N,) bool, and descriptions in deviations from the corpus, (N, D).

    A date on which a segment is hidden is taken to be as unusual as its other dates are, band by band.
    """
    z, known, out = (found - mean) / std, torch.ones(len(found), dtype=torch.bool), []
    widths = [(s.x.shape[1] + 1) * s.x.shape[2] for s in views.values()]
    for s, part in zip(views.values(), z.split(widths, 1), strict=True):
        t, c = s.x.shape[1:3]
        dates = part[:, : t * c].unflatten(1, (t, c))
        known &= ~dates.isnan().flatten(1).all(1)
        out += [torch.where(dates.isnan(), dates.nanmean(1, keepdim=True), dates).flatten(1), part[:, t * c :]]
    return known, torch.cat(out, 1).nan_to_num()


def far_apart(z: Tensor, count: int) -> Tensor:
    """Where k-means begins, (count, D): rows of z (N, D), drawn far from each other (k-means++, Arthur 2007)."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(z), (1,), generator=generator)
    nearest = torch.full((len(z),), torch.inf)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (z - z[picks[-1]]).square().sum(1))
        picks = torch.cat([picks, nearest.clamp(min=1e-9).multinomial(1, generator=generator)])
    return z[picks]


def _places(views: Views) -> list[Views]:
    """The views of each place for itself."""
    count = len(next(iter(views.values())).x)
    return [{k: s.map(lambda t, i=i: t[i : i + 1]) for k, s in views.items()} for i in range(count)]  # type: ignore[misc]


def needed(module: str) -> Any:
    """A module of the extra `segments`; InputError says how to install it."""
    with warnings.catch_warnings():  # faiss is wrapped by SWIG, which Python deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return import_module(module)
        except ImportError:
            raise InputError(
                f"objective.target=segments: needs {module.split('.')[0]}; install scikit-image and faiss: "
                "pip install 'gfm-objectives[segments]', or uv run --extra segments ..."
            ) from None


# ---------------------------------------------------------------------------------------------------------------------
# On disk


def keep(book: Codebook, path: Path, made_of: str) -> Codebook:
    """Write `book`, at once or not at all; returns the codebook that counts: of two runs at a time, the first one's.

    A disk that is full or read-only is no fault: the next start fits again.
    """
    first = load(path, made_of)
    if first is not None:
        return first
    tensors = {k: getattr(book, k).contiguous() for k in ("axes", "mean", "std", "centres")}
    notes = {"made_of": made_of, "recipe": json.dumps(asdict(book.recipe)), "price": json.dumps(asdict(book.price))}
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_tensors(temporary, tensors, notes)
        os.replace(temporary, path)
    except (OSError, SafetensorError):
        pass
    return book


def load(path: Path, made_of: str) -> Codebook | None:
    """The codebook in `path`; None where there is none, it is damaged, or it was made of something else."""
    try:
        with safe_open(path, "pt") as f:
            notes = f.metadata() or {}
            if notes.get("made_of") != made_of:
                return None
            tensors = {k: f.get_tensor(k) for k in f.keys()}
            return Codebook(Recipe(**json.loads(notes["recipe"])), Price(**json.loads(notes["price"])), **tensors)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError):
        return None
