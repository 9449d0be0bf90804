"""A kept model over a whole scene: windows as a stream, blocks that are kept as they are done, a map at the end."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gfm_objectives.batch import Batch, collate
from gfm_objectives.data.windows import cut, stitch
from gfm_objectives.device import resolve
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.predict.assembling import Map, assemble
from gfm_objectives.predict.ground import Files
from gfm_objectives.predict.job import Job, folder_of, identity
from gfm_objectives.predict.opening import check_unit, open_scene
from gfm_objectives.predict.predictor import Predictor, kind_of_card, open_predictor
from gfm_objectives.predict.raster import CACHE_MB, beside, class_codes, shares
from gfm_objectives.predict.scene import Box, Scene, codes_to_labels, mosaic
from gfm_objectives.predict.tiling import Tiling, block_side
from gfm_objectives.predict.vectors import SUFFIXES, polygonise
from gfm_objectives.runs.segmenter import digest
from gfm_objectives.tasks.kinds import Segmentation

EXTRAS = ("probability", "entropy", "ood")
STAGES = ("read", "wait", "infer", "assemble", "keep")
EDGE = 2  # pixels on either side of a window's border that count as at it
EVERY = 15.0  # seconds between lines of progress


def run(cfg: DictConfig) -> Path:
    """Map the scene of `cfg` (configs/predict.yaml), or go on with it; the file that was written, or the folder of
    blocks while other jobs' are missing."""
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):  # else a share of the machine's memory
        return _run(cfg)


def _run(cfg: DictConfig) -> Path:
    begun = time.process_time()
    options: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    for key in ("model", "output"):
        if cfg[key] is None:
            raise InputError(f"{key}: is missing; gfm predict --help tells")
    output = Path(cfg.output)
    vector = output.suffix.lower() in SUFFIXES
    if not vector and output.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"output={output}: expected .tif, or for polygons {', '.join(SUFFIXES)}")
    if not vector and (cfg.min_area or cfg.simplify):
        told = f"min_area= and simplify= are of polygons; output={output} has none"
        warnings.warn(told, InputWarning, stacklevel=2)
    if unknown := [e for e in cfg.extra if e not in EXTRAS]:
        raise InputError(f"extra={unknown[0]}: choose from {', '.join(EXTRAS)}")
    written = [output, *(beside(output, e) for e in cfg.extra)]
    begun_before = folder_of(output).is_dir()  # then its own extras may be there: the map comes last
    if there := [p for p in written[: 1 if begun_before else None] if p.exists() and not cfg.overwrite]:
        raise InputError(f"output={there[0]}: exists; give another name, or overwrite=true")
    if folders := [p for p in written if p.is_dir()]:
        raise InputError(f"output={folders[0]}: is a folder; give another name")
    device, dtype = resolve(cfg.device, cfg.precision)
    predictor = open_predictor(cfg.model, device, dtype, "ood" in cfg.extra)
    card = predictor.card
    segmentation = isinstance(kind_of_card(card), Segmentation)
    if not segmentation and (vector or set(cfg.extra) - {"ood"}):
        raise InputError(f"{cfg.model}: maps numbers, which have no polygons, probability or entropy; output= a .tif")
    scene = open_scene(list(cfg.input), card, options)
    tiling = _tiling(scene, predictor, options)
    reads = {f.resolve() for f in (*scene.files, *_labels(cfg.labels))}
    if over := [p for p in written if p.resolve() in reads]:
        raise InputError(f"output={over[0]}: is what is read; give another name")
    mapper = Mapper(predictor, scene, tiling, tuple(cfg.extra), _labels(cfg.labels))
    mine = _share(cfg.blocks, len(tiling))
    about = {
        "model": digest(cfg.model if Path(cfg.model).is_dir() else Path(cfg.model).parent),
        "input": [identity(scene.files), repr(scene.ground), repr(scene.images)],
        "tiling": repr(tiling),
        "extra": list(cfg.extra),
        "labels": identity(list(mapper.labels)),
        "precision": str(dtype),
    }
    job = Job(output, about, len(tiling))
    todo = [n for n in job.missing() if n in mine]
    _tell(scene, tiling, len(mine), len(mine) - len(todo))
    with torch.inference_mode():
        mapper.work(job, todo)
    if missing := job.missing():
        print(
            f"{len(missing)} of {len(tiling)} blocks are left to other jobs; the same command without blocks= ends it"
        )
        return job.folder
    made = Map(card, scene, tiling, job, tuple(cfg.extra), segmentation, cfg.model, str(about["model"]), begun)
    raster = job.folder / f"{output.stem}.tif" if vector else output
    try:
        assemble(made, raster, mapper.seconds)
    except FileNotFoundError:
        if not output.exists():
            raise
        print(f"  another job came last too, and has written {output}")
        return output
    if vector:
        n = polygonise(raster, output, card.legend, cfg.min_area, cfg.simplify)
        print(f"  {n} polygons")
    job.clear()
    print(f"  -> {output}", flush=True)
    return output


@dataclass
class Mapper:
    """Computes blocks. seconds: spent on read (in the background), wait (for it), infer, assemble and keep."""

    predictor: Predictor
    scene: Scene
    tiling: Tiling
    extra: tuple[str, ...]
    labels: tuple[Path, ...] = ()
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def __post_init__(self) -> None:
        self.card, self.kind = self.predictor.card, kind_of_card(self.predictor.card)
        self.read_images, self.files = self.scene.reader(), Files(self.scene.ground)
        self.begun = time.perf_counter()

    def work(self, job: Job, numbers: Sequence[int]) -> None:
        """Compute the blocks `numbers` and keep each; the next is read while one is computed."""
        told = self.begun = time.perf_counter()
        with ThreadPoolExecutor(1) as reader:
            ahead = [reader.submit(self.read, n) for n in numbers[:1]]
            for k, number in enumerate(numbers):
                ahead += [reader.submit(self.read, n) for n in numbers[k + 1 : k + 2]]
                begun = time.perf_counter()
                batch, target = ahead.pop(0).result()
                self.seconds["wait"] += time.perf_counter() - begun
                arrays = self.compute(number, batch, target)
                begun = time.perf_counter()
                job.put(number, arrays)
                self.seconds["keep"] += time.perf_counter() - begun
                if (now := time.perf_counter()) - told > EVERY:
                    told = now
                    self.progress(k + 1, len(numbers), now - self.begun)

    def progress(self, done: int, of: int, seconds: float) -> None:
        km2 = done * (self.tiling.block * self.scene.gsd / 1000) ** 2
        left = seconds / done * (of - done)
        print(f"  {done} of {of} blocks, {km2 / seconds:.3g} km2/s, {left / 60:.1f} min left", flush=True)

    def read(self, number: int) -> tuple[Batch, Tensor | None]:
        """What the windows of a block show, raw, and the labels of the block."""
        begun = time.perf_counter()
        cover, _ = self.tiling.windows(number)
        batch, target = self.read_images(cover), self._target(self.tiling.box(number))
        self.scene.unseen[:] = [name for name in self.scene.unseen if not check_unit(self.scene, batch, name)]
        self.seconds["read"] += time.perf_counter() - begun
        return batch, target

    def _target(self, box: Box) -> Tensor | None:
        if not self.labels:
            return None
        values = mosaic(self.files, self.labels, [1], box, "nearest")[0]
        return (
            codes_to_labels(values, self.card.legend)
            if isinstance(self.kind, Segmentation)
            else torch.from_numpy(values)
        )

    def compute(self, number: int, batch: Batch, target: Tensor | None) -> dict[str, np.ndarray]:
        """The arrays of a block: the map, what was asked for beside it, and the counts of its score. Empty where there
        is nothing to be seen. What is labelled is predicted wherever it lies, as in evaluation."""
        begun, inferred = time.perf_counter(), self.seconds["infer"]
        cover, at = self.tiling.windows(number)
        top, left, height, width = self.tiling.box(number)
        inner = slice(top - cover[0], top - cover[0] + height), slice(left - cover[1], left - cover[1] + width)
        seen = torch.stack([s.valid.any(1)[0] for s in batch.sensors.values()]).any(0)  # (h, w)
        labelled = target is not None and bool(((target >= 0) if target.dtype == torch.long else ~target.isnan()).any())
        if not seen[inner].any() and not labelled:
            return {}
        wanted = [labelled or bool(seen[t : t + self.tiling.size, l : l + self.tiling.size].any()) for t, l in at]  # noqa: E741
        output = stitch(self._parts(batch, at, wanted), at, *cover[2:])[:, inner[0], inner[1]]
        arrays = self._arrays(output, ~seen[inner].numpy())
        if target is not None:
            arrays |= self._score(number, output, target)
        self.seconds["assemble"] += time.perf_counter() - begun - (self.seconds["infer"] - inferred)
        return arrays

    def _parts(self, batch: Batch, at: Sequence[tuple[int, int]], wanted: Sequence[bool]) -> Iterator[Tensor]:
        """Outputs of the windows, some at a time; zeros for those that show nothing, which nobody will see."""
        size, outputs = self.tiling.size, self.card.channels + self.predictor.strange
        every, together = list(zip(at, wanted, strict=True)), self.predictor.together
        for some in (every[k : k + together] for k in range(0, len(every), together)):
            windows = [cut(batch, *place, size) for place, show in some if show]
            begun = time.perf_counter()
            told = iter(self.predictor(collate(windows)) if windows else ())
            self.seconds["infer"] += time.perf_counter() - begun
            yield torch.stack([next(told) if show else torch.zeros(outputs, size, size) for _, show in some])

    def _arrays(self, output: Tensor, nothing: np.ndarray) -> dict[str, np.ndarray]:
        """What is kept of outputs (C, h, w), with no data where `nothing`."""
        logits = output[: self.card.channels]
        arrays: dict[str, np.ndarray] = {}
        if not isinstance(self.kind, Segmentation):
            arrays["map"] = np.where(nothing, np.float32(np.nan), self.kind.decide(logits[None])[0].numpy())
        else:
            codes, code = class_codes(self.card.legend)
            arrays["map"] = np.where(nothing, codes.dtype.type(code), codes[logits.argmax(0).numpy()])
            if {"probability", "entropy"} & {*self.extra}:
                p = (logits / self.card.temperature).softmax(0)
                found = {"probability": p.amax(0), "entropy": torch.special.entr(p).sum(0) / np.log(len(p))}
                arrays |= {k: shares(v.numpy(), nothing) for k, v in found.items() if k in self.extra}
        if "ood" in self.extra:
            arrays["ood"] = shares(output[-1].numpy(), nothing)
        return arrays

    def _score(self, number: int, output: Tensor, target: Tensor) -> dict[str, np.ndarray]:
        """The task's statistic of the block, and of it what lies within EDGE pixels of a window's border."""
        decided, classes = self.kind.decide(output[None, : self.card.channels]), len(self.card.legend)
        at_border = torch.from_numpy(self._near_borders(number))
        hidden = torch.full((), float("nan") if target.is_floating_point() else -1, dtype=target.dtype)
        edge = torch.where(at_border, target, hidden)
        counts = {"stats": target, "edge": edge}
        return {k: self.kind.count(decided, t[None], classes)[0].numpy() for k, t in counts.items()}

    def _near_borders(self, number: int) -> np.ndarray:
        top, left, height, width = self.tiling.box(number)
        masks: list[np.ndarray] = []
        for first, length, side in ((top, height, self.tiling.height), (left, width, self.tiling.width)):
            starts = np.array(self.tiling.starts(side))
            lines = np.unique(np.concatenate([starts, starts + self.tiling.size]))
            lines = lines[(lines > 0) & (lines < side)]
            pixel = np.arange(first, first + length)[:, None]
            masks.append(np.any((pixel >= lines - EDGE) & (pixel < lines + EDGE), axis=1))
        return masks[0][:, None] | masks[1]


def _tiling(scene: Scene, predictor: Predictor, options: dict[str, Any]) -> Tiling:
    card, size = predictor.card, predictor.size
    planes = sum(len(card.spec.bands[s]) * card.spec.dates[s] for s in scene.images)
    per_pixel = 4 * (3 * planes + 3 * (card.channels + 1))  # raw twice (one is read ahead), cut; outputs, sums, decided
    overlap = int(options["overlap"] * size)
    return Tiling(
        scene.ground.height, scene.ground.width, size, overlap, options["block"] or block_side(per_pixel, size)
    )


def _labels(words: Sequence[str]) -> tuple[Path, ...]:
    paths = tuple(Path(os.path.expanduser(w)) for w in words)
    for path in paths:
        if not path.is_file():
            raise InputError(f"labels={path}: no such file; give a raster of the legend's codes")
    return paths


def _share(text: str | None, count: int) -> range:
    """The blocks of part k of n: k/n. InputError where it is none."""
    if text is None:
        return range(count)
    k, slash, n = text.partition("/")
    if not slash or not k.isdecimal() or not n.isdecimal() or not 1 <= int(k) <= int(n):
        raise InputError(f"blocks={text}: expected a part such as 3/10, the third of ten")
    return range(count * (int(k) - 1) // int(n), count * int(k) // int(n))


def _tell(scene: Scene, tiling: Tiling, mine: int, done: int) -> None:
    for note in scene.notes:
        print(f"  {note}")
    g = scene.ground
    km2 = g.height * g.width * (scene.gsd / 1000) ** 2
    where = g.crs.to_string() if g.crs is not None else "no coordinate system"
    print(f"scene: {g.height} x {g.width} pixels of {scene.gsd:.3g} m, {km2:.4g} km2, {where}")
    windows = f"windows of {tiling.size}, overlap {tiling.overlap}"
    print(f"{mine} blocks of {tiling.block} pixels ({done} done before); {windows}", flush=True)
