"""The report: written from the store alone, honest about what is missing, readable in a terminal."""

import json
import shutil

import numpy as np
import pytest
import rich.console

from gfm_objectives import report
from gfm_objectives.errors import InputError
from gfm_objectives.report import pages, tables, words
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.scores import Score, Store

TASKS = {"landcover": 3, "flood": 2}
PNG = b"\x89PNG"


def fill(folder, seeds=5, fractions=(0.2, 1.0), synthetic=True):
    """A made-up comparison: masked_seg a little better than the U-Net, flood without the longer U-Net."""
    rng = np.random.default_rng(0)
    store = Store(folder)
    quality = {"masked_seg": 0.8, "scratch": 0.7, "unet": 0.72, "unet+2e13": 0.74, "map": 0.5}
    for task, k in TASKS.items():
        for fraction in fractions:
            for contender, q in quality.items():
                if (task, contender) == ("flood", "unet+2e13") or (contender == "map" and fraction < 1):
                    continue
                for seed in range(1 if contender == "map" else seeds):
                    cm = np.stack([rng.multinomial(400, np.where(np.eye(k), q, (1 - q) / (k - 1))[c] , 8)
                                   for c in range(k)], 1)  # fmt: skip
                    store.add(Score.measured(
                        cm, [str(i // 2) for i in range(8)], task=task, fraction=fraction, contender=contender,
                        seed=seed, val_miou=q, labels=int(50 * fraction), synthetic=synthetic, world="dev",
                        pretrain_flops=2e13 * (contender == "masked_seg"), parameters=1_350_000,
                        extra_flops=2e13 * (contender == "unet+2e13"), finetune_flops=1e12, seconds=12.0,
                        fingerprint="abc"))  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = fill(tmp_path_factory.mktemp("demo"))
    plateau = [{"task": t, "fraction": 1.0, "flops": f, "val_miou": 0.5} for t in TASKS for f in (1e11, 2e11)]
    (folder / "plateau.json").write_text(json.dumps(plateau))
    rng = np.random.default_rng(1)
    arrays = {}
    for task, k in TASKS.items():
        arrays[f"{task}/image"] = rng.random((2, 16, 16, 3), dtype=np.float32)
        arrays[f"{task}/label"] = rng.integers(-1, k, (2, 16, 16))
        for c in ("unet", "masked_seg"):
            arrays[f"{task}/pred/{c}"] = rng.integers(0, k, (2, 16, 16))
    np.savez(folder / "predictions.npz", **arrays)
    context = {
        "command": "python eval.py name=demo",
        "licenses": ["Labels: CC-BY."],
        "colors": {"flood": ["#888", "#00f"]},
    }
    (folder / "context.json").write_text(json.dumps(context))
    report.write(folder)
    return folder


def test_report_says_what_was_compared(folder):
    text = (folder / "report.md").read_text()
    head = text.split("## ")[0]
    for words_ in ("masked_seg (2e13 FLOPs, 1 run)", "landcover, flood", "**5 seeds**", "**Synthetic data**",
                   "python eval.py", "CC-BY"):  # fmt: skip
        assert words_ in head, words_
    assert "20 % of the labels" in text and "Break-even" in text and "Labels saved" in text


def test_cells_that_were_not_run_say_so(folder):
    summary = json.loads((folder / "gain.json").read_text())
    line = next(x for x in tables.scores(summary).splitlines() if x.startswith("| U-Net +2e13"))
    assert line.endswith("| not run | not run |")
    line = next(x for x in tables.gains(summary, 1.0).splitlines() if "n = 1 |" in x)
    assert "| not run |" in line and "(1 of 2 tasks)" in line and "†" in line


def test_figures_are_drawn(folder):
    names = {p.name for p in (folder / "figures").iterdir()}
    assert names == {"gains.png", "labels.png", "plateau.png", "predictions-landcover.png", "predictions-flood.png"}
    assert all((folder / "figures" / n).read_bytes()[:4] == PNG for n in names)
    text = (folder / "report.md").read_text()
    assert all(f"(figures/{n})" in text for n in names)


def test_few_seeds_real_data_and_nothing_else(tmp_path):
    path = report.write(fill(tmp_path, seeds=2, fractions=(1.0,), synthetic=False))
    text = path.read_text()
    assert "Synthetic" not in text and "interval not given (2 seeds)" in text and "Intervals need 5 seeds" in text
    assert "undecided" in text and not (tmp_path / "figures" / "labels.png").exists()


def test_change_tasks_have_their_f1(tmp_path):
    cm = np.array([[[80, 5], [5, 10]], [[0, 0], [0, 0]]])
    for seed, matrix in enumerate((cm, 2 * cm)):
        Store(tmp_path).add(
            Score.measured(matrix, None, task="oscd", fraction=1.0, contender="unet", seed=seed, labels=4)
        )
    assert "F1" not in report.write(tmp_path).read_text()
    (tmp_path / "context.json").write_text('{"change": ["oscd"]}')
    text = report.write(tmp_path).read_text()
    assert "F1 of the change class" in text and "| U-Net | 66.7 |" in text  # 2 x 10 / (20 + 5 + 5)


def test_without_pretrained_encoders(tmp_path):
    Store(tmp_path).add(
        Score.measured(np.array([[[5, 1], [1, 5]]]), None, task="t", fraction=1.0, contender="unet", seed=0)
    )
    assert "No pretrained encoder was run." in report.write(tmp_path).read_text()
    with pytest.raises(InputError, match="no finished runs"):
        report.write(tmp_path / "empty")


def test_terminal_table(folder):
    console = rich.console.Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(report.terminal_table(json.loads((folder / "gain.json").read_text())))
    console.file.close()
    text = console.export_text()
    assert "Test mIoU, points (5 seeds per cell, synthetic data)" in text
    assert "not run" in text and "headline U-Net, n = 1" in text and "[" in text.split("Gain")[1]


def test_the_yardstick_stands_beside_the_scores(tmp_path):
    """A table of what was measured, and whether it predicts: here the lower NLL has the higher mIoU."""
    for i, contender in enumerate(("mae", "latent", "temporal", "mix", "supervised")):
        for seed in range(2):
            good = 10 + i
            Store(tmp_path).add(
                Score.measured(
                    np.array([[[good, 5], [5, good]]]),
                    None,
                    task="t",
                    fraction=1.0,
                    contender=contender,
                    seed=seed,
                    pretrain_run=f"{contender}-s{seed}@abc",
                    pretrain_flops=1e12,
                )
            )
            health = {p + k: v for p in ("", "token_") for k, v in (("std", 0.5), ("cosine", 0.2), ("rankme", 8.0))}
            never = {"bands": {"map_nll": 1.75}, "random": {"map_nll": 3.0}}
            figures = {"places": "x", "map_nll": 2 - 0.1 * i, **health, **never}
            (tmp_path / "ledgers").mkdir(exist_ok=True)
            size = {"encoder": 2, "dense": 1, "objective": 1}
            Ledger(contender, seed, "", "", "", "nano", parameters=size, flops_spent=1e12, yardstick=figures).write(
                tmp_path / "ledgers" / f"{contender}-s{seed}.json"
            )
    Store(tmp_path).add(  # one more fine-tuning seed of a single run must not leave the others out
        Score.measured(
            np.array([[[10, 5], [5, 10]]]),
            None,
            task="t",
            fraction=1.0,
            contender="mae",
            seed=2,
            pretrain_run="mae-s0@abc",
            pretrain_flops=1e12,
        )
    )
    text = report.write(tmp_path).read_text()
    assert "## What the yardstick said in pretraining" in text and "| mae | 1e12 | 2 | 2.000 ± 0.000 |" in text
    broken = [line.split(" ")[1] for line in text.splitlines() if line.endswith("broken |")]
    assert sorted(broken) == ["latent", "mae", "temporal"]
    assert text.count("| mae (broken) |") >= 4 and "mix (broken)" not in text  # every other table says so too
    assert report.summarise(tmp_path)["broken"] == ["latent", "mae", "temporal"] and "between 5 contenders" in text
    assert "| map NLL | +1.00 [" in text


def test_words():
    assert words.flops(2e13) == "2e13" and words.flops(6.7e12) == "6.7e12" and words.flops(0) == "0"
    assert words.count(1_350_000) == "1.35 M" and words.percent(0.2) == "20 %"
    row = {"status": "ok", "gain": 0.021, "interval": [-0.004, 0.046], "miou": 0.5}
    assert words.gain(row) == "+2.1 [-0.4, 4.6]" and words.plus_minus(row) == "50.0 ± 2.5"
    assert words.gain({**row, "interval": "not given (3 seeds)"}) == "+2.1"


def test_pages_are_filled_from_results(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "results" / "demo")
    page = "Before.\n<!-- results/demo: {} -->\nan old table\n<!-- end -->\nAfter.\n"
    readme = tmp_path / "README.md"
    readme.write_text(page.format("headline 1.0") + page.format("resources"))
    assert [p.name for p in pages.reproduce(tmp_path)] == ["README.md"]
    text = readme.read_text()
    assert "an old table" not in text and text.count("Before.") == text.count("After.") == 2
    assert "| 100 % of the labels | landcover | flood |" in text and "pretraining FLOPs |" in text
    assert pages.reproduce(tmp_path) == []  # nothing changes twice
    for mark, told in (("headline 0.7", "0.2 or 1.0"), ("scoers", "no table `scoers`"), ("scores 1.0", "no table")):
        readme.write_text(page.format(mark))
        with pytest.raises(InputError, match=told):
            pages.reproduce(tmp_path)
        assert "an old table" in readme.read_text()
    readme.write_text(page.format("scores").replace("demo", "gone"))
    with pytest.raises(InputError, match="results/gone has no scores"):
        pages.reproduce(tmp_path)
    readme.unlink()
    with pytest.raises(InputError, match="checkout"):
        pages.reproduce(tmp_path)
