"""`gfm fit`: points in, a law with its intervals and a chart out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gfm_objectives import disk
from gfm_objectives.errors import InputError
from gfm_objectives.scaling import charts, optimum
from gfm_objectives.scaling.fitting import METHODS, Fit, Value, fit
from gfm_objectives.scaling.points import Points, read


def run(cfg: DictConfig) -> Path:
    """Fit what `cfg` (configs/fit.yaml) names, print it, write out= and its chart; returns the path of out=."""
    out = Path(cfg.out)
    if out.suffix != ".json":
        raise InputError(f"out={out}: is a JSON file, with its chart beside it; give a name that ends in .json")
    columns = {k: str(cfg[k]) for k in ("N", "D", "C") if cfg[k] != {"N": "parameters", "D": "tokens", "C": "flops"}[k]}
    points = read(cfg.points, cfg.of, columns, cfg.trunk)
    fits = [fit(points, cfg.law, method, cfg.resamples, cfg.seed) for method in METHODS]
    asked = [float(c) for c in cfg.at or ()]
    if asked and fits[0].law.inputs != ("N", "D"):
        raise InputError(f"at: the law {fits[0].law.formula} knows nothing of N and D, so it has no best of them")
    out.parent.mkdir(parents=True, exist_ok=True)
    written = describe(fits, points, asked)
    disk.write(out, json.dumps(written, indent=1, allow_nan=False) + "\n")
    chart = out.with_suffix(".svg")
    disk.write(chart, charts.of_fit(fits[0], cfg.name))
    print(told(fits, points, asked))
    print(f"{out}, {chart}")
    return out


def describe(fits: list[Fit], points: Points, asked: list[float]) -> dict[str, Any]:
    """fit.json. An interval's null is a side that the points do not bound; `refused` says what is not told, and why."""
    law = fits[0].law
    out: dict[str, Any] = {
        "schema": 1,
        "law": law.name,
        "formula": law.formula,
        "of": points.of,
        "inputs": {n: {"column": points.meaning[n], "span": list(fits[0].span(n))} for n in law.inputs},
        "points": len(points),
        "independent": len(set(points.trunks.tolist())),
        "level": 0.95,
        "fits": {f.method: {n: v.plain() for n, v in f.parameters().items()} for f in fits},
        "refused": [],
    }
    if law.inputs == ("N", "D"):
        out["flops_per_parameter_and_token"] = points.flops_per
        out["optimum"] = []
        try:
            out["optimum"] = [{k: _plain(v) for k, v in row.items()} for row in optimum.table(fits[0], asked)]
        except InputError as e:
            if asked:
                raise
            out["refused"].append(str(e))
    return out


def _plain(x: Value | float) -> Any:
    return x.plain() if isinstance(x, Value) else x


def told(fits: list[Fit], points: Points, asked: list[float]) -> str:
    """What was found, for a terminal."""
    law = fits[0].law
    where = ", ".join(f"{n} = {points.meaning[n]}" for n in law.inputs)
    groups = len(set(points.trunks.tolist()))
    lines = [f"{points.of} = {law.formula} over {where}: {len(points)} points, {groups} independent; 95 % intervals"]
    for f in fits:
        cells = [f"{n} {show(v)}" for n, v in f.parameters().items()]
        lines.append(f"  {f.method.replace('_', ' '):<14}" + "  ".join(cells))
    if law.inputs == ("N", "D"):
        try:
            lines += [f"  {line}" for line in optimum.words(fits[0], asked)]
        except InputError as e:
            lines.append(f"  no best N and D: {e}")
    return "\n".join(lines)


def show(v: Value) -> str:
    """1.02 [0.98, 1.05]; an open side is told as such."""
    low, high = (f"{x:.3g}" if abs(x) < float("inf") else "not bounded" for x in (v.low, v.high))
    return f"{v.value:.3g} [{low}, {high}]"
