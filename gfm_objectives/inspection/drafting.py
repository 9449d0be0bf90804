"""`gfm init`: looks at a folder and writes the yaml that describes it; says what it guessed and what it could not."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from gfm_objectives import disk
from gfm_objectives.data.cutting import SIDE
from gfm_objectives.data.footprints import blocks, chains, joined, overlaps
from gfm_objectives.data.grid import Grid
from gfm_objectives.data.rasters import FileFault
from gfm_objectives.data.readers import READERS, read_bands
from gfm_objectives.errors import InputError
from gfm_objectives.inspection import guessing
from gfm_objectives.inspection.grouping import Group, find, groups
from gfm_objectives.inspection.seeing import Seen, is_label, metres, see
from gfm_objectives.inspection.vectors import rasterise

AREAS = 12  # that a split by location should have at least
TILE = 512  # pixels, of single scenes, so that a split has tiles to deal out
KEYS = ("out", "attribute")


@dataclass
class Draft:
    """name; root; options: of the data; task: of the labels, where there are any; guessed, left: lines for a person."""

    name: str
    options: dict[str, Any]
    task: dict[str, Any] | None = None
    guessed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def main(words: Sequence[str]) -> str:
    """The words of the command line: a folder, and key=value of KEYS."""
    given = dict(w.split("=", 1) for w in words if "=" in w)
    folders = [w for w in words if "=" not in w]
    if len(folders) != 1:
        raise InputError(f"gfm init: expected one folder, got {', '.join(folders) or 'none'}")
    for key in given:
        if key not in KEYS:
            raise InputError(f"{key}: no such key; choose from {', '.join(KEYS)}")
    return run(folders[0], **given)


def run(folder: str, out: str | None = None, attribute: str | None = None) -> str:
    """Draft a folder, write its yaml (and that of a task, where there are labels); what a person should be told."""
    root = Path(os.path.expanduser(folder))
    if not root.is_dir():
        raise InputError(f"{folder}: {'is a file; give the folder it lies in' if root.is_file() else 'no such folder'}")
    path = Path(out or f"{root.resolve().name}.yaml")
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"out={out}: expected a name that ends in .yaml")
    task = path.with_name(f"{path.stem}_task.yaml")
    for file in (path, task):
        if file.exists():
            raise InputError(f"{file}: is there already; remove it, or give another name: out=other.yaml")
    print(f"looking at the files of {folder}", flush=True)
    draft = describe(root.resolve(), path.stem, attribute)
    drafted = f"{draft.name}: drafted by gfm init from {root}; check it by gfm inspect {path}"
    disk.write(path, _yaml(drafted, draft.options))
    if draft.task:
        draft.task["data"] = {"use": f"./{path.name}"}  # beside it
        disk.write(task, _yaml(f"{draft.name}: its labels as a task", draft.task))
    lines = [f"wrote {path}{f' and {task}' if draft.task else ''}", "guessed:", *(f"  {g}" for g in draft.guessed)]
    lines += ["by hand:", *(f"  {g}" for g in draft.left)] if draft.left else []
    lines += ["next:", f"  gfm inspect {quote(str(path))}"]
    scored = draft.task and "splits" in draft.options
    suite = quote(f"suite={task}")
    lines += [f"  gfm eval {suite} contenders=unet,conv,pixel  # the rivals from scratch"] if scored else []
    lines += [f"  gfm train {quote(f'data={path}')} objective=mae"]
    return "\n".join(lines)


def describe(root: Path, name: str, attribute: str | None = None) -> Draft:
    """What a folder seems to hold."""
    rasters, vectors, tables = find(root)
    made = tuple(f"labels_{Path(v).stem}/" for v in vectors)  # by an earlier draft
    rasters = [r for r in rasters if not r.startswith(made)] if made else rasters
    if not rasters:
        raise InputError(f"{root}: holds no raster that can be read ({', '.join(sorted(READERS))})")
    found, lost = _seen(groups(root, rasters))
    if any(g.dated and is_label(g, s) for g, s in found):
        found, lost = _seen(groups(root, rasters, dated=False))
    if not found:
        raise InputError(f"{root}: {'; '.join(lost)}")
    if all(g.pattern.startswith("{chip}/") and [*g.chips] == [root.name] for g, _ in found):
        root = root.parent  # a single scene, named by its folder
    draft = Draft(name, {"name": "chips", "root": str(root)}, left=lost)
    labels = [(g, s) for g, s in found if is_label(g, s)]
    images = [(g, s) for g, s in found if not is_label(g, s)]
    if not images:
        raise InputError(f"{root}: every raster looks like a label; describe the folder by hand, docs/chips.md")
    images.sort(key=lambda pair: (pair[1].grid.metres or 1e9, -pair[1].count))
    _frame(draft, images)
    sensors: dict[str, Any] = {}
    words = max((g.words for g, _ in images), key=len)  # one order for all, where some lack a date
    for group, seen in images:
        blocks, lines = guessing.sensors(group, seen, sensors)
        if group.words:
            order = words if {*group.words} <= {*words} else group.words
            for block in blocks.values():
                block["dates"] = dict.fromkeys(order)
            said = f"{', '.join(order)} stand for dates, in that order; give them where you know them"
            lines.append(f"{', '.join(blocks)}: {said}")
        sensors |= blocks
        draft.guessed += lines + [f"could not be read: {f}" for f in seen.faults]
    draft.options["sensors"] = sensors
    _layers(draft, root, labels, vectors, images, attribute)
    _splits(draft, root, tables, images)
    return draft


def _seen(made: list[Group]) -> tuple[list[tuple[Group, Seen]], list[str]]:
    """Kinds of file with what they hold, and lines on those that show no pixel."""
    looked = [(g, see(g)) for g in made]
    lost = [f"{g.pattern}: left out, as no pixel of it can be read ({len(g.chips)} chips)" for g, s in looked if not s]
    return [(g, s) for g, s in looked if s is not None], lost


def _frame(draft: Draft, images: list[tuple[Group, Seen]]) -> None:
    """Pixel size, windows and tiles."""
    gsd = metres([s for _, s in images])
    draft.options["gsd"] = 10.0 if gsd is None else float(f"{gsd:.3g}")
    if gsd is None:
        draft.left.append("gsd: files are not georeferenced; 10 m per pixel is written, give the true one")
    shapes = {shape for _, s in images[:1] for shape in s.shapes}
    high = max(max(s) for s in shapes)
    if high > 2 * SIDE or len(shapes) > 1 or any(h != w for h, w in shapes):
        low = min(min(s) for s in shapes)
        draft.options["size"] = min(SIDE, 2 ** int(math.log2(max(1.0, 1.1 * low))))
        span = f"{low} to {high}" if low < high else str(high)
        draft.guessed.append(f"size: chips of {span} px are cut into windows of {draft.options['size']} px")
    if high > 2 * TILE and len(images[0][0].chips) < AREAS:
        draft.options["tile"] = TILE
        draft.guessed.append(f"tile: few large scenes, so splits are dealt out in tiles of {TILE} px")


def _layers(
    draft: Draft,
    root: Path,
    labels: list[tuple[Group, Seen]],
    vectors: list[str],
    images: list[tuple[Group, Seen]],
    attribute: str | None,
) -> None:
    layers: dict[str, Any] = {}
    for group, seen in labels:
        block, lines, left = guessing.layer(group, seen)
        key = "label" if not layers else f"label_{len(layers) + 1}"
        draft.left += left
        if block is not None:
            layers[key] = block
            draft.guessed += [f"{key}: {group.pattern}", *lines]
    if not layers and vectors:
        scenes = {chip: files[0] for chip, files in images[0][0].chips.items()}
        vector = root / vectors[0]
        classes, column, without = rasterise(vector, scenes, attribute, root / f"labels_{vector.stem}")
        draft.guessed.append(
            f"label: {vectors[0]} {f'by its column {column}' if column else 'as one class'} was laid over {len(scenes)}"
            f" scenes, into labels_{vector.stem}/; pixels belong to the polygon that covers their centre"
        )
        if without:
            draft.guessed.append(f"label: {without} polygons whose {column} is empty are not drawn")
        block = {
            "file": f"labels_{vector.stem}/{{chip}}.tif",
            "classes": classes,
            "codes": list(range(1, len(classes) + 1)),
        }
        if len(classes) == 1:
            block |= {"classes": ["other", *classes], "codes": [0, 1]}
            draft.guessed.append("label: what no polygon covers is the class 'other'")
        else:
            block["ignore"] = 0
            draft.guessed.append("label: what no polygon covers has no label (ignore: 0)")
        layers["label"] = block
    if not layers:
        draft.guessed.append("no labels were found: the folder can be pretrained on, not mapped")
        return
    draft.options["layers"] = layers
    first = next(iter(layers))
    draft.task = {"name": f"{draft.name}_task", "layer": first}
    if "unit" in layers[first]:
        draft.task["kind"] = "regression"


def _splits(draft: Draft, root: Path, tables: list[str], images: list[tuple[Group, Seen]]) -> None:
    _rule(draft, root, tables, images)
    pairs = guessing.table_of_pairs(root, tables, {*images[0][0].chips})
    if pairs and "splits" in draft.options:
        draft.options["splits"]["overlaps"] = pairs
        draft.guessed.append(f"splits: {pairs} names chips that share ground, which are never dealt to two sides")


def _rule(draft: Draft, root: Path, tables: list[str], images: list[tuple[Group, Seen]]) -> None:
    """What deals chips out to splits."""
    group, seen = images[0]
    chips = {*group.chips}
    if len(chips) < 3 and "tile" not in draft.options:
        draft.left.append(f"splits: {len(chips)} chips cannot be split; without the block all are for pretraining")
        return
    if table := guessing.table_of_splits(root, tables, chips):
        draft.options["splits"] = table
        draft.guessed.append(f"splits: as {table['file']} says, column {table['column']}")
        return
    corners = seen.grid.corners()
    if corners is not None:
        km, areas = _km(draft, images[0])
        if areas < 3:
            told = f"splits: the chips are {areas} areas, as they overlap or lie within {1000 * km:.0f} m"
            draft.left.append(f"{told}; without the block all are for pretraining")
            return
        draft.options["splits"] = {"by": "location", "km": km, "shares": {"train": 0.6, "val": 0.2, "test": 0.2}}
        draft.guessed.append(f"splits: by location, in blocks of {km:g} km")
        return
    fronts = {c.rsplit("_", 1)[0] for c in chips if "_" in c}
    if all("_" in c for c in chips) and 3 <= len(fronts) < len(chips):
        draft.options["splits"] = {"by": "group", "group": "{group}_*"}
        draft.guessed.append(f"splits: by group, what stands before the last _ of names ({len(fronts)} groups): check")
        return
    draft.options["splits"] = {"by": "random"}
    why = "at random, as nothing tells where chips lie; if some overlap or are neighbours, scores will be too good"
    draft.left.append(f"splits: {why}: give a table of areas")


def _km(draft: Draft, first: tuple[Group, Seen]) -> tuple[float, int]:
    """The largest blocks that still give AREAS of them, and how many areas those are where chips overlap."""
    outlines, whole = [], []
    for files in first[0].chips.values():
        try:
            head = read_bands(files[0], ())
        except FileFault:
            continue
        corners = Grid(*head.shape, head.place).corners()
        if corners is not None:
            tile = draft.options.get("tile") or max(head.shape)
            ys, xs = ((np.arange(max(1, n // tile)) + 0.5) / max(1, n // tile) for n in head.shape)
            top, bottom = corners[1] - corners[0], corners[3] - corners[0]
            outlines += [(corners[0] + x * top + y * bottom)[None] for y in ys for x in xs]
            whole += [] if "tile" in draft.options else [corners]
    if not outlines:
        return 0.1, 0
    sides = (50.0, 20.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1)
    enough = min(AREAS, 0.8 * len(outlines))
    km = next((km for km in sides if len({*blocks(outlines, km)}) >= enough), sides[-1])
    edges = chains(blocks(whole or outlines, km)) + (overlaps(whole) if whole else [])
    return km, len({*joined([str(k) for k in range(len(outlines))], edges).values()})


def _yaml(head: str, options: Mapping[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return f"# {head}\n" + yaml.dump(dict(options), Dumper=Dumper, sort_keys=False, width=110, default_flow_style=None)
