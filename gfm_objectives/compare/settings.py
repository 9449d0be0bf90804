"""The results folder: it holds runs of one choice of settings, and looks at the final world are counted beside it."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gfm_objectives import config, disk
from gfm_objectives.compare.bench import Bench
from gfm_objectives.errors import InputError
from gfm_objectives.runs.provenance import commit

FIXED_KEYS = ("finetune", "world", "precision", "unet", "labels")  # may not change within a folder
ONCE = {"labels": "random"}  # what was done before there was such a key


def check_settings(options: Mapping[str, Any], out: Path) -> None:
    """Refuse to mix runs of different settings in one results folder. One in which nothing ran binds nobody."""
    saved = out / "config.yaml"
    if not saved.exists() or not any((out / name).exists() for name in ("scores.csv", "trials.jsonl")):
        return
    before, now = (
        dict(config.leaves({k: o.get(k, ONCE.get(k)) for k in FIXED_KEYS}))
        for o in (config.read_yaml(saved), dict(options))
    )
    differ = [k for k in sorted(before.keys() | now) if before.get(k) != now.get(k)][:3]
    if differ:
        was, is_ = ([f"{k}={config.show(o.get(k))}" for k in differ] for o in (before, now))
        raise InputError(
            f"{out}: holds runs with {', '.join(was)}, and now it is {', '.join(is_)}; give the former, or another "
            "name=, or delete the folder"
        )


def count_final(out: Path, benches: Sequence[Bench]) -> None:
    """Every look at the final world is counted: after a few it is no longer unseen."""
    if not any(b.world == "final" for b in benches):
        return
    path = out.parent / "final_evaluations.csv"
    rows = list(csv.reader(path.read_text().splitlines())) if path.exists() else [["date", "name", "commit"]]
    entry = [out.name, commit()]
    if entry not in [r[1:] for r in rows]:  # a resumed evaluation is the same one
        rows.append([datetime.date.today().isoformat(), *entry])
        disk.write(path, "".join(",".join(r) + "\n" for r in rows))
    print(f"evaluations on the final world so far: {len(rows) - 1} ({path})")
