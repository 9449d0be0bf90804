"""Does leaving near-duplicates out pay at equal FLOPs? Pools of places, and the commands that compare them.

    python benchmarks/curation_experiment.py pools [PLACES] [SEEDS]     writes pools/*.parquet
    python benchmarks/curation_experiment.py plan [FLOPS] [SEEDS] [PLACES] [SECONDS]   prints the commands, and what
                                                                        they take where a run takes SECONDS
    python benchmarks/curation_experiment.py compare FOLDER [KEY=VALUE ...]   gfm eval with the settings that a
                                    comparison chose for each objective (FOLDER/tuning.json): nothing is searched

Three pools of PLACES entries for each seed (Earth) and redundancy of 80 and 98 %:
  redundant  1 - r of the places are different; their copies follow a power law (rank ** -1.5), so that 1 % of the
             places own most copies. Were they spread evenly, curation would be null by construction.
  curated    what gfm curate keeps of the redundant pool.
  clean      PLACES different places: what curation could at best restore.
A pool is larger than what one run consumes: nano's masked_seg saw 601 places in 2e11 FLOPs, so 1,000 do there, and
50,000 for 1e13.
Compared: masked_seg and mae, land cover, gain over scratch with intervals. docs/curation.md has what came of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from gfm_objectives.curation import keep
from gfm_objectives.curation.curating import curate
from gfm_objectives.curation.embeddings import Alike
from gfm_objectives.curation.examination import Limits
from gfm_objectives.curation.keep import KeepList, Rules
from gfm_objectives.data.kept import Curated
from gfm_objectives.data.synthetic import Synthetic

REDUNDANCIES = (0.8, 0.98)
POWER = 1.5
FOLDER = Path("pools")
DATA = {"redundancy": 0.0, "dates": 4}
OBJECTIVES = ("masked_seg", "mae")


def copies(places: int, redundancy: float, seed: int) -> np.ndarray:
    """(places,) numbers of the places shown: (1 - redundancy) * places different ones, in random order."""
    rng = np.random.default_rng([seed, round(100 * redundancy)])
    unique = max(1, round((1 - redundancy) * places))
    weight = np.arange(1, unique + 1) ** -POWER
    extra = rng.choice(unique, places - unique, p=weight / weight.sum())
    return rng.permutation(np.concatenate([np.arange(unique), extra]))


def write(ids: np.ndarray, source: Synthetic, name: str, seconds: float = 0.0) -> None:
    """A pool as a keep-list, in which a place stands as often as it is shown."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(ids)
    listed = KeepList(
        np.ones(n, bool), np.full(n, ""), np.full(n, -1), np.zeros(n, np.float32), Alike.nobody(n).cluster
    )
    about = {"data": "synthetic", "split": "pretrain", "fingerprint": source.fingerprint, "places": len(source)}
    path = FOLDER / f"{name}.parquet"
    keep.write(listed, [str(i) for i in ids], about | {"flops": 0.0, "seconds": seconds}, path)
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(0, "id", pa.array(ids, pa.int64())).replace_schema_metadata(table.schema.metadata), path
    )


def pools(places: int, seeds: int) -> None:
    for seed in range(seeds):
        source = Synthetic("pretrain", seed=seed, places={"pretrain": places}, **DATA)  # type: ignore[arg-type]
        write(np.arange(places), source, f"clean-{seed}")
        for r in REDUNDANCIES:
            ids = copies(places, r, seed)
            shown = Curated(source, ids, f"{r}", (0.0, 0.0), "")
            found = curate(shown, Limits(), Rules())
            write(ids, source, f"redundant{r:.0%}-{seed}".replace("%", ""))
            write(ids[found.kept.keep], source, f"curated{r:.0%}-{seed}".replace("%", ""), found.seconds)
            left, different = int(found.kept.keep.sum()), len(np.unique(ids[found.kept.keep]))
            top = np.sort(np.unique(ids, return_counts=True)[1])[::-1]
            owned = top[: max(1, len(top) // 100)].sum() / places
            print(
                f"seed {seed}, {r:.0%} redundant: {len(np.unique(ids)):,} different of {places:,}, the first 1 % own "
                f"{owned:.0%} of the pool; curated {left:,}, {different:,} different, {found.seconds:.0f} s"
            )


def plan(flops: str, seeds: int, places: int, seconds: float) -> None:
    every = ",".join(str(s) for s in range(seeds))
    names = ["clean", *(f"{k}{r:.0%}".replace("%", "") for r in REDUNDANCIES for k in ("redundant", "curated"))]
    for name in names:
        print(
            f"gfm train objective={','.join(OBJECTIVES)} seed={every} budget.flops={flops} data.redundancy=0 "
            f"data.places.pretrain={places} data.keep=pools/{name}-{{seed}}.parquet name={name}"
        )
    runs = ",".join(f"runs/{name}-{o}-s{s}" for name in names for o in OBJECTIVES for s in range(seeds))
    count = len(names) * len(OBJECTIVES) * seeds
    tuned = count + 2 * seeds
    print(f"# {count} runs of {flops} FLOPs x {seconds:g} s = {count * seconds / 60:.0f} min of one core")
    print(f"# then {tuned} runs of fine-tuning, and the search for their settings")
    print(
        f"python benchmarks/curation_experiment.py compare results/baseline_landcover checkpoint={runs} "
        f"suite.tasks=[landcover] fractions=[0.2] seeds={seeds} finetune.flops=5e11 contenders=[pretrained,scratch] "
        "name=curation"
    )


def words(name: str) -> set[str]:
    return {*name.replace("(", " ").replace(")", " ").split()}


def compare(folder: str, typed: list[str]) -> None:
    """eval.py with the words `typed`, each row fine-tuned as FOLDER chose for the row whose name says no more."""
    from gfm_objectives import cli
    from gfm_objectives.compare import comparison, contenders, trials
    from gfm_objectives.compare.search import Space
    from gfm_objectives.finetune import HParams

    rows = json.loads((Path(folder) / "tuning.json").read_text())
    chosen = {r["contender"]: HParams(**r["hparams"]) for r in rows}

    def space(row: contenders.Contender, *_: object) -> Space:
        return Space(chosen[max((n for n in chosen if words(n) <= words(row.name)), key=len)], {})

    contenders.Contender.space = space  # type: ignore[method-assign,assignment]
    comparison.Comparison.tune = lambda *_: None  # type: ignore[method-assign]
    trials.TrialLog.best = lambda _, job: job.hparams  # type: ignore[method-assign]
    raise SystemExit(cli.evaluate(typed))


if __name__ == "__main__":
    action, *rest = sys.argv[1:] or ["plan"]
    if action == "pools":
        pools(int(rest[0]) if rest else 20_000, int(rest[1]) if len(rest) > 1 else 5)
    elif action == "compare":
        compare(rest[0], rest[1:])
    else:
        flops, seeds, places, seconds = [*rest, *("1e12", "5", "20000", "50")[len(rest) :]]
        plan(flops, int(seeds), int(places), float(seconds))
