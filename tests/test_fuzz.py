"""Random words, keys, types, ranges and yaml: a config that is right, or one line; GFM_FUZZ=2000 tries that many."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gfm_objectives.cli import COMMANDS
from gfm_objectives.config import compose, leaves, save
from gfm_objectives.config.files import read_entry
from gfm_objectives.config.ranges import check, parse_range
from gfm_objectives.config.usage import usage
from gfm_objectives.errors import InputError

FUZZ = settings(
    max_examples=int(os.environ.get("GFM_FUZZ", "30")),
    deadline=None,
    derandomize="GFM_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ENTRIES = tuple(name for name, c in COMMANDS.items() if not c.usage)
KEYS = {e: [k for k, _ in leaves(OmegaConf.to_container(compose(e, [])[0]))] for e in ENTRIES}
CHOICES = {e: tuple(read_entry(e)[0]) + ("suite.tasks",) * (e == "eval") for e in ENTRIES}

numbers = st.one_of(
    st.integers(),
    st.integers(min_value=-(10**40), max_value=10**40),
    st.floats(),
    st.sampled_from([0, 1, -1, 1e30, 1e308, 5e-324, "1e9999", "0x10", "1_000", "٣", "1,5"]),
).map(str)
words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        "null true false ~ nan inf -inf [] [,] [a a] [[a]] {} ${seed} ${oc.env:HOME} ../x ~/x ~no.one/x / . ,, "
        "mae flood s1,s1".split()
    ),
)
values = st.one_of(numbers, words, st.lists(st.one_of(numbers, words), max_size=3).map(",".join))


def typed(entry: str) -> st.SearchStrategy[list[str]]:
    key = st.one_of(st.sampled_from(KEYS[entry]), st.sampled_from(CHOICES[entry] or ("name",)), words)
    word = st.one_of(st.tuples(key, values).map("=".join), words)
    return st.lists(word, max_size=4)


def right_or_one_line(call) -> object:
    """What `call` gives; None where it told the user what is wrong, in one line that says something."""
    try:
        return call()
    except InputError as error:
        assert str(error).strip(), "an empty line"
        return None


@FUZZ
@given(st.sampled_from(ENTRIES).flatmap(lambda e: st.tuples(st.just(e), typed(e))))
def test_random_words_are_a_config_or_one_line(tmp_path, entry_and_words):
    entry, argv = entry_and_words
    configs = right_or_one_line(lambda: compose(entry, argv))
    for cfg in (configs or [])[:2]:
        save(cfg, tmp_path / "config.yaml")  # what was accepted comes back as it was
        (again,) = compose(entry, [f"config={tmp_path / 'config.yaml'}"])
        assert again == cfg, argv


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
trees = st.recursive(
    plain,
    lambda t: st.one_of(
        st.lists(t, max_size=3), st.dictionaries(st.one_of(st.text(max_size=6), st.integers()), t, max_size=3)
    ),
    max_leaves=8,
)
TOP = ("use", "name", "ranges", "layer", "data", "tasks", "root", "mask_ratio", "recode", "index", "kind", "train")
tops = st.dictionaries(st.one_of(st.sampled_from(TOP), st.text(max_size=5)), trees, max_size=5)


@FUZZ
@given(
    st.sampled_from([("train", "data"), ("train", "objective"), ("train", "encoder"), ("eval", "suite")]),
    st.one_of(tops, trees).map(lambda t: yaml.safe_dump(t, allow_unicode=True).encode("utf-8", "replace"))
    | st.binary(max_size=60),
)
def test_random_yaml_is_a_choice_or_one_line(tmp_path, where, content):
    entry, group = where
    file = Path(tmp_path) / "mine.yaml"
    file.write_bytes(content)
    right_or_one_line(lambda: compose(entry, [f"{group}={file}"]))
    right_or_one_line(lambda: compose(entry, [f"config={file}"]))


@FUZZ
@given(st.text(alphabet="x <>=%0123456789.eE-+|andorullintfsmeofkh_*", max_size=20), trees)
def test_random_ranges_are_read_or_refused(text, value):
    stated = parse_range(text)
    if stated is not None:
        stated.holds(value, {})
        assert stated.words({})
        right_or_one_line(lambda: check({"a": value}, {"a": stated}))


@settings(FUZZ, max_examples=15)  # each reads every yaml
@given(st.sampled_from(ENTRIES), st.one_of(words, st.sampled_from(KEYS["train"])))
def test_random_topics_of_help(entry, topic):
    told = right_or_one_line(lambda: usage(entry, "gfm x", [topic]))
    assert told is None or str(told).strip()
