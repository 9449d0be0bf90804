"""The benchmarks' own parts: FLOPs counted, turns taken, tables and the page made of their files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import budgets
import common
import crossover
import finetuning
import gpu
import gpu_study
import labels
import loops
import page
import peers
import pytest
import scene
import scene_peers
import torch
from torch import nn

from gfm_objectives.data.windows import sliding
from gfm_objectives.runs.segmenter import load_segmenter

ROOT = Path(__file__).resolve().parent.parent


def test_flops_are_those_of_products():
    layer, x = nn.Linear(6, 5), torch.randn(7, 6)
    assert common.counted(lambda: layer(x).sum()) == 2 * 2 * 7 * 6 * 5, "forward, and the weight's gradient"
    seen = x.clone().requires_grad_()
    assert common.counted(lambda: layer(seen).square().sum()) == 3 * 2 * 7 * 6 * 5


def test_plain_mae_costs_what_it_should():
    """By hand: patches of all cells, blocks of width D on a quarter, of D / 2 on all, pixels of what is hidden."""
    model = peers.Plain(32, 1, 2)
    images = torch.randn(2, 10, peers.SIZE, peers.SIZE)
    n, k, d, out = peers.CELLS, peers.CELLS // 4, 32, 640

    def block(tokens, width):
        return 2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width

    once = 2 * k * d * d // 2 + block(k, d) + peers.DECODER * block(n, d // 2) + 2 * (n - k) * d // 2 * out
    first = 2 * 2 * n * out * d  # no gradient of the images
    assert common.counted(lambda: model(images)) == 2 * (3 * once + first)
    model(images).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_ours_hides_and_asks_as_the_peers_do():
    images = torch.randn(2, 10, peers.SIZE, peers.SIZE)
    side = peers.Side("ours", "nano", images)
    (variant,) = side.model.variants()
    mask = side.model.mask(peers.batch_of(images), variant)
    assert mask.keep.shape == (2, peers.CELLS // 4)
    assert mask.hidden.sum() == 2 * peers.CELLS * 3 // 4
    assert side.step() == 2


def test_the_plain_model_learns_in_our_loop(tmp_path):
    source, model = finetuning.Noise(), peers.Plain(32, 1, 2)
    before = copy.deepcopy(model)
    flops = loops.flops_of(loops.Theirs(copy.deepcopy(model), source), source, 4)
    assert flops == common.counted(lambda: before(torch.randn(4, 10, peers.SIZE, peers.SIZE))) / 4
    before.zero_grad()
    side = loops.Ours(loops.Theirs(model, source), flops, loops.Held(source), tmp_path, 2, 4)
    assert side() == 8 and side.run.budget.spent == 8 * flops
    moved = [n for (n, p), q in zip(model.named_parameters(), before.parameters(), strict=True) if not p.equal(q)]
    assert moved == [n for n, p in model.named_parameters() if p.requires_grad]
    assert loops.PlainLoop(model, [{"image_sentinel2": torch.randn(10, 64, 64)}] * 9, 3, 4, alike=True)() == 12


def test_lightly_loss_reaches_all_of_it():
    pytest.importorskip("lightly", reason="NOT TESTED: lightly; install the extra bench")
    model = peers.Lightly(32, 1, 2)
    model(torch.randn(2, 10, peers.SIZE, peers.SIZE)).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == ["backbone.mask_token"]


def test_sides_take_turns_and_ratios_pair_rounds():
    order = []
    sides = {name: lambda name=name: order.append(name) or 4 for name in "ab"}
    found = common.alternate(sides, 3)
    assert "".join(order) == "ab" + "abbaab"
    assert len(found["a"].cpu) == len(found["a"].wall) == 3
    one, other = common.Rounds(4, cpu=[1.0, 2.0, 9.0]), common.Rounds(8, cpu=[4.0, 4.0, 9.0])
    assert common.ratio(one, other, "cpu") == 1.0 and one.rate("cpu") == 2.0


def test_words():
    assert common.words(["batch=3"], batch=2, device="cpu") == {"batch": 3, "device": "cpu"}
    with pytest.raises(SystemExit, match=r"bach=3: choose from batch=2"):
        common.words(["bach=3"], batch=2)


def test_table_aligns_numbers_and_leaves_gaps():
    rows = [{"side": "a|b", "x": 1.234}, {"side": "c", "x": 1234.5, "more": 3}]
    assert common.table(rows).splitlines() == [
        "| side | x | more |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1.23 |  |",
        "| c | 1,234 | 3 |",
    ]
    assert [common.cell(v) for v in (0.0, 0.012, 0.5, 12.34, None, "k")] == ["0.00", "0.012", "0.50", "12.3", "", "k"]


def test_page_prints_every_file_of_both_folders(tmp_path, capsys):
    out = tmp_path / "benchmarks"
    common.write("steps", "Steps", "python x", {"tiny": [{"k": 7}]}, ["Seven."], folder=out)
    common.write("peers", "Peers", "python y", {"s": [{"k": 8}]}, folder=out)
    (tmp_path / "gpu").mkdir()
    whose = {"device": "H100", "versions": {"torch": "9"}, "sections": {"matrix": [{"n": 1, "ms": 2.5}], "late": []}}
    (tmp_path / "gpu" / "steps.json").write_text(json.dumps(whose))
    text = page.page(tmp_path)
    assert text.index("## Peers") < text.index("## Steps") < text.index("# On GPUs") < text.index("### matrix")
    for words in ("`python x`", "- Seven.", "| 7 |", "H100, torch 9.", "| 1 | 2.50 |", "### late\n\nNot run."):
        assert words in text, words


def test_page_says_what_was_measured_on_another_machine(tmp_path):
    """Of CPUs among themselves, and of GPUs; the number of threads makes no other machine."""
    about = {"versions": {}, "sections": {"a": [{"n": 1}]}}
    for folder, name, device, date in (
        ("benchmarks", "steps", "EPYC x 1 threads", "2026-11-02"),
        ("benchmarks", "peers", "EPYC x 2 threads", "2026-11-03"),
        ("benchmarks", "inputs", "Xeon x 1 threads", "2026-10-30"),
        ("gpu", "one", "H100", "2026-11-01"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.json").write_text(json.dumps(about | {"device": device, "date": date}))
    parts = {part.split("\n")[0]: part for part in page.page(tmp_path).split("\n## ")[1:]}
    marked = "**Measured on another machine than what is newest on this page (EPYC, 2026-11-03): Xeon, 2026-10-30.**"
    assert [name for name, part in parts.items() if "another machine" in part] == ["inputs"]
    assert marked in parts["inputs"]


def test_a_kill_leaves_whole_json(tmp_path, monkeypatch):
    """Rows of before, where it comes while the new ones are written."""
    path = tmp_path / "a.json"
    common.keep(path, {"rows": [1]})

    def killed(self, text):
        with self.open("w") as file:
            file.write(text[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        common.keep(path, {"rows": [1, 2]})
    assert json.loads(path.read_text()) == {"rows": [1]}
    shop = gpu.Page(tmp_path / "b.json", torch.device("cpu"), 0.0, {"device": "c"})
    monkeypatch.undo()
    shop.add("speed", {"n": 1})
    assert json.loads((tmp_path / "b.json").read_text()) == {"device": "c", "sections": {"speed": [{"n": 1}]}}


def test_page_in_the_docs_is_that_of_the_results():
    assert page.PAGE.read_text() == page.page(ROOT / "results"), "python benchmarks/page.py"


def test_a_peer_maps_the_scene_in_place(tmp_path):
    """torchgeo's grid begins at the bottom: its windows are put where they were read."""
    scene.write_scene(tmp_path / "s.tif", 128)
    scene.write_model(tmp_path / "m", 64)
    network, (x, valid) = load_segmenter(tmp_path / "m").network, scene_peers.read(tmp_path / "s.tif")
    assert (~valid).sum() == 16 * 16 and not valid[:16, :16].any()
    with torch.inference_mode():
        classes, p = scene_peers.torchgeo(network, tmp_path / "s.tif", 64)
        wanted = sliding(network, scene_peers.batch(x[None], valid[None]), 64).softmax(0)
    assert (classes == wanted.argmax(0)).float().mean() > 0.999 and (p - wanted.amax(0)).abs().max() < 1e-4


def test_rows_of_scenes_are_replaced_and_joined(tmp_path):
    for overlap, extra in ((0.25, {"a": 1}), (0.0, {"a": 2}), (0.25, {"a": 3}), (0.25, {"b": 4})):
        scene.keep(scene.SEAMS, {"pixels a side": 64, "overlap": overlap, **extra}, tmp_path)
    rows = json.loads((tmp_path / "scene.json").read_text())["sections"][scene.SEAMS]
    assert [(r["overlap"], r["a"], r.get("b")) for r in rows] == [(0.25, 3, 4), (0.0, 2, None)]


def test_the_gpu_script_runs_in_small_on_a_cpu(tmp_path: Path) -> None:
    """Every row is on disk as it comes, and what fails or has no time is a row that says so."""
    words = ["name=dry", "device=cpu", "scale=1e-5", "sections=peers,growth,speed", "sizes=nano", "seconds=1000"]
    gpu.main([f"out={tmp_path}", *words])
    told = json.loads((tmp_path / "dry.json").read_text())["sections"]
    assert len(told["growth"]) == 3 and {len(told[k]) for k in ("ceilings", "peers")} == {1}
    assert {r["objective"] for r in told["speed"]} == set(gpu.OBJECTIVES)
    assert all(r["samples/s"] > 0 and r["FLOP/s"] > 0 for r in told["growth"] + told["speed"])
    late = gpu.Page(tmp_path / "late.json", torch.device("cpu"), 0.0, {})
    late.attempt("growth", {"side": 64}, lambda: {}, 10)
    late.end = float("inf")
    late.attempt("growth", {"side": 128}, lambda: torch.zeros(2) @ torch.zeros(3), 10)  # type: ignore[arg-type,return-value]
    late_row, failed = json.loads((tmp_path / "late.json").read_text())["sections"]["growth"]
    assert "s left" in late_row["not run"] and failed["failed"] and failed["side"] == 128


def test_gpu_study_branches_and_tells_what_it_did_not_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gfm_objectives.data.pool.cores", lambda: 0)
    words = "data.size=16 yardstick=false loader.workers=0 budget.warmup=8 threads=1 budget.cooldown=0.2"
    about = [f"out={tmp_path}", "device=cpu", "pool=64", "batch=4", f"words={words}", "flops=4e9", "keep=3e9"]
    gpu_study.main([*about, "runs=supervised"])
    told = capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["supervised-3e09-s0", "supervised-4e09-s0"]
    branch = json.loads((tmp_path / "supervised-3e09-s0" / "ledger.json").read_text())
    assert branch["trunk"].endswith("supervised-4e09-s0") and "ROW supervised-4e09-s0" in told
    gpu_study.main([*about, "runs=supervised", "seconds=1", "name=x"])
    assert "supervisedx-4e09-s0: not run" in capsys.readouterr().out


def test_crossover_pairs_earths_and_says_how_many(tmp_path):
    def row(blocks, seed, nll):
        about = {"run": f"{blocks}{seed}", "objective": "mae", "encoder": "nano", "blocks": blocks, "size": "64"}
        return about | {"far": "False", "flops": "1e12", "seed": str(seed), "map_nll": str(nll)}

    rows = [row("none", s, 1.0 + s) for s in range(4)] + [row("4 of attention", s, 1.5 + s + 0.1 * s) for s in range(3)]
    mean, half, n = crossover.paired(*(crossover.cells(rows).popitem()[1][b] for b in ("4 of attention", "none")))
    assert (round(mean, 6), n) == (0.6, 3) and half == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert "+0.600 [+0.352, +0.848]" in crossover.table(rows)
    assert "not a number" not in crossover.picture(rows) and crossover.picture(rows).count("<circle") >= 1
    assert crossover.paired({"0": 2.0}, {"0": 1.0})[0] == 1.0  # one Earth: no interval
    assert "[" not in crossover.table([r for r in rows if r["seed"] == "0"])
    ranked = [r | {"token_rankme": "7.6" if r["blocks"] != "none" else ""} for r in rows]
    unet = {**ranked[0], "run": "u", "blocks": crossover.UNET, "flops": "1e13", "map_nll": "0.5"}
    lines = crossover.budgets([*ranked, unet]).splitlines()
    assert lines[2:] == [
        "| mae | 4 of attention | 2.600 (8), 3 Earths | not run |  |",
        "| mae | U-Net | not run | 0.500, 1 Earth |  |",
        "| mae | none | 2.500, 4 Earths | not run |  |",
    ]
    assert crossover.cells([*ranked, unet]) == crossover.cells(ranked)  # a U-Net has no blocks to pay


def test_budgets_gain_over_who_validates_best_and_slopes_are_each_earths_own():
    def row(name, budget, test, val=0.0, extra=0.0):
        return budgets.Row(name, budget, extra, dict(enumerate(test)), dict.fromkeys(range(len(test)), val))

    pretrained = [row("mae", 1e12, (50, 51, 52)), row("mae", 1e14, (54, 57, 60)), row("latent", 1e12, (40, 40, 40))]
    scratch = [row("unet + 1e12 FLOPs", 0.0, (45, 45, 45), val=70, extra=1e12), row("conv", 0.0, (49, 49, 49), val=60)]
    rows = pretrained, scratch, [row("reading", 0.0, (58, 58, 58))]
    assert budgets.slopes({r.budget: r for r in pretrained[:2]}) == pytest.approx([2, 3, 4])
    lines = budgets.table(rows).splitlines()
    assert lines[0].startswith("| pretrained on the map or by | P = 1e12, n = 1 | P = 1e14, n = 100 |")
    assert lines[2].startswith("| mae | 51.0, **+6.0 [3.5, 8.5]** | 57.0, **+12.0 [4.5, 19.5]** | **+3.0 [0.5, 5.5]**")
    assert lines[3].startswith("| latent | 40.0, **-5.0 [-5.0, -5.0]** | not run |")
    assert lines[-1] == "Best from scratch on validation: unet + 1e12 FLOPs, 45.0. reading: 58.0."
    assert "n = 1" not in budgets.table((pretrained, scratch[1:], rows[2])), "nobody was given a part of P"
    early = [row("mae", 1e11, (48, 48, 48)), *pretrained]  # a rival with ten times as much is none of its
    assert "| mae | 48.0, **-1.0 [-1.0, -1.0]** | 51.0, **+6.0" in budgets.table((early, scratch, rows[2]))
    assert budgets.picture(rows).count("<circle") >= 2 and "reading: +13" in budgets.picture(rows)


def test_table_of_the_budgets_is_that_of_the_scores():
    text, rows = budgets.PAGE.read_text(), {task: budgets.read(folders) for task, folders in budgets.FOLDERS.items()}
    assert {m[2] for m in budgets.MARK.finditer(text)} == set(rows)
    assert budgets.fill(text, rows) == text, "python benchmarks/budgets.py"
    assert budgets.PICTURE.read_text() == budgets.picture(rows["landcover"])


def test_table_of_the_labels_is_that_of_the_scores():
    text = labels.PAGE.read_text()
    assert {m[2] for m in labels.MARK.finditer(text)} == set(labels.FOLDERS)
    assert labels.fill(text) == text, "python benchmarks/labels.py"
    assert labels.PICTURE.read_text() == labels.picture(labels.read("landcover"))


def test_labels_are_those_of_a_folder_and_rivals_those_of_the_same_labels():
    curve = labels.read("landcover")
    assert list(curve) == [5, 20, 100]
    at_five = {r.name: r for rows in curve[5] for r in rows}
    gain = budgets.told(budgets.over(at_five["supervised"].test, budgets.rival(curve[5][1], labels.P).test))
    assert gain in labels.table(curve).splitlines()[2]
    assert "not run" in labels.table({5: curve[5], 20: curve[20]}), "a U-Net that was pretrained, with five labels"


def test_table_of_the_crossover_is_that_of_the_runs():
    text = crossover.PAGE.read_text()
    assert crossover.MARK.search(text) and crossover.fill(text, crossover.read()) == text, (
        "python benchmarks/crossover.py"
    )
    assert crossover.PICTURE.read_text() == crossover.picture(crossover.read())
