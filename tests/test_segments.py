"""Segments: exact on made-up places, made of what the encoder never sees, cached, shuffled as a control, no map."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import NANO
from test_pretrain import small

from gfm_objectives import pretrain
from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.config import compose
from gfm_objectives.data import codebook
from gfm_objectives.data.segments import Segmented, choose, split, without
from gfm_objectives.data.source import Source
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import MapHead, borders
from gfm_objectives.objectives import build_objective
from gfm_objectives.sensors import SENSORS, Legend

for module in ("skimage", "faiss"):
    pytest.importorskip(module, reason=f"NOT TESTED: segments; {module} is missing (uv run --extra segments pytest)")

SIZE = 32


class Halves(Source):
    """Two flat surfaces a place, the border somewhere else in each: 'bright' left of it, 'dark' right of it.

    change: applied to each sensor's images and validity; dates of each sensor.
    """

    def __init__(self, n: int = 6, dates: dict[str, int] | None = None, change: Callable | None = None) -> None:
        dates = {"s2": 2, "s1": 2} if dates is None else dates
        self.n, self.change, self.reads = n, change, 0
        self.spec = Spec({s: SENSORS[s].band_names[:2] for s in dates}, dates, SIZE, 10.0, {})
        self.fingerprint = f"halves {change}"

    def __len__(self) -> int:
        return self.n

    def border(self, i: int) -> int:
        return 8 + 2 * i

    def read(self, indices: Sequence[int]) -> Batch:
        self.reads += 1
        batch = self.spec.dummy(len(indices), "cpu")
        right = torch.stack([torch.arange(SIZE) >= self.border(i) for i in indices])  # (B, W)
        level = torch.where(right, -1.0, 1.0)[:, None, None, None]
        sensors = {}
        for k, s in batch.sensors.items():
            x, valid = level.expand_as(s.x).clone(), s.valid.clone()
            if self.change:
                self.change(k, x, valid)
            sensors[k] = Series(x, valid, s.day, s.bands)
        return batch.replace(sensors=sensors)


def made(source: Source, layer: str = "segments", **changes: Any) -> Segmented:
    options = dict(withhold=None, classes=2, places=6, scale=30.0, size=16) | changes
    return Segmented(source, layer, **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GFM_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def test_two_flat_regions_are_two_segments_of_two_classes() -> None:
    source = made(Halves())
    y = source.read(range(6)).targets["segments"]
    assert y.shape == (6, SIZE, SIZE) and y.dtype == torch.long
    left, right = y[0, 0, 0], y[0, 0, -1]
    assert {int(left), int(right)} == {0, 1}  # the same two classes in every place, and the border to the pixel
    for i in range(6):
        expected = torch.where(torch.arange(SIZE) < 8 + 2 * i, left, right).expand(SIZE, SIZE)
        assert torch.equal(y[i], expected), i
    views = Halves().read([0]).sensors
    _, count = source.book.cut({k: s.map(lambda t: t[:, 1::2]) for k, s in views.items()})
    assert count == 2


def test_a_place_is_the_same_in_any_batch_and_process() -> None:
    source = made(Synthetic("pretrain", size=SIZE, layers=[]), classes=8, places=12)
    y = source.read([3, 40, 5]).targets["segments"]
    assert y.unique().numel() > 4
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = pickle.loads(pickle.dumps(source)).read([40]).targets["segments"]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again[0], y[1])


def test_hidden_pixels_decide_nothing_and_what_is_never_seen_has_no_class() -> None:
    def cloud(value: float) -> Callable:
        def change(sensor: str, x: torch.Tensor, valid: torch.Tensor) -> None:
            if sensor == "s2":
                valid[:, 1::2, 20:] = False  # on every withheld date
                valid[:, 1, :4] = False  # on one of them
                x.masked_fill_(~valid[:, :, None], value)

        return change

    dates = {"s2": 4, "s1": 4}
    clean = made(Halves(dates=dates)).read([0]).targets["segments"]
    sources = [made(Halves(dates=dates, change=cloud(value))) for value in (0, 9e3)]
    zero, noise = (s.read([0]).targets["segments"] for s in sources)
    assert torch.equal(zero, noise) and sources[0].book.digest == sources[1].book.digest
    assert (zero[0, 20:] == -1).all() and (zero[0, :20] >= 0).all()
    assert torch.equal(zero[0, :20] == zero[0, 0, 0], clean[0, :20] == clean[0, 0, 0])


@pytest.mark.parametrize("withhold", ["dates", "s1", "s2"])
def test_what_is_withheld_changes_nothing_in_the_prediction(withhold: str) -> None:
    """Other pixels there: other segments, and the same input and logits bit for bit."""

    def noise(sensor: str, x: torch.Tensor, valid: torch.Tensor) -> None:
        hidden = x[:, 1::2] if withhold == "dates" else x if sensor == withhold else x[:0]
        hidden.copy_(torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)))

    source = made(Halves(), withhold=withhold)
    batches = [source.read([0, 1])]
    source.source = Halves(change=noise)  # the same codebook
    batches.append(source.read([0, 1]))
    clean, noisy = (b.targets["segments"] for b in batches)
    assert not torch.equal(clean, noisy)
    assert set(batches[0].sensors) == {"s2", "s1"} - {withhold}
    assert all(s.x.shape[1] == (1 if withhold == "dates" else 2) for s in batches[0].sensors.values())
    torch.manual_seed(0)
    (cfg,) = compose("train", ["objective.target=segments"])
    objective = build_objective(cfg.objective, Encoder.from_config(NANO, source.spec), source.spec).eval()
    logits: list[torch.Tensor] = []
    objective.head.logits.register_forward_hook(lambda m, args, out: logits.append(out))
    for batch in batches:
        assert batch.signature == source.spec.dummy(2).signature
        torch.manual_seed(1)
        assert torch.isfinite(objective(batch)["loss"])
    assert torch.equal(*logits)


@pytest.mark.parametrize(("dates", "seen"), [(2, [0]), (3, [0, 2]), (4, [0, 2]), (5, [0, 2, 4])])
def test_every_second_date_is_withheld(dates: int, seen: list[int]) -> None:
    batch = spec_of(s2=(2, dates), dem=(1, 1)).dummy(2, "cpu")
    s2 = batch.sensors["s2"]
    dated = batch.replace(sensors=batch.sensors | {"s2": replace(s2, day=torch.arange(dates).expand(2, dates))})
    shown, withheld = split(dated, "dates")
    assert shown.sensors["s2"].day[1].tolist() == seen
    assert withheld.keys() == {"s2"} and withheld["s2"].day[1].tolist() == [t for t in range(dates) if t not in seen]
    assert shown.sensors["dem"].x.shape[1] == 1
    assert without(spec_of(s2=(2, dates), dem=(1, 1)), "dates").dates == {"s2": len(seen), "dem": 1}


def spec_of(**sensors: tuple[int, int]) -> Spec:
    """sensor=(bands, dates)."""
    bands = {s: SENSORS[s].band_names[:b] for s, (b, _) in sensors.items()}
    return Spec(bands, {s: t for s, (_, t) in sensors.items()}, 32, 10.0, {})


@pytest.mark.parametrize(
    ("spec", "withheld"),
    [
        (spec_of(s2=(10, 4), s1=(2, 4), dem=(1, 1)), "dates"),
        (spec_of(s2=(10, 2)), "dates"),
        (spec_of(s2=(10, 1), s1=(2, 1), dem=(1, 1)), "s1"),
        (spec_of(s2=(10, 1), dem=(1, 1)), "dem"),
    ],
)
def test_what_is_withheld_by_default(spec: Spec, withheld: str) -> None:
    assert choose(spec, None) == withheld


def test_the_codebook_is_kept_and_made_anew_for_anything_else(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(Halves())
    (file,) = fresh_cache.glob("segments-*.safetensors")
    fitted: list[codebook.Recipe] = []
    fit = codebook.fit
    monkeypatch.setattr(codebook, "fit", lambda *a: fitted.append(a[2]) or fit(*a))
    base = Halves()
    again = made(base)
    assert not fitted and not base.reads and again.fingerprint == source.fingerprint
    assert again.preparation(100) == source.preparation(100) and source.preparation(0)[0] > 0
    assert made(Halves(), "shuffled").fingerprint != source.fingerprint and not fitted
    for changes in (dict(classes=3), dict(places=4), dict(scale=10.0), dict(size=8), dict(withhold="s1")):
        assert made(Halves(n=8), **changes).fingerprint != source.fingerprint
    assert len(fitted) == 5
    other = Halves()
    other.fingerprint = "other data"
    assert made(other).fingerprint != source.fingerprint and len(fitted) == 6
    other_file = next(f for f in fresh_cache.glob("segments-*") if f != file)
    for content in (other_file.read_bytes(), file.read_bytes()[:100]):  # of something else; damaged
        file.write_bytes(content)
        assert made(Halves()).fingerprint == source.fingerprint  # fitting gives the same bits
    assert len(fitted) == 8 and not list(fresh_cache.glob("*.tmp"))


def test_of_two_runs_at_a_time_the_first_ones_codebook_counts(fresh_cache: Path) -> None:
    one, two = (made(Halves(), classes=k).book for k in (2, 3))
    path = fresh_cache / "shared.safetensors"
    assert codebook.keep(one, path, "same") is one
    assert codebook.keep(two, path, "same").digest == one.digest
    (fresh_cache / "file").write_text("")
    assert codebook.keep(one, fresh_cache / "file" / "below", "same") is one  # cannot be written: no fault


@pytest.mark.parametrize("n", [6, 7])
def test_shuffled_has_the_same_classes_as_often_in_other_places(n: int) -> None:
    true, shuffled = (
        made(Halves(n), layer).read(range(n)).targets[layer] for layer in ("segments", "shuffled")
    )  # every border is elsewhere, so no place's segments are another's
    assert torch.equal(true.flatten().bincount(), shuffled.flatten().bincount())
    assert all(not torch.equal(a, b) for a, b in zip(true, shuffled, strict=True))
    assert sorted(y.flatten().tolist() for y in true) == sorted(y.flatten().tolist() for y in shuffled)


def test_it_trains_without_a_map_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped half-way, and the cache lost: the codebook is fitted again, to the same bits; with others it refuses."""
    words = [
        "objective=masked_seg",
        "objective.target=segments",
        "data.layers=[]",
        "objective.segments.classes=8",
        "objective.segments.places=12",
        "objective.boundary=1",
        "checkpoint_every=0.2",
    ]

    def lose_the_cache() -> None:
        for file in (tmp_path / "cache").iterdir():
            file.unlink()

    whole = pretrain.run(small(tmp_path / "whole", *words))
    ledger = json.loads((whole / "ledger.json").read_text())
    assert ledger["flops_spent"] == pytest.approx(1e10, rel=0.005)  # targets are not charged
    assert ledger["flops_target_preparation"] > 0 and ledger["seconds_target_preparation"] > 0
    assert set(ledger["parameters"]) == {"stem", "vit", "way_back", "objective"}

    read = Segmented.read
    calls = iter(range(10**6))

    def stops(self: Segmented, indices: list[int]) -> Batch:
        if next(calls) == ledger["samples"] // 4 // 16 * 2 // 3:  # sixteen steps are read at a time
            raise InputError("stopped")
        return read(self, indices)

    monkeypatch.setattr(Segmented, "read", stops)
    cfg = small(tmp_path / "broken", *words)
    with pytest.raises(InputError, match="stopped"):
        pretrain.run(cfg)
    monkeypatch.setattr(Segmented, "read", read)
    lose_the_cache()
    broken = pretrain.run(cfg)
    assert "goes on from step" in capsys.readouterr().out
    assert (whole / "encoder.safetensors").read_bytes() == (broken / "encoder.safetensors").read_bytes()

    (broken / "ledger.json").unlink()
    lose_the_cache()
    monkeypatch.setattr(codebook, "SIGMA", 3.0)  # as another version of the code might
    assert "changed since this run began; choose another name=, or overwrite=true" in refusal(lambda: pretrain.run(cfg))


def test_the_encoder_reads_what_was_withheld_from_it(tmp_path: Path) -> None:
    """Its weights for a withheld sensor are untrained, but they are there: tasks and probes show it."""
    words = ("objective.target=segments", "objective.segments.withhold=s1")
    small_book = ("objective.segments.classes=8", "objective.segments.places=12")
    cfg = small(tmp_path, "objective=masked_seg", *words, *small_book)
    source, spec = pretrain.open_source(cfg)
    assert set(source.spec.bands) == {"s2", "dem"} and set(spec.bands) == {"s2", "s1", "dem"}
    encoder = Encoder.from_config(NANO, spec)
    whole = Synthetic("val", size=SIZE, dates=2).read([0])
    for batch in (whole, source.read([0])):
        assert torch.isfinite(encoder.features(batch)).all()


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_input_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(lambda: made(Halves(dates={"s2": 1})))
    assert "one sensor (s2) on one date" in said and said.endswith("or take objective.target=map")
    assert refusal(lambda: made(Halves(), withhold="hls")).endswith("withhold=hls: choose from dates, s2, s1")
    assert refusal(lambda: made(Halves(dates={"s2": 1, "s1": 1}), withhold="dates")).endswith("choose from s2, s1")
    assert refusal(lambda: made(Halves(dates={"s2": 2}), withhold="s2")).endswith("choose from dates")
    assert "6 places have 12 whole segments; ask for fewer classes" in refusal(lambda: made(Halves(), classes=50))
    said = refusal(lambda: made(Halves(change=lambda k, x, valid: valid[:, 1::2].fill_(k != "s1"))))
    assert "none is seen by each of s2, s1 in what is withheld" in said and "data.sensors=" in said
    assert "needs two places or more" in refusal(lambda: made(Halves(n=1), "shuffled"))
    named = Halves()
    named.spec.legends["segments"] = Legend("mine", ("a", "b"))
    assert "has a layer of that name; rename it" in refusal(lambda: made(named))

    def absent(name: str) -> Any:
        if name == "faiss":
            raise ModuleNotFoundError(name)
        return import_module(name)

    monkeypatch.setattr(codebook, "import_module", absent)
    assert "pip install 'gfm-objectives[segments]'" in refusal(lambda: made(Halves(), classes=3))


@pytest.mark.parametrize(
    "word",
    [
        "objective.boundary=-1",
        "objective.segments.classes=1",
        "objective.segments.places=0",
        "objective.segments.scale=0",
    ],
)
def test_numbers_out_of_range_are_refused(word: str) -> None:
    assert word.split("=")[0] in refusal(lambda: compose("train", [word]))


def test_arms_of_the_experiment_are_one_sweep() -> None:
    names = [c.name for c in compose("train", ["objective.target=map,segments,shuffled"])]
    assert len(set(names)) == 3 and names[1].endswith("-targetsegments")


def test_borders_are_pixels_beside_another_class() -> None:
    y = torch.tensor([[0, 0, 1], [0, 0, 1], [2, -1, 1]])
    assert borders(y[None])[0].int().tolist() == [[0, 1, 1], [1, 1, 1], [1, 0, 0]]


def test_boundary_is_a_weight_of_the_loss(spec: Spec, batch: Batch) -> None:
    """1 + boundary beside another class, 1 elsewhere; times seen_weight where pixels are seen."""
    seen: list[torch.Tensor | None] = []
    target = torch.zeros_like(batch.targets["map"])
    target[:, :, 16:] = 1
    for seen_weight, boundary in ((1.0, 0.0), (1.0, 2.0), (0.0, 0.0), (0.0, 2.0), (0.25, 2.0)):
        options = {"seen_weight": seen_weight, "boundary": boundary}
        torch.manual_seed(0)
        (cfg,) = compose("train", [])
        objective = build_objective({**cfg.objective, **options}, Encoder.from_config(NANO, spec), spec)
        loss = objective.head.loss
        objective.head.loss = lambda x, y, where, loss=loss: seen.append(where) or loss(x, y, where)
        torch.manual_seed(1)
        assert torch.isfinite(objective(batch.replace(targets={"map": target}))["loss"])
    plain, weight, hidden, both, quarter = seen
    assert plain is not None and hidden is not None and (plain == 1).all()
    assert ((hidden == 0) | (hidden == 1)).all() and hidden.mean() == 0.25
    expected = torch.where(torch.arange(32).add(1).div(2).floor() == 8, 3.0, 1.0)  # columns 15 and 16
    assert torch.equal(weight, expected.expand(4, 32, 32)) and torch.equal(both, weight * hidden)
    assert torch.equal(quarter, weight * (0.25 + 0.75 * hidden))
    head = MapHead(4, 3, label_smoothing=0.0).eval()
    logits, y = torch.randn(1, 3, 4, 4), torch.tensor([0, 0, 1, 1]).expand(1, 4, 4)
    each = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    w = 1 + 2.0 * borders(y)
    torch.testing.assert_close(head.loss(logits, y, w), (each * w).sum() / w.sum())


def test_the_head_counts_the_labels_it_saw() -> None:
    head = MapHead(4, 3)
    y = torch.tensor([[[0, 2], [2, -1]]])
    head.loss(torch.zeros(1, 3, 2, 2), y)
    assert head.counts.tolist() == [2, 1, 3]
    head.eval().loss(torch.zeros(1, 3, 2, 2), y)
    assert head.counts.tolist() == [2, 1, 3], "measuring teaches nothing"
