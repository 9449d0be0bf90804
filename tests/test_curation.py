"""Curation: what near-duplicates are, that they are found, and that a keep-list is read and nothing else changes."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from scenes import Scenes, ground, strangers, windows

from gfm_objectives import cli
from gfm_objectives.config import compose
from gfm_objectives.curation import embeddings, keep
from gfm_objectives.curation.curating import curate
from gfm_objectives.curation.describing import describe
from gfm_objectives.curation.embedders import open_embedder
from gfm_objectives.curation.engines import Local, _Reader
from gfm_objectives.curation.examination import REASONS, Limits, examine
from gfm_objectives.curation.fingerprints import Channel, channels, comparisons, picture, windowed
from gfm_objectives.curation.handover import export, read_answer
from gfm_objectives.curation.keep import Rules, decide
from gfm_objectives.curation.neighbours import Pairs, candidates, find_pairs, often
from gfm_objectives.curation.page import balance
from gfm_objectives.data import build_source
from gfm_objectives.data.kept import Curated
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.runs.checkpoint import save_encoder

ALONE = np.zeros(0, np.int64)


def points_of(x, **options):
    source = Scenes(x, **options)
    return describe(source, Limits(), None).points, channels(source.spec)


def pairs_of(x, **options):
    return find_pairs(*points_of(x), **options)


def found(pairs):
    return {
        (int(a), int(b)): (int(dy), int(dx)) for a, b, dy, dx in zip(pairs.a, pairs.b, pairs.dy, pairs.dx, strict=True)
    }


# ---------------------------------------------------------------- fingerprints


@pytest.mark.parametrize("side", [9, 15])
def test_windowed_is_what_pooling_says_away_from_edges(side):
    x = torch.rand(3, 40, 41, generator=torch.Generator().manual_seed(0))
    inner = slice(side // 2, -(side // 2))
    sums = F.avg_pool2d(x[:, None], side, 1, side // 2)[:, 0] * side**2
    most = F.max_pool2d(x[:, None], side, 1, side // 2)[:, 0]
    torch.testing.assert_close(windowed(x, side, torch.add)[:, inner, inner], sums[:, inner, inner])
    assert torch.equal(windowed(x, side, torch.maximum)[:, inner, inner], most[:, inner, inner])


def test_gain_and_offset_change_no_bit_and_the_bits_are_those_of_every_version():
    x = strangers(2)
    (a, _), (b, _) = points_of(x), points_of(1.7 * x + 0.4)
    assert len(a) > 20 and np.array_equal(a.code, b.code) and np.array_equal(a.y, b.y)
    assert comparisons(100)[0][:3].tolist() == comparisons(100)[0][:3].tolist()
    assert len({*zip(*(t.tolist() for t in comparisons(1000)), strict=True)}) == 64


def test_no_fingerprint_looks_at_an_invalid_pixel():
    x, valid = strangers(1), torch.ones(1, 1, 64, 64, dtype=torch.bool)
    valid[..., 20:30, 20:30] = False
    points = describe(Scenes(x, valid), Limits(), None).points
    away = np.maximum(np.abs(points.y - 24.5), np.abs(points.x - 24.5))
    assert len(points) > 5 and away.min() > 4.5 + 7


def test_bands_are_grouped_by_wavelength_and_height_is_static(spec):
    assert [(c.name, c.static) for c in channels(spec)] == [
        ("s2 visible", False),
        ("s2 infrared", False),
        ("s1 decibel", False),
        ("dem metre", True),
    ]


@pytest.mark.parametrize("bands", [(0, 1, 2), (3, 4), (0, 2, 4)])
def test_a_picture_is_the_mean_of_its_bands(bands):
    batch = Scenes(strangers(2)).read([0, 1])
    shown, valid = picture(batch, Channel("s2", "some", bands, False))
    torch.testing.assert_close(shown, batch.sensors["s2"].x[:, 0, list(bands)].mean(1))
    assert valid.all() and shown.shape == (2, 64, 64)


# ---------------------------------------------------------------- pairs


def test_matches_are_those_of_two_places_that_have_enough_in_common():
    rng = np.random.default_rng(0)
    code = rng.integers(0, 2**63, 60, dtype=np.uint64)
    code[30:36] = code[:6] ^ np.uint64(1 << 40)  # six points of place 0 again in place 3, a bit apart
    code[40:43] = code[10:13]  # three of place 1 in place 4
    code[7] = code[3]  # of one place: no match, and there once
    place = np.repeat(np.arange(6), 10)
    i, j = candidates(code, place)
    expected = [*range(6), 10, 11, 12]
    assert i.tolist() == expected and (j - i).tolist() == [30] * 9
    assert often(place, i, j, 4).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(often(place, i, j, 3)) == 9 and not len(often(place, i, j, 7))
    assert candidates(code, place, across=1)[0].tolist() == expected[:6] and not len(candidates(code, place, 5)[0])


@pytest.mark.parametrize("shift", [(0, 0), (5, -8), (24, 0), (17, 13)])
def test_windows_of_one_scene_are_found_with_their_shift(shift):
    scene = ground(1)
    x = torch.cat([strangers(20), windows(scene, [(40, 40), (40 + shift[0], 40 + shift[1])])])
    pairs = pairs_of(x)
    assert found(pairs) == {(20, 21): shift}  # what is at row y of the first is at y - shift of the second
    assert pairs.overlap(64)[0] == pytest.approx((64 - abs(shift[0])) * (64 - abs(shift[1])) / 64**2)


def test_noise_and_gain_leave_a_copy_a_copy():
    x = strangers(30)
    twin = 1.2 * x[:10] + 0.1 + 0.05 * torch.randn(x[:10].shape, generator=torch.Generator().manual_seed(0))
    pairs = pairs_of(torch.cat([x, twin]))
    assert set(found(pairs)) == {(k, 30 + k) for k in range(10)}
    assert (pairs.repeated > 0.6).all()


def test_how_much_two_places_share_does_not_depend_on_how_many_others_there_are():
    """Tables are keyed by more bits the more points there are: who meets there must not decide what is a copy."""
    x = strangers(12)
    soft = (x[:6] + x[:6].roll(1, -1) + x[:6].roll(1, -2) + x[:6].roll((1, 1), (-2, -1))) / 4  # half a pixel further
    few, many = pairs_of(torch.cat([x[:6], soft])), pairs_of(torch.cat([x[:6], soft, strangers(600, first=100)]))
    both = [dict(zip(found(p), p.repeated.tolist(), strict=True)) for p in (few, many)]
    common = set(both[0]) & set(both[1])
    assert {(k, 6 + k) for k in range(6)} <= common and all(both[0][p] == both[1][p] for p in common)
    assert min(both[0][k, 6 + k] for k in range(6)) > Rules().copy


def test_a_crowd_of_copies_meets_its_first():
    x = torch.cat([strangers(5), strangers(1, first=50).repeat(300, 1, 1, 1, 1)])
    result = curate(Scenes(x), Limits(), Rules())
    assert result.kept.keep.nonzero()[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(result.kept.twin[6:].tolist()) == {5} and set(result.kept.reason[6:].tolist()) == {keep.COPY}


def test_across_compares_no_two_places_of_one_side():
    x = windows(ground(1), [(40, 40), (42, 42), (44, 44)])
    assert set(found(pairs_of(x))) == {(0, 1), (0, 2), (1, 2)}
    assert set(found(pairs_of(x, across=2))) == {(0, 2), (1, 2)}


def test_a_scene_that_does_not_change_is_one_witness_however_many_dates_it_has():
    x = strangers(2).repeat(1, 4, 1, 1, 1)
    x[1, :, :, :40] = x[0, :, :, :40]
    few = find_pairs(*points_of(x[:, :1]), votes=1)
    assert find_pairs(*points_of(x), votes=1).votes.tolist() == few.votes.tolist()


# ---------------------------------------------------------------- tests of a place alone


def test_each_fault_of_a_place_is_named():
    x, valid = strangers(6), torch.ones(6, 1, 64, 64, dtype=torch.bool)
    valid[1] = False
    valid[2, :, :50] = False
    x[3, :, 2] = 0.7
    x[4] = x[4].clamp(max=-0.2)
    x[5] *= 1e-3
    x = x * valid[:, :, None]
    batch = Scenes(x, valid).read(range(6))
    reason = examine(batch, channels(Scenes(x).spec), Limits()).reason
    names = [REASONS[k] for k in reason.tolist()]
    assert names == ["", "no data", "cloud", "constant band", "saturated", "low entropy"]
    lax = Limits(data=0, clear=0, saturated=1, entropy=0)
    assert examine(batch, channels(Scenes(x).spec), lax).reason.tolist()[4:] == [0, 0]


# ---------------------------------------------------------------- embeddings


def test_within_one_cluster_each_place_meets_the_best_of_those_before_it(monkeypatch):
    monkeypatch.setattr(embeddings, "BLOCK", 7)
    rng = np.random.default_rng(0)
    v = embeddings.standardised(rng.normal(size=(40, 6)))
    order = rng.permutation(40)
    alike = embeddings.compare(v, order, 1)
    for position, place in enumerate(order.tolist()):
        before = order[:position]
        if not position:
            assert alike.twin[place] == -1 and alike.cosine[place] == -1
            continue
        cosines = v[before] @ v[place]
        assert alike.twin[place] == before[cosines.argmax()]
        assert alike.cosine[place] == pytest.approx(cosines.max(), abs=1e-6)


def test_epsilon_thins_what_is_alike_and_the_table_says_how_far():
    pytest.importorskip("faiss")
    x = strangers(40)
    source = Scenes(torch.cat([x, x[:10] + 1e-3]))
    described = curate(source, Limits(), Rules(overlap=1.0, copy=1.0, seasons="keep"), clusters=3)
    free = decide(described.described.reason, described.described.quality, none(), described.alike, 64, Rules())
    assert free.keep.all()
    thin = decide(
        described.described.reason, described.described.quality, none(), described.alike, 64, Rules(epsilon=1e-3)
    )
    sweep = dict(described.alike.sweep(free.keep))
    assert (~thin.keep).sum() == sweep[1e-3] >= 10 and set(thin.reason[~thin.keep]) == {keep.ALIKE}
    assert list(sweep.values()) == sorted(sweep.values())


def none():
    return Pairs(ALONE, ALONE, ALONE, ALONE, ALONE, np.zeros(0), np.zeros(0))


@pytest.mark.parametrize("kind", ["rcf", "run"])
def test_other_embeddings_tell_copies_from_strangers_and_are_charged(kind, tmp_path):
    x = strangers(6, 32)
    source = Scenes(torch.cat([x, x[:2]]))
    name = kind
    if kind == "run":
        save_encoder(Encoder(source.spec.bands, cell_dim=16, dim=16, depth=1, heads=2, patch=8, width=8), tmp_path)
        name = str(tmp_path)
    embedder = open_embedder(name, source.spec)
    v = embeddings.standardised(describe(source, Limits(), None, embedder=embedder).figures)
    assert v.shape[1] == (128 if kind == "rcf" else 8) and (embedder.flops > 0) == (kind == "run")
    alike = embeddings.compare(v, np.arange(8), 1)
    assert alike.twin[6:].tolist() == [0, 1] and alike.cosine[6:].min() > 0.9999 > alike.cosine[:6].max()
    with pytest.raises(InputError, match="not found"):
        open_embedder(str(tmp_path / "none"), source.spec)


def test_what_nemo_curator_reads_and_its_answer(tmp_path):
    """Columns and types are the defaults of its SemanticDeduplicationWorkflow (docs.nvidia.com/nemo/curator); its
    pairwise step, by its own matrix, says what ours does wherever a cosine is above 0."""
    v = embeddings.standardised(np.random.default_rng(0).normal(size=(9, 5)))
    export(v, tmp_path / "in")
    table = pq.read_table(tmp_path / "in")
    assert str(table.schema.field("id").type) == "int64"
    assert str(table.schema.field("embeddings").type.value_type) == "float"
    np.testing.assert_array_equal(np.stack(table["embeddings"].to_numpy()), v)
    assert [f.name for f in table.schema] == ["id", "embeddings"]
    ours = embeddings.compare(v, np.arange(9), 1)
    cosine, twin = torch.triu(torch.tensor(v @ v.T), diagonal=1).max(0)
    answer = pa.table({"id": np.arange(9), "max_id": twin.numpy(), "cosine_sim_score": cosine.numpy()})
    (tmp_path / "out" / "pairwise_results").mkdir(parents=True)
    pq.write_table(answer, tmp_path / "out" / "pairwise_results" / "cluster_0.parquet")
    theirs = read_answer(tmp_path / "out", 9)
    alike = ours.cosine > 0
    assert alike.sum() > 5 and np.array_equal(theirs.twin[alike], ours.twin[alike])
    np.testing.assert_allclose(theirs.cosine[alike], ours.cosine[alike], atol=1e-6)
    assert theirs.cosine[~alike].max() <= 0
    with pytest.raises(InputError, match="says nothing of 1 of 10 places"):
        read_answer(tmp_path / "out", 10)
    with pytest.raises(InputError, match="answer to other data"):
        read_answer(tmp_path / "out", 5)
    with pytest.raises(InputError, match="no column max_id"):
        read_answer(tmp_path / "in", 9)
    with pytest.raises(InputError, match="no parquet"):
        read_answer(tmp_path, 9)


# ---------------------------------------------------------------- what is kept


def made(a, b, dy, repeated, share=0.9):
    n = len(a)
    full = [np.asarray(v) for v in (a, b, dy, [0] * n, [9] * n, [share] * n, repeated)]
    return Pairs(*full)


alone = embeddings.Alike.nobody


def test_seasons_are_kept_unless_asked_and_little_common_ground_always():
    pairs = made([0, 1, 2], [3, 4, 5], [0, 0, 40], [0.9, 0.1, 0.3])
    args = np.zeros(6, np.uint8), np.ones(6), pairs, alone(6), 64
    kept = decide(*args, Rules())
    assert kept.keep.tolist() == [True] * 3 + [False, True, True]
    assert (kept.reason[3], kept.twin[3], kept.score[3]) == (keep.COPY, 0, pytest.approx(0.9))
    dropped = decide(*args, Rules(seasons="drop"))
    assert dropped.keep.tolist() == [True] * 3 + [False, False, True] and dropped.reason[4] == keep.SEASON
    assert not decide(*args, Rules(overlap=0.3)).keep[5]


def test_the_clearer_of_two_twins_is_kept_and_one_that_fails_a_test_stands_for_none():
    pairs = made([0, 2], [1, 3], [0, 0], [1.0, 1.0])
    reason = np.array([0, 0, 1, 0], np.uint8)
    kept = decide(reason, np.array([0.5, 0.9, 1.0, 0.4]), pairs, alone(4), 64, Rules())
    assert kept.keep.tolist() == [False, True, False, True]
    assert kept.twin.tolist() == [1, -1, -1, -1] and kept.counts() == {keep.COPY: 1, "no data": 1}


def test_a_twins_twin_is_one_only_where_all_ground_is_shared():
    chain = made([0, 1], [1, 2], [0, 0], [1.0, 1.0])
    quality = np.array([0.9, 0.8, 0.7])
    assert decide(np.zeros(3, np.uint8), quality, chain, alone(3), 64, Rules()).twin.tolist() == [-1, 0, 0]
    drifting = made([0, 1], [1, 2], [30, 30], [0.5, 0.5])
    assert decide(np.zeros(3, np.uint8), quality, drifting, alone(3), 64, Rules()).keep.tolist() == [True, False, True]


def test_balance_is_counted_in_bits():
    before, after, bits = balance(np.array([2.0, 2.0]), np.array([2.0, 1.0]))
    assert before.tolist() == [0.5, 0.5] and after.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert bits == pytest.approx(2 / 3 * np.log2(4 / 3) + 1 / 3 * np.log2(2 / 3))


# ---------------------------------------------------------------- the reading resumes


def test_an_interrupted_reading_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("gfm_objectives.curation.describing.PART", 8)
    whole = Scenes(strangers(20))
    expected = describe(whole, Limits(), None)
    source = Scenes(strangers(20))

    def stop(done):
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe(source, Limits(), tmp_path / "s", stop)
    again = Scenes(strangers(20))
    resumed = describe(again, Limits(), tmp_path / "s")
    assert again.reads == 4 and np.array_equal(resumed.points.code, expected.points.code)
    assert np.array_equal(resumed.figures, expected.figures)
    other = Scenes(strangers(20), name="other data")
    describe(other, Limits(), tmp_path / "s")
    assert other.reads == 20
    (tmp_path / "s" / "part-000000.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"part-000000\.npz: damaged; delete it"):
        describe(other, Limits(), tmp_path / "s")


def test_files_of_others_are_neither_deleted_nor_written_over(tmp_path, capsys):
    (tmp_path / "mine.stages").mkdir()
    (mine := tmp_path / "mine.stages" / "notes.txt").write_text("dear")
    for name, told in (("mine.parquet", "holds files that gfm curate did not write"), ("mine.csv", "ends in .parquet")):
        assert cli.main(["curate", *WORDS, f"out={tmp_path / name}"]) == 2
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1
    assert mine.read_text() == "dear" and [p.name for p in tmp_path.rglob("*")] == ["mine.stages", "notes.txt"]


def test_a_second_process_of_the_same_list_is_refused(tmp_path, capsys, monkeypatch):
    def taken(folder):
        raise InputError(f"{folder}: in use by another process")

    monkeypatch.setattr("gfm_objectives.lock.lock", taken)
    assert cli.main(["curate", *WORDS, f"out={tmp_path / 'k.parquet'}"]) == 2
    assert "k.stages: in use" in capsys.readouterr().err


class Elsewhere(Local):
    """As far machines do it: what is found comes back in another order, as bytes."""

    def parts(self, read, numbers):
        for number in reversed(numbers):
            row = _Reader(read)({"part": np.array([number])})
            yield int(row["part"][0]), dict(np.load(io.BytesIO(row["arrays"][0])))

    def clusters(self, within, vectors, cluster, rank):
        yield from reversed([*super().clusters(within, vectors, cluster, rank)])


def test_parts_and_clusters_may_come_back_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr("gfm_objectives.curation.describing.PART", 8)
    x = strangers(20)
    source, rules = Scenes(torch.cat([x, x[:3] + 0.05])), Rules(epsilon=1e-3)
    here = curate(source, Limits(), rules, clusters=3)
    there = curate(source, Limits(), rules, tmp_path, clusters=3, engine=Elsewhere())
    assert (~here.kept.keep).sum() == 3 and len(there.described.spent) == 3 and there.described.spent.min() > 0
    for a, b in ((here.alike, there.alike), (here.kept, there.kept), (here.pairs, there.pairs)):
        for name in a.__slots__:
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
    reads, again = source.reads, curate(source, Limits(), rules, tmp_path, clusters=3)
    assert source.reads == reads and again.seconds > there.described.spent.sum()  # resumed, and charged all the same


def test_a_missing_ray_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["curate", *WORDS, f"out={tmp_path / 'keep.parquet'}", "engine=ray"]) == 2
    assert "engine=ray: Ray is missing: pip install" in capsys.readouterr().err


# ---------------------------------------------------------------- the list, and who reads it

SMALL = {"name": "synthetic", "size": 32, "dates": 1, "sensors": ["s2"], "places": {"pretrain": 24, "val": 6}}
WORDS = ["data.size=32", "data.dates=1", "data.sensors=[s2]", "data.places.pretrain=24", "data.places.val=6"]


def test_the_command_writes_a_list_that_the_source_reads(tmp_path, capsys):
    out = tmp_path / "deep" / "keep.parquet"
    assert cli.main(["curate", *WORDS, f"out={out}", "tests.entropy=2.6"]) == 0
    told = capsys.readouterr().out
    table = pq.read_table(out).to_pydict()
    assert list(table) == ["id", "name", "keep", "reason", "twin", "score", "cluster"] and table["id"] == list(
        range(24)
    )
    kept = [i for i, k in zip(table["id"], table["keep"], strict=True) if k]
    assert 0 < len(kept) < 24 and f"{len(kept)} of 24 places kept" in told
    assert "<h2>Left out</h2>" in out.with_suffix(".html").read_text()

    whole, part = build_source(SMALL, "pretrain"), build_source(SMALL | {"keep": str(out)}, "pretrain")
    assert isinstance(part, Curated) and len(part) == len(kept) and part.fingerprint != whole.fingerprint
    torch.testing.assert_close(part.read([0, -1]).sensors["s2"].x, whole.read([kept[0], kept[-1]]).sensors["s2"].x)
    assert part.names() == [str(i) for i in kept]
    assert part.groups() == [whole.groups()[i] for i in kept] and f"{len(kept)} of 24" in part.notes()[-1]
    assert part.preparation(5)[1] > 0  # what curation took is charged to the run
    val = build_source(SMALL | {"keep": str(out)}, "val")
    assert len(val) == 6 and val.fingerprint == build_source(SMALL, "val").fingerprint


def test_a_list_of_other_data_is_refused(tmp_path):
    out = tmp_path / "keep-0.parquet"
    kept = decide(np.zeros(3, np.uint8), np.ones(3), none(), alone(3), 64, Rules())
    keep.write(kept, ["a", "b", "c"], about(fingerprint="x", places=3), out)
    with pytest.raises(InputError, match=r"data\.keep=.*made of other data .*gfm curate"):
        build_source(SMALL | {"keep": str(out)}, "pretrain")
    with pytest.raises(InputError, match="made of other data"):
        build_source(SMALL | {"keep": str(tmp_path / "keep-{seed}.parquet"), "seed": 0}, "pretrain")
    with pytest.raises(InputError, match="no such file"):
        build_source(SMALL | {"keep": str(tmp_path / "none.parquet")}, "pretrain")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="no keep-list"):
        build_source(SMALL | {"keep": str(tmp_path / "text.parquet")}, "pretrain")
    nothing = decide(np.ones(24, np.uint8), np.ones(24), none(), alone(24), 64, Rules())
    whole = build_source(SMALL, "pretrain")
    keep.write(nothing, ["a"] * 24, about(fingerprint=whole.fingerprint, places=24), out)
    with pytest.raises(InputError, match="keeps no place"):
        build_source(SMALL | {"keep": str(out)}, "pretrain")


def about(**of):
    return {"split": "pretrain", "flops": 0.0, "seconds": 1.0, **of}


def test_every_source_takes_a_list_a_users_yaml_too(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("name: chips\nroot: /nowhere\ngsd: 10\nsensors: {}\n")
    shipped = [path.stem for path in (Path(__file__).parent.parent / "configs" / "data").glob("*.yaml")]
    assert len(shipped) > 15
    for data in (*shipped, str(own)):
        assert compose("train", [f"data={data}", "data.keep=some.parquet", "name=x"])[0].data.keep == "some.parquet"


def test_shards_hold_what_a_list_keeps_and_bear_its_cost(tmp_path, capsys):
    """Of a source without units of its own, too, and again of shards; the other splits whole."""
    out = tmp_path / "keep.parquet"
    cli.main(["curate", *WORDS, f"out={out}", "tests.entropy=2.6"])
    part = build_source(SMALL | {"keep": str(out)}, "pretrain")
    words, both = ["prepare", *WORDS, f"out={tmp_path}", "workers=1"], "splits=[pretrain,val]"
    assert cli.main([*words, both, f"keep={out}", "name=kept"]) == 0
    assert cli.main([*words, "name=whole"]) == 0
    again = [f"data.root={tmp_path / 'whole'}", f"data.keep={out}", f"out={tmp_path}", "workers=1"]
    assert cli.main(["prepare", "data=shards", *again, "name=twice"]) == 0
    for name in ("kept", "twice"):
        shards = build_source({"name": "shards", "root": str(tmp_path / name)}, "pretrain")
        assert len(shards) == len(part) < 24 and shards.fingerprint == part.fingerprint
        ends = [0, len(part) - 1]
        assert torch.equal(shards.read(ends).sensors["s2"].x, part.read(ends).sensors["s2"].x)
        assert shards.preparation(9) == part.preparation(9) and f"{len(part)} of 24" in shards.notes()[-1]
    val = build_source({"name": "shards", "root": str(tmp_path / "kept")}, "val")
    assert len(val) == 6 and val.preparation(9) == (0.0, 0.0)
    capsys.readouterr()
    for wrong, why in (
        ("splits=[val]", "is of another split than val"),
        ("data.keep=other.parquet", "two lists; give one"),
    ):
        assert cli.main([*words, wrong, f"keep={out}", "name=x"]) == 2
        assert why in capsys.readouterr().err


# ---------------------------------------------------------------- real chips


@pytest.mark.parametrize("data", ["hls_water", "oscd"])
def test_real_readers_hand_out_what_a_list_keeps(data, gfm_data, tmp_path):
    from gfm_objectives.config.files import load_choice

    options = load_choice("data", data)
    whole = build_source(options, "pretrain")
    every_other = decide(np.arange(len(whole)) % 2, np.ones(len(whole)), none(), alone(len(whole)), 64, Rules())
    keep.write(every_other, whole.names(), about(fingerprint=whole.fingerprint, places=len(whole)), tmp_path / "k")
    part = build_source(options | {"keep": str(tmp_path / "k")}, "pretrain")
    assert part.names() == whole.names()[::2] and part.spec == whole.spec and not part.normalised
    for name, series in part.raw([1]).sensors.items():
        torch.testing.assert_close(series.x, whole.raw([2]).sensors[name].x, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
def test_real_overlaps_are_found(gfm_data):
    """All listed windows and footprints of hls_water; the list is a lower bound, so what it lacks is no fault."""
    import csv

    from gfm_objectives.config.files import load_choice

    source = build_source(load_choice("data", "hls_water") | {"splits": None}, "pretrain")
    names = source.names()
    pairs = find_pairs(describe(source, Limits(), None).points, channels(source.spec))
    shown = {(names[a], names[b]): at for (a, b), at in found(pairs).items()}
    with (gfm_data / "hls_water" / "overlaps.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if float(r["overlap"]) >= 0.4]
    whole = [r for r in rows if r["row_shift"] == r["col_shift"] == "0"]
    moved = [r for r in rows if r not in whole]
    assert np.mean([max(map(abs, shown.get((r["chip_a"], r["chip_b"]), (99, 99)))) <= 1 for r in whole]) >= 0.95
    assert np.mean([(r["chip_a"], r["chip_b"]) in shown for r in moved]) >= 0.8
