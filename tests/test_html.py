"""report.html: right in words and numbers, whole without a network, and its pickers work in a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gfm_objectives.cli import main
from gfm_objectives.report.html import answer, costs, pictures
from gfm_objectives.report.html import write as write_page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
LIMIT = 3_000_000
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


def folder_of(tmp_path, name="hls_water", places=2):
    """A results folder with scores of the repository and pictures made here."""
    folder = tmp_path / name
    shutil.copytree(RESULTS / name, folder, ignore=shutil.ignore_patterns("figures", "report.*"))
    summary = json.loads((folder / "gain.json").read_text())
    rng = np.random.default_rng(0)
    task = summary["tasks"][0]
    label = rng.integers(-1, 2, (places, 16, 12))
    arrays = {f"{task}/image": rng.random((places, 16, 12, 3)), f"{task}/label": label}
    arrays |= {f"{task}/pred/{c}": rng.integers(0, 2, label.shape) for c in summary["contenders"]}
    worst = {"image": rng.random((1, 9, 7, 3)), "label": np.eye(9, 7, dtype=int), "pred": np.ones((9, 7), int)}
    arrays |= {f"{task}/worst/masked_seg/{k}": v for k, v in worst.items()}
    np.savez(folder / "predictions.npz", **arrays)
    return folder, summary


def page_of(folder):
    return write_page([folder], folder / "report.html").read_text()


@pytest.mark.parametrize("name", [p.parent.name for p in sorted(RESULTS.glob("*/gain.json"))])
def test_scores_on_the_page_are_those_of_the_csv(name, tmp_path):
    text = write_page([RESULTS / name], tmp_path / "r.html").read_text()
    shown = {unescape(k): float(v) for k, v in re.findall(r'data-key="([^"]+)" data-value="([^"]+)"', text)}
    cells: dict[str, list[float]] = {}
    with (RESULTS / name / "scores.csv").open() as f:
        for r in csv.DictReader(f):
            cells.setdefault(f"{r['contender']}|{r['task']}|{float(r['fraction'])}", []).append(float(r["value"]))
    whole = {k.rpartition("|")[0]: mean(v) for k, v in cells.items()}  # of rows without training, which have no share
    measured = {k: mean(cells[k]) if k in cells else whole[k.rpartition("|")[0]] for k in shown}
    assert shown == pytest.approx(measured, abs=1e-5)
    fractions = {f"{float(f)}" for f in json.loads((RESULTS / name / "gain.json").read_text())["fractions"]}
    assert {k for k in cells if k.rpartition("|")[2] in fractions} <= shown.keys()
    assert len(text.encode()) < LIMIT


def test_nothing_is_asked_of_a_network_and_nothing_is_left_unescaped(tmp_path):
    folder, _ = folder_of(tmp_path)
    (folder / "context.json").write_text(json.dumps({"notes": ["<script>alert(1)</script>"]}))
    text = page_of(folder)
    assert "<script>alert(1)" not in text and "&lt;script&gt;alert(1)" in text
    sources = re.findall(r'(?:src|href|url|import|fetch)\s*[=(]\s*["\']?([^"\'\s>)]+)', text)
    assert all(s.startswith("data:") for s in sources if s not in ('"data:image/png;base64,"',)), sources


def gains(verdicts, val=(0.5, 0.6), seeds=5):
    """A summary with two encoders, of whom validation prefers the second; its verdicts on tasks a, b at two shares."""
    tasks, names = ["a", "b"], ["mae", "seg", "U-Net"]
    own = {"pretrain_flops": 0, "pretrain_runs": 5}
    rows = {c: {"role": "scratch" if c == "U-Net" else "pretrained", **own} for c in names}
    scores = [
        {"task": t, "fraction": f, "contender": c, "status": "ok", "val": v, "epochs": 2.0}
        for t in tasks
        for f in (0.1, 1.0)
        for c, v in zip(names, (*val, 0.9), strict=True)
    ]
    over = {"contender": "seg", "against": "best", "n": 1, "status": "ok", "versus": "U-Net"}
    told = [
        {"task": t, "fraction": f, "verdict": v, **over}
        for f, per_task in verdicts.items()
        for t, v in zip(tasks, per_task, strict=True)
    ]
    told += [r | {"contender": "mae", "verdict": "win"} for r in told]
    return {
        "tasks": tasks,
        "fractions": [0.1, 1.0],
        "contenders": names,
        "rows": rows,
        "scores": scores,
        "gains": told,
        "metrics": {t: {"metric": "miou", "better": 1, "scale": 100} for t in tasks},
        "labels": {"a": {"0.1": 20, "1.0": 200}, "b": {"0.1": 30, "1.0": 300}},
        "seeds": [seeds, seeds],
    }


@pytest.mark.parametrize(
    ("few", "all_", "says"),
    [
        ("win win", "win loss", "On 2 of 2 tasks, with 20 to 30 labelled places (10 % of the labels): yes (a, b; seg)"),
        ("tie loss", "win loss", "On 1 of 2 tasks, with 200 labelled places (100 % of the labels): yes (a; seg); else"),
        ("tie tie", "tie loss", "No: on none of 2 tasks"),
        ("undecided undecided", "undecided undecided", "Not told yet"),
    ],
)
def test_headline_follows_the_verdicts_of_the_row_that_validation_prefers(few, all_, says):
    assert answer.headline(gains({0.1: few.split(), 1.0: all_.split()})).startswith(says)


def test_headline_judges_what_had_a_rival_of_equal_flops_and_names_what_had_none():
    summary = gains({0.1: ("tie", "tie"), 1.0: ("tie", "loss")}, val=(0.9, 0.6))
    summary["gains"] = [g for g in summary["gains"] if g["contender"] == "seg"]
    said = answer.headline(summary)
    assert said.startswith("No: on none of 2 tasks the pretrained encoder that validation prefers (seg)")
    assert said.endswith("Not judged, for want of a rival with as many FLOPs: mae.")
    summary = gains({0.1: ("win", "tie"), 1.0: ("tie", "loss")})
    assert "Not judged" not in answer.headline(summary)


def test_headline_without_encoders():
    summary = gains({0.1: ("win", "win")})
    summary["rows"]["mae"]["role"] = summary["rows"]["seg"]["role"] = "scratch"
    assert answer.headline(summary).startswith("Nothing pretrained was compared")


def test_headline_tells_rivals_that_did_not_run_from_encoders_that_did_not():
    summary = gains({0.1: ("win", "win")})
    summary["gains"] = []
    assert answer.headline(summary).startswith("No rival from scratch was given what pretraining cost")
    summary["scores"] = []
    assert answer.headline(summary).startswith("No pretrained row has run every task yet")


@pytest.mark.parametrize(
    ("ground", "well", "says"),
    [
        ({}, True, "regions of the synthetic Earth that do not meet"),
        ({"a": {"training": 0.0, "pretraining": {"mae": 0.0}}}, True, "No test tile"),
        ({"a": {"training": 0.0, "pretraining": {"mae": None}}}, False, "not known of a."),
        (
            {"a": {"training": None, "pretraining": {}}, "b": {"training": 0.0, "pretraining": {}}},
            False,
            "not known of a.",
        ),
        ({"a": {"training": 0.125, "pretraining": {"mae": None}}}, False, "Up to 12.5 % of a task's test tiles"),
    ],
)
def test_what_a_sceptic_reads_of_leakage_is_what_the_table_knows(ground, well, says):
    summary = gains({1.0: ("win", "win")}) | {"synthetic": [], "seeds": (5, 5), "knowledge": [], "ground": ground}
    told = answer._leakage(summary)
    assert told[0] is well and says in told[1]


def test_difference_tells_who_is_right():
    label = np.array([[0, 0, 0, 0, -1]])
    own, rival = np.array([[0, 1, 0, 1, 0]]), np.array([[0, 1, 1, 0, 0]])
    picture = Image.open(io.BytesIO(base64.b64decode(pictures._difference(own, label, rival)))).convert("RGB")
    colors = ["#{:02x}{:02x}{:02x}".format(*picture.getpixel((x, 0))) for x in range(5)]
    order = ("both right", "both wrong", "only this row right", "only the rival right")
    assert colors == [*(pictures.DIFFERENCE[k] for k in order), "#ffffff"]


def test_pictures_are_fewer_where_they_would_be_too_large(tmp_path, monkeypatch):
    folder, summary = folder_of(tmp_path, places=3)
    whole = pictures.section(summary, {}, folder)
    monkeypatch.setattr(pictures, "LARGEST", len(whole) // 2)
    less = pictures.section(summary, {}, folder)
    count = [len(json.loads(re.search(r"json\">(.*?)</script>", t)[1])["hls_water"]["image"]) for t in (whole, less)]
    assert count == [3, 1]


def test_numbers_have_a_ramp_and_an_error(tmp_path):
    folder, summary = folder_of(tmp_path)
    with np.load(folder / "predictions.npz") as f:
        arrays = {k: f[k].astype(float) for k in f.files}
    arrays["hls_water/label"][0, 0, 0] = np.nan
    np.savez(folder / "predictions.npz", **arrays)
    text = pictures.section(summary, {}, folder)
    assert len(json.loads(re.search(r"json\">(.*?)</script>", text)[1])["hls_water"]["legend"]) == 3


def test_hours_and_energy_come_from_the_ledgers(tmp_path):
    (tmp_path / "ledgers").mkdir()
    ledger = json.loads(next((RESULTS / "hls_water" / "ledgers").glob("*.json")).read_text())
    resources = {"contender": "mae", "seconds": 3600.0}
    scores = [SimpleNamespace(contender="mae", pretrain_run=f"r{i}") for i in (0, 1)]
    assert costs._spent(resources, scores, tmp_path) == (None, None)  # no ledger: not known, not zero
    for i, joules in enumerate((3.6e6, 7.2e6)):
        told = ledger | {"seconds": 7200.0, "energy_joules": joules}
        (tmp_path / "ledgers" / f"r{i}.json").write_text(json.dumps(told))
    hours, kwh = costs._spent(resources, scores, tmp_path)
    assert hours == 3 and kwh == pytest.approx(1.5 * 3 / 2)
    assert costs.watts_of(["AMD EPYC x 4 threads"]) == 24 and costs.watts_of(["NVIDIA H100 80GB"]) == 700


def test_command_writes_one_page_or_two_side_by_side(tmp_path, capsys):
    first, _ = folder_of(tmp_path)
    other, _ = folder_of(tmp_path, "baseline_landcover")
    assert main(["report", str(first)]) == 0 and (first / "report.html").exists()
    assert main(["report", str(first), f"out={first / 'scores.csv'}"]) == 2, "scores are not written over"
    assert main(["report", str(first), str(other), f"out={tmp_path / 'both.html'}", "euro=0.5"]) == 0
    text = (tmp_path / "both.html").read_text()
    assert text.count('<section class="report"') == 2 and 'class="reports pair"' in text and 'value="0.5"' in text
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 2 and "no scores.csv" in capsys.readouterr().err
    assert main(["report"]) == 2 and "0 folders" in capsys.readouterr().err


PROBE = """
<script>
window.faults = []; window.onerror = (m) => { faults.push(String(m)) };
console.error = (...a) => { faults.push(a.join(" ")) };
</script>
"""
DRIVER = """
<script>
{
const out = {}, box = document.querySelector(".gallery"), pick = (n, v) => {
  const s = box.querySelector("select." + n); s.value = v; s.dispatchEvent(new Event("change")); };
const seen = () => ["label", "own", "difference"].map((n) => box.querySelector(`figure.${n} img`).src);
out.first = seen(); pick("contender", "masked_seg"); out.contender = seen(); pick("place", "1"); out.place = seen();
const rival = () => box.querySelector("figure.rival").hidden, places = () => box.querySelector("select.place").length;
out.rival = [rival()]; out.places = [places()]; pick("place", "worst"); out.worst = seen(); out.rival.push(rival());
pick("contender", "mae"); out.after = seen(); out.rival.push(rival()); out.places.push(places());
pick("contender", "masked_seg");
out.caption = box.querySelector("figure.own figcaption").textContent;
out.loaded = [...box.querySelectorAll("img")].map((i) => i.complete);
const fold = document.querySelector("button.fold"), task = document.querySelector("tr.task");
out.folded = [task.hidden]; fold.click(); out.folded.push(task.hidden, fold.getAttribute("aria-expanded"));
const money = () => document.querySelector("tr[data-hours] .money").textContent;
out.money = [money()]; const price = document.querySelector("input.price");
price.value = 2 * price.value; price.dispatchEvent(new Event("input")); out.money.push(money());
document.body.style.width = "390px"; out.phone = document.body.scrollWidth;
const named = (e) => e.textContent.trim() || e.labels?.length;
out.names = [...document.querySelectorAll("button,select,input,a")].every(named);
out.faults = faults; document.title = "probed"; const pre = document.createElement("pre");
pre.id = "probe"; pre.textContent = JSON.stringify(out); document.body.append(pre);
}
</script>
"""


@pytest.mark.skipif(
    CHROMIUM is None, reason="NOT CHECKED in a browser: no chromium here (Debian: apt install chromium)"
)
def test_page_works_in_a_browser(tmp_path):
    folder, _ = folder_of(tmp_path)
    text = page_of(folder).replace("<head>", "<head>" + PROBE, 1).replace("</body>", DRIVER + "</body>")
    page = tmp_path / "probe.html"
    page.write_text(text)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--enable-logging=stderr"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in told.stderr, told.stderr
    out = json.loads(unescape(re.search(r'<pre id="probe">(.*?)</pre>', told.stdout, re.DOTALL)[1]))
    assert out["faults"] == []
    assert out["first"][0] == out["contender"][0] != out["place"][0]  # another contender has the same label
    assert out["first"][1] != out["contender"][1] != out["place"][1] and out["first"][2] != out["contender"][2]
    assert out["rival"] == [False, True, False] and out["places"] == [3, 2]  # one that nothing is kept of has no worst
    assert out["worst"][0] not in (out["first"][0], out["place"][0]) and out["after"][0] == out["first"][0]
    assert out["caption"] == "masked_seg" and out["folded"] == [True, False, "true"]
    assert float(out["money"][1]) == pytest.approx(2 * float(out["money"][0]), rel=0.1)
    assert out["phone"] == 390 and out["names"]
