"""The rows of a comparison: which contenders its kinds, runs and published encoders make, and which cannot be run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gfm_objectives.compare.contenders import KINDS, Contender
from gfm_objectives.compare.published import Published
from gfm_objectives.config import load_choice
from gfm_objectives.errors import InputError
from gfm_objectives.gain.pairing import SAME_FLOPS
from gfm_objectives.runs.checkpoint import load_encoder, load_model
from gfm_objectives.runs.finished import Run, group_runs

EXTRA_LIMIT = 1e16  # FLOPs beyond F that a U-Net is given for a published encoder; some minutes of an A100 a run


def contenders(
    kinds: Sequence[str],
    folders: Sequence[str],
    suite_size: int,
    weights: str | None,
    foreign: Sequence[Published] = (),
) -> list[Contender]:
    """The rows that `kinds` ask for, given the pretraining runs in `folders` and the encoders of others.

    weights: a file for the row unet_imagenet. `all` stands for every kind.
    """
    kinds = list(KINDS) if "all" in kinds else kinds
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"contenders: no kind {kind!r}; choose from all, {', '.join(KINDS)}")
    groups = group_runs(folders)
    vits = {n: runs for n, runs in groups.items() if runs[0].model == "vit"}
    rows: list[Contender] = []
    for kind in dict.fromkeys(kinds):
        if kind in ("pretrained", "frozen", "fresh_dense", "fresh_tokens"):
            suffix = "" if kind == "pretrained" else f" {kind.replace('_', ' ')}"
            shape = {n: _shape(load_encoder(runs[0].folder).options) for n, runs in vits.items()}
            rows += [Contender(name + suffix, kind, runs, shape[name]) for name, runs in vits.items()]
        elif kind in ("foreign", "foreign_frozen"):
            suffix = "" if kind == "foreign" else " frozen"
            rows += [Contender(p.name + suffix, kind, p.runs, p.encoder) for p in foreign]
        elif kind == "scratch":
            shapes = [_shape(load_encoder(r.folder).options) for runs in vits.values() for r in runs]
            names = _scratch_names(shapes or [_shape(load_choice("encoder", "nano"))])
            rows += [Contender(name, kind, encoder=shape) for shape, name in names.items()]
        elif kind == "unet_plus":
            given = _extras([*groups.values(), *(p.runs for p in foreign)], suite_size)[0]
            rows += [Contender(_plus(e), kind, extra_flops=e) for e in given]
        elif kind == "unet_map":
            unets = {n: runs for n, runs in groups.items() if runs[0].model == "unet"}
            shape = {n: json.dumps(load_model(runs[0].folder).options) for n, runs in unets.items()}
            rows += [Contender(name, kind, runs, shape[name]) for name, runs in unets.items()]
        elif kind == "unet_imagenet":
            if weights:
                rows.append(Contender("unet imagenet", kind, weights=weights))
        else:
            rows.append(Contender(kind, kind))
    if not rows:
        raise InputError("nothing to compare: give checkpoint=runs/<name>, encoder=, or contenders=scratch,unet")
    return rows


def not_run(
    kinds: Sequence[str], rows: Sequence[Contender], suite_size: int, foreign: Sequence[Published] = ()
) -> dict[str, str]:
    """Row -> why it was asked for and is not run. The report shows these rows too."""
    kinds = list(KINDS) if "all" in kinds else kinds
    there, out = {c.kind for c in rows}, {}
    if "unet_map" in kinds and "unet_map" not in there and any(r.model == "vit" for c in rows for r in c.runs):
        out["unet map"] = "checkpoint= holds no run of train.py objective=supervised encoder=unet"
    if "unet_imagenet" in kinds and "unet_imagenet" not in there:
        out["unet imagenet"] = "unet.weights= names no file"
    if "unet_plus" in kinds:
        for extra in _extras([p.runs for p in foreign], suite_size)[1]:
            out[_plus(extra)] = f"more than {EXTRA_LIMIT:.0e} FLOPs, which is as far as a U-Net follows published work"
    return out


def notes(rows: Sequence[Contender], foreign: Sequence[Published] = ()) -> list[str]:
    """What a reader must know of the pretrained rows: costs of published ones, and a U-Net of other means."""
    out = [p.note for p in foreign]
    vits = [r for c in rows for r in c.runs if r.model == "vit"]
    for c in (c for c in rows if c.kind == "unet_map" and vits):
        if not any(math.isclose(c.pretrain_flops, r.flops, rel_tol=SAME_FLOPS) for r in vits):
            out.append(f"{c.name} had {c.pretrain_flops:.2g} pretraining FLOPs, which no encoder beside it had.")
        if {r.data for r in c.runs} - {r.data for r in vits}:
            out.append(f"{c.name} was pretrained on other data than the encoders beside it.")
        if len(c.runs) < max(len(d.runs) for d in rows):
            out.append(f"{c.name} has fewer pretraining runs ({len(c.runs)}) than the encoders beside it.")
    return out


def _plus(extra: float) -> str:
    return f"unet+{extra:.3g}"


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


def _shape(options: Mapping[str, Any]) -> str:
    """The options of an encoder as JSON, without those that act in pretraining alone."""
    return json.dumps({k: v for k, v in sorted(options.items()) if k not in ("name", "band_dropout")})


def _scratch_names(shapes: Sequence[str]) -> dict[str, str]:
    """Shape -> name of the row, which tells what sets it apart; one alone needs no figures in its name."""
    options = {shape: json.loads(shape) for shape in dict.fromkeys(shapes)}
    keys = [k for k in next(iter(options.values())) if len({str(o.get(k)) for o in options.values()}) > 1]
    return {shape: " ".join(["scratch", *(f"{k}={o.get(k)}" for k in keys)]) for shape, o in options.items()}
