"""The report: written from the store alone, honest about what is missing, readable in a terminal."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rich.console

from gfm_objectives import report
from gfm_objectives.errors import InputError
from gfm_objectives.report import confusions, figures, pages, tables, verdict, words, yardstick
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.scores import Score, Store

TASKS = {"landcover": 3, "flood": 2}
RESULTS = Path(__file__).resolve().parent.parent / "results"
PNG = b"\x89PNG"
ROWS = {  # name -> quality, role, kind, pretraining FLOPs, extra FLOPs
    "masked_seg": (0.80, "pretrained", "pretrained", 2e13, 0.0),
    "U-Net pretrained on the map": (0.82, "saw_map", "unet_map", 2e13, 0.0),
    "ViT from scratch": (0.70, "scratch", "scratch", 0.0, 0.0),
    "conv": (0.75, "scratch", "conv", 0.0, 0.0),
    "U-Net": (0.72, "scratch", "unet", 0.0, 0.0),
    "U-Net + 2e13 FLOPs": (0.74, "scratch", "unet", 0.0, 2e13),
    "map, recoded": (0.50, "untrained", "map", 0.0, 0.0),
}


def fill(folder, seeds=5, fractions=(0.2, 1.0), synthetic=True):
    """A made-up comparison: masked_seg better than what is from scratch, flood without the longer U-Net."""
    rng = np.random.default_rng(0)
    store = Store(folder)
    for task, k in TASKS.items():
        for fraction in fractions:
            for name, (q, role, kind, pretraining, extra) in ROWS.items():
                if (task, extra) == ("flood", 2e13) or (role == "untrained" and fraction < 1):
                    continue
                for seed in range(1 if role == "untrained" else seeds):
                    cm = np.stack([rng.multinomial(400, np.where(np.eye(k), q, (1 - q) / (k - 1))[c], 8)
                                   for c in range(k)], 1)  # fmt: skip
                    store.add(Score.measured(
                        cm, [f"demo:{i // 2}" for i in range(8)], task=task, fraction=fraction, contender=name,
                        seed=seed, role=role, kind=kind, metric="miou", val=q, labels=int(50 * fraction),
                        synthetic=synthetic, world="dev", recipe="masked_seg" if role == "pretrained" else "",
                        shape="nano" if kind in ("pretrained", "scratch") else "", pretrain_flops=pretraining,
                        pretrain_run=f"{kind}-s{seed}" if pretraining else "", search_flops=pretraining / 2,
                        parameters=1_350_000, extra_flops=extra, finetune_flops=1e12, epochs=0.5 + 9 * (kind != "conv"),
                        seconds=12.0, fingerprint="abc"))  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = fill(tmp_path_factory.mktemp("demo"))
    about = {"contender": "U-Net", "fraction": 1.0}
    plateau = [{**about, "task": t, "flops": f, "val": 0.5, "chosen": f < 2e11} for t in TASKS for f in (1e11, 2e11)]
    (folder / "plateau.json").write_text(json.dumps(plateau))
    rng = np.random.default_rng(1)
    arrays = {}
    for task, k in TASKS.items():
        arrays[f"{task}/image"] = rng.random((2, 16, 16, 3), dtype=np.float32)
        arrays[f"{task}/label"] = rng.integers(-1, k, (2, 16, 16))
        for c in ("U-Net", "masked_seg"):
            arrays[f"{task}/pred/{c}"] = rng.integers(0, k, (2, 16, 16))
    np.savez(folder / "predictions.npz", **arrays)
    budgets = [{"task": t, "fraction": f, "flops": 1e12, "plateau": f == 1} for t in TASKS for f in (0.2, 1.0)]
    context = {
        "command": "python eval.py name=demo",
        "licenses": ["Labels: CC-BY."],
        "budgets": budgets,
        "classes": {"flood": ["dry", "wet"]},
        "colors": {"flood": ["#888", "#00f"]},
    }
    (folder / "context.json").write_text(json.dumps(context))
    report.write(folder)
    return folder


@pytest.fixture
def summary(folder):
    return json.loads((folder / "gain.json").read_text())


def test_report_says_what_was_compared(folder):
    text = (folder / "report.md").read_text()
    head = text.split("## ")[0]
    for words_ in ("masked_seg (2e13 FLOPs, 5 runs)", "landcover, flood", "**5 seeds**", "**Synthetic data**",
                   "python eval.py", "CC-BY", "less than one epoch** of the labelled places of: conv (l"):  # fmt: skip
        assert words_ in head, words_
    assert "20 % of the labels" in text and "Break-even" in text and "Labels saved" in text
    assert "| flood, iou | labels | dry | wet |" in text and "| flood, f1 |" in text


def test_below_the_plateau_the_table_is_called_speed(folder):
    text = (folder / "report.md").read_text()
    assert "**Speed, not gain**: F is 1e12 FLOPs and the plateau was seen in 2 of 4 cells" in text
    assert "### 20 % of the labels: speed" in text and "### 100 % of the labels: gain" in text


def test_it_says_in_words_who_is_best_and_which_knowledge_pays(folder):
    text = (folder / "report.md").read_text().split("## In short")[1].split("## ")[0]
    assert text.count("the best row is **U-Net pretrained on the map** (that saw the map)") == 2
    assert "est pretrained: masked_seg" in text and "est from scratch: conv" in text
    assert "seeing the map (U-Net pretrained on the map) is worth +" in text
    values = {"pretrained": ("p", 0.6), "saw_map": ("m", 0.7), "scratch": ("s", 0.5)}
    roles = {k: {"contender": c, "value": v} for k, (c, v) in values.items()}
    told = verdict.which_pays(roles, 100)
    assert "seeing the map (m) is worth +20.0 over what is from scratch (s)" in told
    assert "the best pretrained (p) adds -10.0 to the better of the two" in told
    assert "cannot be told: no row that saw the map" in verdict.which_pays(
        {k: roles[k] for k in ("pretrained", "scratch")}, 1
    )


def test_cells_that_were_not_run_say_so(summary):
    line = next(x for x in tables.scores(summary).splitlines() if x.startswith("| U-Net + 2e13"))
    assert line.endswith("| not run | not run |")


def test_every_gain_names_its_rival(summary):
    lines = [x for x in tables.gains(summary, 1.0).splitlines() if x.startswith("| masked_seg")]
    best = next(x for x in lines if "best from scratch, n = 1" in x)
    assert "(conv)" in best and "landcover" not in best.split("|")[1]
    assert {x.split("|")[2].strip() for x in lines} >= {
        "U-Net at F",
        "same network from scratch",
        "best that saw the map",
    }
    head = tables.gains(summary, 1.0).splitlines()[0]
    for column in ("mean without the best task", words.TASKS, "median", "with search"):
        assert column in head


def test_figures_are_drawn(folder):
    names = {p.name for p in (folder / "figures").iterdir()}
    of_tasks = {f"{kind}-{task}.png" for kind in ("predictions", "confusion") for task in TASKS}
    assert names == {"gains.png", "labels.png", "plateau.png"} | of_tasks
    assert all((folder / "figures" / n).read_bytes()[:4] == PNG for n in names)
    text = (folder / "report.md").read_text()
    assert all(f"(figures/{n})" in text for n in names)


@pytest.mark.parametrize("name", ["budgets_landcover", "final_lp_ft"])
def test_no_title_and_no_legend_sticks_out_of_the_gains(name):
    stored = json.loads((RESULTS / name / "gain.json").read_text())
    figure = figures.gains(stored, {})
    figure.draw_without_rendering()
    for part in (figure._suptitle, *figure.legends):
        box = part.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_no_panel_no_picture(summary, tmp_path):
    own = [g for g in summary["gains"] if g["against"] == "same"]
    assert any(g["status"] == "ok" for g in own)
    assert "gains" in figures.draw(summary, [], tmp_path / "all", {})
    assert "gains" not in figures.draw({**summary, "gains": own}, [], tmp_path / "own", {})


def test_few_seeds_real_data_and_nothing_else(tmp_path):
    path = report.write(fill(tmp_path, seeds=2, fractions=(1.0,), synthetic=False))
    text = path.read_text()
    assert "Synthetic" not in text and "Intervals need 5 seeds" in text and "F was set by hand" in text
    assert "undecided" in text and not (tmp_path / "figures" / "labels.png").exists()


def test_regression_is_reported_in_its_own_unit(tmp_path):
    """Root mean square errors: less is better, a gain is what was taken off, and no points."""
    for name, role, kind, error in (("mae", "pretrained", "pretrained", 2.0), ("U-Net", "scratch", "unet", 3.0)):
        for seed in range(5):
            e = error + 0.01 * seed
            moments = np.array([[10.0, 50.0, 400.0, 0.0, 10 * e, 10 * e * e]] * 3)
            Store(tmp_path).add(Score.measured(
                moments, ["h:1", "h:2", "h:3"], task="height", fraction=1.0, contender=name, seed=seed, role=role,
                kind=kind, metric="rmse", val=error, labels=9, pretrain_flops=1e12 * (role != "scratch")))  # fmt: skip
    text = report.write(tmp_path).read_text()
    line = next(x for x in text.splitlines() if x.startswith("| mae | U-Net at F"))
    assert "**+1 [" in line
    assert "| mae | 2.02 ± " in text and "RMSE" in text


def test_without_pretrained_encoders(tmp_path):
    Store(tmp_path).add(
        Score.measured(
            np.array([[[5, 1], [1, 5]]]),
            ["a"],
            task="t",
            fraction=1.0,
            contender="U-Net",
            seed=0,
            role="scratch",
            kind="unet",
            metric="miou",
        )
    )
    text = report.write(tmp_path).read_text()
    assert "the best row is **U-Net**" in text and "cannot be told" in text
    with pytest.raises(InputError, match="no finished runs"):
        report.write(tmp_path / "empty")


def test_terminal_table(summary):
    console = rich.console.Console(width=240, record=True, file=open("/dev/null", "w"))
    console.print(report.terminal_table(summary))
    console.file.close()
    text = console.export_text()
    assert "Test scores (5 seeds per cell, synthetic data)" in text
    assert "not run" in text and "best from scratch, n = 1" in text and "[" in text.split("Gain")[1]


def ledger(contender, seed, places, **figures):
    health = {p + k: v for p in ("", "token_") for k, v in (("std", 0.5), ("cosine", 0.2), ("rankme", 8.0))}
    never = {"bands": {"map_nll": 1.75, "date_nll": 1.0}, "random": {"map_nll": 3.0, "date_nll": 1.2}}
    size = {"stem": 1, "vit": 1, "way_back": 1, "objective": 1}
    figures = {"places": places, **figures, **health, **never}
    return Ledger(contender, seed, "", "", "", "nano", parameters=size, flops_spent=1e12, yardstick=figures)


def test_the_yardstick_stands_beside_the_scores(tmp_path):
    """A table of what was measured, and whether it predicts: here the lower NLL has the higher mIoU."""

    def add(contender, seed, good, run):
        Store(tmp_path).add(Score.measured(
            np.array([[[good, 5], [5, good]]]), ["a"], task="t", fraction=1.0, contender=contender, seed=seed,
            role="pretrained", kind="pretrained", metric="miou", recipe=contender, pretrain_run=run,
            pretrain_flops=1e12))  # fmt: skip

    (tmp_path / "ledgers").mkdir()
    for i, contender in enumerate(("mae", "latent", "temporal", "mix", "supervised")):
        for seed in range(2):
            add(contender, seed, 10 + i, f"{contender}-s{seed}@abc")
            own = ledger(contender, seed, f"earth {seed}", map_nll=2 - 0.1 * i, date_nll=1.1)
            own.write(tmp_path / "ledgers" / f"{contender}-s{seed}@abc.json")
    add("mae", 2, 10, "mae-s0@abc")  # one more fine-tuning seed of a single run must not leave the others out
    text = report.write(tmp_path).read_text()
    assert "## What the yardstick said in pretraining" in text and "| mae | 1e12 | 2 | 2.000 ± 0.000 |" in text
    assert "broken" not in text, "what was measured is said, not judged"
    said = {line.split(" ")[1]: line.split("|")[-2].strip() for line in text.splitlines() if "no more than" in line}
    assert (
        said["mae"] == "no more than its bands of: map, next date"
        and said["mix"] == "no more than its bands of: next date"
    )
    assert "between 5 contenders" in text and "| map NLL | +1.00 [" in text


def test_runs_of_one_earth_each_are_one_table_and_other_places_another():
    ours = {c: [ledger(c, s, f"earth {s}", map_nll=1.0) for s in range(3)] for c in ("mae", "mix")}
    text = yardstick._tables(ours | {"jepa": [ledger("jepa", 0, "elsewhere", map_nll=1.0)]})
    assert text.count("| contender | C |") == 2 and text.count("| mae | 1e12 | 3 |") == 1


def test_words():
    assert words.flops(2e13) == "2e13" and words.flops(6.7e12) == "6.7e12" and words.flops(0) == "0"
    assert words.count(1_350_000) == "1.35 M" and words.percent(0.2) == "20 %"
    row = {"status": "ok", "gain": 0.021, "interval": [-0.004, 0.046], "value": 0.5}
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
    assert "| 100 % of the labels | landcover | flood |" in text and "pretraining FLOPs, P |" in text
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


def test_confusions_are_of_the_rows_that_validation_prefers(folder):
    scores = Store(folder).load()
    rows = confusions.preferred(scores, "landcover")
    assert [(r[0].contender, {s.fraction for s in r}, len(r)) for r in rows] == [
        ("masked_seg", {1.0}, 5), ("conv", {1.0}, 5)]  # fmt: skip
    first, second = (ax for ax in confusions.confusions(rows).axes)
    counted = np.sum([s.stats.sum(0) for s in rows[0]], 0)
    share = counted / counted.sum(1, keepdims=True)
    assert np.allclose(first.images[0].get_array(), share) and share[0, 0] > 0.7  # rows are the truth
    assert first.get_title(loc="left").startswith("masked_seg") and second.get_title(loc="left").startswith("conv")
    only = [s for s in scores if s.role == "untrained"]
    assert [r[0].contender for r in confusions.preferred(only, "landcover")] == ["map, recoded"]
    assert confusions.preferred(only, "nowhere") == []


def test_a_class_without_pixels_has_an_empty_row():
    cm = np.array([[[3, 1], [0, 0]]])
    lone = Score.measured(
        cm, None, task="t", fraction=1.0, contender="c", seed=0, role="scratch", kind="unet", metric="miou"
    )
    (ax,) = confusions.confusions([[lone]], ["land", "water"]).axes
    share = np.asarray(ax.images[0].get_array().filled(np.nan))
    assert share[0].tolist() == [0.75, 0.25] and np.isnan(share[1]).all()
