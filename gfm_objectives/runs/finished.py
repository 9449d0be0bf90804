"""Finished pretraining runs, found in their folders; those that differ in the seed alone are one contender."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gfm_objectives.config import leaves, read_yaml
from gfm_objectives.config.values import show
from gfm_objectives.errors import InputError
from gfm_objectives.models.continued import Continued
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.runs.checkpoint import load_model
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import decides, free_keys


@dataclass(frozen=True, slots=True)
class Run:
    """A finished pretraining run. identity names the folder and the weights in it; flops: its budget, which it met
    within half a percent, so that runs of one budget are one rival's match, and what was spent on the weights it began
    with; NaN where unknown; model: vit, conv (depth 0), unet, continued (by others, and further here) or published (by
    others: then `folder` is the file of weights); data: fingerprint of its corpus; earth: the number of the synthetic
    Earth it was pretrained on, None elsewhere; recipe: objective and what sets it apart; initial: whose weights it
    began with, '' = its own, and initial_flops: what had been spent on them."""

    folder: str
    identity: str
    seed: int
    flops: float
    model: str = "vit"
    data: str = ""
    earth: int | None = None
    objective: str = ""
    recipe: str = ""
    initial: str = ""
    initial_flops: float = 0.0


def recipe_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a training config that make it another recipe, dots between sections. An Earth asked for by the
    run's own seed is the one it would have had."""
    same = (*(k for k in free_keys(config) if k != "choices"), "seed", "device")
    own = dict(leaves(config)) | ({"data.seed": None} if _own_earth(config) else {})
    return {k: v for k, v in own.items() if decides(k, same) and (k, v) != ("init", None)}


def _own_earth(config: Mapping[str, Any]) -> bool:
    data = config.get("data") or {}
    return data.get("name") == "synthetic" and data.get("seed") == config.get("seed")


def group_runs(folders: Sequence[str]) -> dict[str, tuple[Run, ...]]:
    """Name -> runs, in order of seed. Runs whose configs differ in the seed alone are one contender, named after
    their network, where it is no ViT, and objective; where two share a name, what differs is appended."""
    groups: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
    for folder in dict.fromkeys(str(Path(f)) for f in folders):
        run, config = _read_run(folder)
        recipe = recipe_of(config)
        groups.setdefault(json.dumps(recipe, sort_keys=True, default=str), []).append((run, recipe))
    names: dict[str, list[str]] = {}
    for key, members in groups.items():
        seeds = [r.seed for r, _ in members]
        if len(set(seeds)) < len(seeds):
            raise InputError(
                f"checkpoint: {', '.join(r.folder for r, _ in members)} are the same recipe and seed twice"
            )
        recipe = members[0][1]
        own = str(recipe.get("objective.name") or Path(members[0][0].folder).name)
        model = members[0][0].model
        names.setdefault(own if model == "vit" else f"{model} {own}", []).append(key)
    out: dict[str, tuple[Run, ...]] = {}
    for name, keys in names.items():
        recipes = [groups[k][0][1] for k in keys]
        for key, recipe in zip(keys, recipes, strict=True):
            full = " ".join([name, *_differences(recipe, recipes)])
            members = sorted(groups[key], key=lambda m: m[0].seed)
            out[full] = tuple(replace(r, recipe=full) for r, _ in members)
    return out


def _differences(recipe: Mapping[str, Any], recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sets a recipe apart from the others of its name: lr=0.001, or the choice of a group where one differs. Files
    by their names alone, where these differ."""
    keys = [k for k in dict.fromkeys(k for r in recipes for k in r) if len({show(r.get(k)) for r in recipes}) > 1]
    chosen = [k for k in keys if k.startswith("choices.")]
    keys = chosen + [k for k in keys if k not in chosen and f"choices.{k.split('.')[0]}" not in chosen]
    return [f"{k.rsplit('.', 1)[-1]}={_short(show(recipe.get(k)), [show(r.get(k)) for r in recipes])}" for k in keys]


def _short(word: str, others: Sequence[str]) -> str:
    """A path without its folders and ending, where that still tells it from the others."""
    named = Path(word).stem if "/" in word or Path(word).suffix in (".yaml", ".yml") else word
    return named if named not in {Path(o).stem for o in others if o != word} else word


def identity(folder: Path) -> str:
    """What names a run's folder and the weights in it."""
    digest = hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()[:8]
    return f"{folder.name}@{digest}"


def _read_run(folder: str) -> tuple[Run, dict[str, Any]]:
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"checkpoint={folder}: no such folder; give a run folder such as runs/demo")
    if not (path / "ledger.json").exists():
        raise InputError(f"checkpoint={folder}: no ledger.json in it: not a run folder, or the run has not finished")
    ledger = Ledger.read(path / "ledger.json")
    model = load_model(folder)  # whether it can be read is better known before hours of work than after
    config = read_yaml(path / "config.yaml") if (path / "config.yaml").exists() else {"objective": {"name": path.name}}
    if isinstance(model, Encoder):
        kind = "vit" if model.depth else "conv"
    else:
        kind = "continued" if isinstance(model, Continued) else "unet"
    before = float("nan") if ledger.flops_initial is None else ledger.flops_initial
    flops = (ledger.flops_budget or ledger.flops_spent) + before
    data = config.get("data", {})
    number = data.get("seed")
    earth = None if data.get("name") != "synthetic" else ledger.seed if number is None else int(number)
    run = Run(
        folder,
        identity(path),
        ledger.seed,
        flops,
        kind,
        ledger.data_fingerprint,
        earth,
        objective=ledger.objective,
        initial=ledger.initial,
        initial_flops=before,
    )
    return run, config
