"""The rows of a comparison: which contenders its kinds, runs and published encoders make, and which cannot be run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gfm_objectives.batch import Spec
from gfm_objectives.compare.contenders import KINDS, Contender
from gfm_objectives.compare.published import Published
from gfm_objectives.config import load_choice
from gfm_objectives.errors import InputError
from gfm_objectives.gain.pairing import SAME_FLOPS
from gfm_objectives.models.encoder import IN_PRETRAINING, Encoder
from gfm_objectives.report.words import flops
from gfm_objectives.runs.checkpoint import load_model, read_weights
from gfm_objectives.runs.finished import Run, group_runs

PLUS = "plus"  # the word for: every rival from scratch that is asked for, with P/n more FLOPs too
EXTRA_LIMIT = 1e16  # FLOPs beyond F that a rival is given for a published encoder; some minutes of an A100 a run
OF_VIT = ("pretrained", "pretrained_map_input", "frozen", "fresh_dense", "fresh_tokens")
OF_SHAPE = ("scratch", "scratch_map_input")  # one for every shape of the encoders beside it
CONTINUED = "continued"  # what others published and train.py went on with: pretrained too
WITHOUT_VIT = ("conv", "conv_map_input")


def contenders(
    kinds: Sequence[str],
    folders: Sequence[str],
    suite_size: int,
    weights: str | None,
    foreign: Sequence[Published] = (),
    search: Sequence[str] = (),
) -> list[Contender]:
    """The rows that `kinds` ask for, given the pretraining runs in `folders` and the encoders of others.

    weights: a file for the row unet_imagenet; search: the runs of pretraining trials, charged to the rows of their
    objective and network. `all` stands for every kind, `plus` for the rivals from scratch with F + P/n.
    """
    kinds = [*KINDS, PLUS] if "all" in kinds else list(dict.fromkeys(kinds))
    for kind in kinds:
        if kind not in KINDS and kind != PLUS:
            raise InputError(f"contenders: no kind {kind!r}; choose from all, {PLUS}, {', '.join(KINDS)}")
    if not folders and not foreign and "pretrained" in kinds:
        raise InputError(
            "checkpoint=[]: nothing pretrained to compare; give checkpoint=runs/<name> (train makes one), or "
            "encoder= and weights= of others, or the rivals alone: contenders=unet,conv,scratch,pixel"
        )
    if "pretrained" in kinds and CONTINUED not in kinds:
        kinds = [*kinds, CONTINUED]
    groups = group_runs(folders)
    spent = _search_flops(search)
    shapes = {n: _shape(runs[0]) for n, runs in groups.items()}
    rows: list[Contender] = []
    for kind in kinds:
        made = KINDS.get(kind)
        if kind in OF_VIT:
            mine = {n: runs for n, runs in groups.items() if runs[0].model == "vit"}
            rows += [_of_runs(n + KINDS[kind].suffix, kind, mine[n], shapes[n], spent) for n in mine]
        elif kind == CONTINUED:
            mine = {n: runs for n, runs in groups.items() if runs[0].model == CONTINUED}
            rows += [_of_runs(n, kind, mine[n], shapes[n], spent) for n in mine]
        elif kind in ("unet_map", "conv_map"):
            mine = {n: runs for n, runs in groups.items() if runs[0].model == kind.removesuffix("_map")}
            _refuse_other_objectives(mine)
            names = _told_apart(KINDS[kind].title, list(mine))
            rows += [_of_runs(names[n], kind, mine[n], shapes[n], spent) for n in mine]
        elif kind in ("foreign", "foreign_frozen"):
            rows += [
                Contender(p.name + KINDS[kind].suffix, kind, p.runs, "published" if p.runs else "", p.encoder)
                for p in foreign
            ]
        elif kind in (*OF_SHAPE, *WITHOUT_VIT):
            vits = [shapes[n] for n, runs in groups.items() if runs[0].model in ("vit", "conv")]
            names = _of_shapes(KINDS[kind].title, vits or [_default_shape()], kind in WITHOUT_VIT)
            rows += [Contender(name, kind, shape=shape) for shape, name in names.items()]
        elif kind == "unet_imagenet" and not weights:
            continue
        elif made is not None:
            if kind == "unet_imagenet":
                _check_image_net(Path(str(weights)))
            rows.append(Contender(made.title, kind, weights=(weights or "") if kind == "unet_imagenet" else ""))
    if PLUS in kinds:
        given = _extras([*groups.values(), *(p.runs for p in foreign)], suite_size)[0]
        rows += [_plus(c, e) for c in list(rows) if c.role == "scratch" for e in given]
    if len({c.name for c in rows}) < len(rows):
        twice = next(c.name for c in rows if [d.name for d in rows].count(c.name) > 1)
        raise InputError(f"checkpoint: two rows would be named {twice!r}; compare them in two evaluations")
    if not rows:
        raise InputError("nothing to compare: give checkpoint=runs/<name>, encoder=, or contenders=scratch,unet")
    return rows


def not_run(
    kinds: Sequence[str], rows: Sequence[Contender], suite_size: int, foreign: Sequence[Published] = ()
) -> dict[str, str]:
    """Row -> why it was asked for and is not run. The report shows these rows too."""
    kinds = [*KINDS, PLUS] if "all" in kinds else kinds
    there, out = {c.kind for c in rows}, {}
    pretrained = any(r.model == "vit" for c in rows for r in c.runs)
    for kind, words in (("unet_map", "encoder=unet"), ("conv_map", "encoder.depth=0")):
        if kind in kinds and kind not in there and pretrained:
            out[KINDS[kind].title] = f"checkpoint= holds no run of train.py objective=supervised {words}"
    if "unet_imagenet" in kinds and "unet_imagenet" not in there:
        out[KINDS["unet_imagenet"].title] = "unet.weights= names no file"
    if PLUS in kinds:
        for extra in _extras([p.runs for p in foreign], suite_size)[1]:
            why = f"more than {EXTRA_LIMIT:.0e} FLOPs, which is as far as a rival follows published work"
            out[f"rivals + {flops(extra)} FLOPs"] = why
    return out


def notes(rows: Sequence[Contender], foreign: Sequence[Published] = ()) -> list[str]:
    """What a reader must know of the pretrained rows: costs of published ones, what they began with, and rivals of
    other means."""
    out = [p.note for p in foreign]
    ours = [r for c in rows if c.role == "pretrained" for r in c.runs if r.model != "published"]
    for name, initial, spent in dict.fromkeys((r.recipe, r.initial, r.initial_flops) for r in ours if r.initial):
        told = "nobody knows how many FLOPs" if math.isnan(spent) else f"{flops(spent)} FLOPs of its P"
        out.append(f"{name} began with the weights of {initial}: {told} were spent on them.")
    for c in (c for c in rows if c.role == "saw_map" and c.runs and ours):
        if not any(math.isclose(c.pretrain_flops, r.flops, rel_tol=SAME_FLOPS) for r in ours):
            out.append(f"{c.name} had {c.pretrain_flops:.2g} pretraining FLOPs, which no encoder beside it had.")
        if {r.data for r in c.runs} - {r.data for r in ours}:
            out.append(f"{c.name} was pretrained on other data than the encoders beside it.")
        if len(c.runs) < max(len(d.runs) for d in rows):
            out.append(f"{c.name} has fewer pretraining runs ({len(c.runs)}) than the encoders beside it.")
    return out


def _of_runs(name: str, kind: str, runs: tuple[Run, ...], shape: str, spent: Mapping[tuple, float]) -> Contender:
    recipe = runs[0].recipe
    return Contender(name, kind, runs, recipe, shape, search_flops=spent.get((runs[0].model, runs[0].objective), 0.0))


def _refuse_other_objectives(groups: Mapping[str, tuple[Run, ...]]) -> None:
    """A U-Net or conv that was pretrained on something else never saw the map, and has no row."""
    for r in (runs[0] for runs in groups.values() if runs[0].objective != "supervised"):
        raise InputError(
            f"checkpoint={r.folder}: a {r.model} pretrained with objective={r.objective}; as a rival that saw the map "
            "it must be objective=supervised"
        )


def _check_image_net(path: Path) -> None:
    """InputError where the file does not hold torchvision's resnet34: better known before hours of work than after."""
    told = read_weights(path, "unet.weights").get("layer4.2.conv1.weight")
    if told is None or tuple(told.shape) != (512, 512, 3, 3):
        raise InputError(f"unet.weights={path}: not torchvision's resnet34; give its .pth or .safetensors, or null")


def _plus(c: Contender, extra: float) -> Contender:
    """The same rival with `extra` FLOPs on top of F."""
    return Contender(
        f"{c.name} + {flops(extra, digits=3)} FLOPs", c.kind, shape=c.shape, extra_flops=extra, weights=c.weights
    )


def _search_flops(folders: Sequence[str]) -> dict[tuple, float]:
    """(network, objective) -> FLOPs of the pretraining trials that were made for it."""
    out: dict[tuple, float] = {}
    for r in (r for runs in group_runs(folders).values() for r in runs):
        out[r.model, r.objective] = out.get((r.model, r.objective), 0.0) + r.flops
    return out


def _extras(groups: Sequence[tuple[Run, ...]], suite_size: int) -> tuple[list[float], list[float]]:
    """P/n for every distinct pretraining budget P and n = 1, suite size: those that are run, and those too large.

    What was pretrained here can be afforded again. What others spent cannot: up to EXTRA_LIMIT it is run.
    """
    given: list[float] = []
    large: list[float] = []
    for runs in (runs for runs in groups if runs):
        total = sum(r.flops for r in runs) / len(runs)
        for extra in (total / n for n in (1, suite_size) if math.isfinite(total)):
            out = large if runs[0].model == "published" and extra > EXTRA_LIMIT else given
            if not any(math.isclose(extra, e, rel_tol=SAME_FLOPS) for e in out):
                out.append(extra)
    return given, large


def _shape(run: Run) -> str:
    """The options of its network as JSON, without those that act in pretraining alone."""
    return _json(load_model(run.folder).options)


def _default_shape() -> str:
    anything = Spec({"s2": ("B02",)}, {"s2": 1}, 16, 10.0, {})
    return _json(Encoder.from_config(load_choice("encoder", "nano"), anything).options)


def _json(options: Mapping[str, Any]) -> str:
    if options.get("depth") == 0:  # what only a ViT has makes no other network
        options = {**options, "heads": 1, "mixer": "attention", "registers": 0}
    return json.dumps({k: v for k, v in sorted(options.items()) if k not in IN_PRETRAINING})


def _of_shapes(title: str, shapes: Sequence[str], without_vit: bool) -> dict[str, str]:
    """Shape -> name of the row, which tells what sets it apart; one alone needs no figures in its name."""
    every = [json.loads(s) | ({"depth": 0} if without_vit else {}) for s in shapes]
    if not without_vit:
        every = [o for o in every if o["depth"]] or [json.loads(_default_shape())]
    options = {s: json.loads(s) for s in map(_json, every)}
    keys = [k for k in every[0] if len({str(o.get(k)) for o in options.values()}) > 1]
    return {shape: " ".join([title, *(f"{k}={o.get(k)}" for k in keys)]) for shape, o in options.items()}


def _told_apart(title: str, names: Sequence[str]) -> dict[str, str]:
    """Group -> name of its row; several are told apart by what their runs' names tell."""
    return {n: title if len(names) == 1 else f"{title} ({n})" for n in names}
