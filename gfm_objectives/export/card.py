"""The card of what is exported: what it is, of what it was made and for how much, what it is worth and not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gfm_objectives import disk
from gfm_objectives.config import read_yaml
from gfm_objectives.errors import InputError
from gfm_objectives.metrics import METRICS
from gfm_objectives.runs.finished import identity
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.segmenter import Card
from gfm_objectives.scores import Store


def of_segmenter(card: Card, exports: Sequence[Mapping[str, Any]]) -> str:
    """README.md of a fine-tuned model."""
    p, task = card.provenance, card.task
    run = p.get("pretrained")
    lines = [
        f"# {task['name']}: {p.get('contender', 'model')}",
        "",
        f"- Task: {task['kind']}, {', '.join(card.legend.classes)}.",
        *_reads(card),
        f"- Trained on {p.get('labels', '?')} labelled places, {p.get('finetune_flops', 0):.3g} FLOPs, seed "
        f"{p.get('seed')}, {p.get('date', '')}, commit {p.get('commit', '')[:12] or 'unknown'}.",
    ]
    if run:
        lines.append(
            f"- Pretrained: {run['recipe'] or run['objective']} ({run['identity']}), {run['flops']:.3g} FLOPs."
        )
    if p.get("why"):
        lines.append(f"- Chosen because: {p['why']}.")
    lines += ["", "| | " + " | ".join(METRICS[m].title for m in card.scores.get("test", {})) + " |"]
    lines.append("| --- |" + " ---: |" * len(card.scores.get("test", {})))
    for split, figures in card.scores.items():
        lines.append(f"| {split} | " + " | ".join(f"{METRICS[m].scale * v:.4g}" for m, v in figures.items()) + " |")
    lines += ["", *_calibration(card), *_limits(card), "", *_exports(exports)]
    return "\n".join(lines) + "\n"


def of_encoder(
    folder: Path,
    ledger: Ledger,
    bands: Mapping[str, Sequence[str]],
    exports: Sequence[Mapping[str, Any]],
    results: Path | None = None,
) -> str:
    """README.md of a pretrained encoder; results: of a comparison that has measured it. InputError where it has not."""
    data = _data(folder)
    worth = gains(folder, results) if results else []
    worth = worth or ["What it is worth on a task its loss does not tell: compare it (gfm eval checkpoint=...)"]
    made = "made-up data: not for real images alone; " if data.get("name") == "synthetic" else ""
    lines = [
        f"# {folder.name}: encoder pretrained by {ledger.objective}",
        "",
        *(f"- Reads {s}: {', '.join(b)}." for s, b in bands.items()),
        f"- Pretraining: {ledger.flops_spent:.3g} FLOPs, {ledger.samples} samples, seed {ledger.seed}, data "
        f"{ledger.data_fingerprint}, commit {ledger.commit[:12] or 'unknown'}.",
        f"- Parameters: {sum(ledger.parameters.values()):,}.",
        *([f"- Data: {data['license']}."] if data.get("license") else []),
        *(f"- {line}." for line in worth),
        f"- Not for: {made}places, seasons or sensors it has not seen, without a test there.",
        "",
        *_exports(exports),
    ]
    return "\n".join(lines) + "\n"


def gains(folder: Path, results: Path) -> list[str]:
    """What a comparison has measured of the run in `folder`: gain over the best from scratch and over the U-Net, with
    all labels that were tried and the whole of pretraining charged to one task."""
    if not (results / "gain.json").is_file():
        raise InputError(f"results={results}: no gain.json in it; give a results folder of gfm eval")
    about = disk.read_json(results / "gain.json", f"gfm report {results} writes it again", ("gains", "metrics"))
    mine = {s.contender for s in Store(results).load() if s.pretrain_run == (run := identity(folder))}
    rows = [g for g in about["gains"] if g["contender"] in mine and g["n"] == 1 and g["status"] == "ok"]
    if not rows:
        raise InputError(f"results={results}: has no gain of {run}; give a comparison with checkpoint={folder}")
    most = max(g["fraction"] for g in rows)
    out = []
    for g in rows:
        if g["fraction"] != most or g["against"] not in ("best", "unet"):
            continue
        metric, ends = about["metrics"][g["task"]], g["interval"]
        between = ends if isinstance(ends, str) else " to ".join(f"{metric['scale'] * x:+.2f}" for x in ends)
        told = f"{metric['title']} {metric['scale'] * g['gain']:+.2f} ({between}; {g['verdict']})"
        out.append(f"{g['task']}, {g['contender']}: {told} over {g['versus']}, {g['seeds']} seeds")
    return list(dict.fromkeys(out))


def _data(folder: Path) -> Mapping[str, Any]:
    """How the run's config describes its data; nothing where it has none."""
    path = folder / "config.yaml"
    return (read_yaml(path) if path.is_file() else {}).get("data") or {}


def _reads(card: Card) -> list[str]:
    out = []
    for sensor, bands in card.spec.bands.items():
        level = f", level {card.levels[sensor]}" if sensor in card.levels else ""
        out.append(
            f"- Reads {sensor}{level}: {', '.join(bands)}; {card.spec.dates[sensor]} dates at {card.spec.gsd:g} m."
        )
    return out


def _calibration(card: Card) -> list[str]:
    c = card.calibration
    if not c:
        return []
    errors = f"{c['ece_before']:.3f}, with the temperature {c['temperature']:.3g} {c['ece_after']:.3f}"
    return [f"Expected calibration error on test {errors}."]


def _limits(card: Card) -> list[str]:
    p = card.provenance
    made = "Trained on made-up data: not for real images." if p.get("synthetic") else ""
    licence = f"Data: {p['license']}." if p.get("license") else ""
    return [
        "",
        " ".join(filter(None, [made, licence, "Not for places, seasons or sensors it was not tested on."])),
    ]


def _exports(exports: Sequence[Mapping[str, Any]]) -> list[str]:
    if not exports:
        return []
    rows = [f"| {e['to']} | {e['files']} | {e['checked']} |" for e in exports]
    return ["| export | files | checked |", "| --- | --- | --- |", *rows]
