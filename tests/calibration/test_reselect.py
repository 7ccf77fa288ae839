import dataclasses
import json

import pytest

from optimum_ssgr.calibration.select import build_set, encode_text, reselect
from optimum_ssgr.calibration.strategies import Sources, select
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import DataError
from optimum_ssgr.formats import Manifest, Origin
from optimum_ssgr.tokens import tokenizer_hash

from .test_strategies import graded


ITEMS = graded({f"p{n}": n % 5 for n in range(30)})


def origin_of(tokenizer, text=None):
    known = {"model": "tiny-reasoner", "model_commit": None, "dtype": "float32", "versions": {}}
    return Origin(**known, tokenizer_hash=tokenizer_hash(tokenizer), text=text)


@pytest.fixture
def earlier(reasoner):
    config = CalibrationConfig(num_sequences=8, samples_per_problem=4, temperature=0.7)
    return build_set(Sources(ITEMS), config, origin_of(reasoner[1]))


@pytest.mark.parametrize("strategy", ["ssgr", "self", "rac", "resp", "obc", "prompts"])
def test_the_same_as_selecting_from_the_rollouts_themselves(earlier, strategy):
    config = CalibrationConfig(strategy=strategy, num_sequences=12, seed=3)
    again = reselect(earlier, config)
    prompts = {item.problem.id: item.rollout.prompt_ids for item in ITEMS}
    assert again.sequences == [list(s.input_ids) for s in select(Sources(ITEMS, prompts), config)]
    assert again.rollouts.to_list() == earlier.rollouts.to_list()
    assert again.manifest.calibration["temperature"] == 0.7
    assert again.manifest.reselected_from.content_hash == earlier.manifest.content_hash
    assert Manifest.from_dict(json.loads(again.manifest.to_json())) == again.manifest


def test_where_the_earlier_set_is_on_the_hub_does_not_become_the_new_ones_place(earlier):
    place = {"id": "alice/set", "commit": "0" * 40}
    pulled = dataclasses.replace(earlier, manifest=dataclasses.replace(earlier.manifest, hub=place))
    again = reselect(pulled, CalibrationConfig(strategy="rac", num_sequences=3))
    assert "hub" not in again.manifest.to_dict()
    assert again.manifest.reselected_from.hub == place


@pytest.mark.parametrize(("strategy", "adaptive"), [("ssgr", True), ("mix", False)])
def test_the_rollouts_of_a_selected_set_come_from_the_first_one(reasoner, strategy, adaptive, caplog):
    """With its settings: they were sampled adaptively, whatever was selected since, and a mixture had its text."""
    tokenizer, text = reasoner[1], ["some words of general text " * 100]
    settings = {"strategy": strategy, "adaptive": adaptive}
    config = CalibrationConfig(**settings, num_sequences=8, text_length=16, samples_per_problem=4)
    origin = origin_of(tokenizer, "first.txt" if strategy == "mix" else None)
    sources = dataclasses.replace(encode_text(tokenizer, text, config), rollouts=ITEMS)
    first = build_set(sources, config, origin)
    by_text = CalibrationConfig(strategy="text", num_sequences=3, text_length=16)
    second = reselect(first, by_text, tokenizer, text, "second.txt")
    caplog.clear()
    third = reselect(second, CalibrationConfig(strategy="self", num_sequences=3))
    assert second.manifest.reselected_from == third.manifest.reselected_from
    came_from = third.manifest.reselected_from
    assert came_from.content_hash == first.manifest.content_hash and came_from.text == origin.text
    assert came_from.calibration == config.to_dict() and ("sampled adaptively" in caplog.text) == adaptive
    assert second.manifest.text == "second.txt" and "text" not in third.manifest.to_dict()


def test_mixtures_need_the_models_tokenizer(earlier, reasoner):
    config = CalibrationConfig(strategy="mix", num_sequences=12, text_length=16)
    mixed = reselect(earlier, config, reasoner[1], ["some words of general text " * 100])
    assert {row["selected_by"] for row in mixed.dataset} >= {"text", "ssgr"}
    with pytest.raises(DataError, match="needs the tokenizer that the rollouts were made with"):
        reselect(earlier, config)


def test_a_set_without_rollouts_is_refused(reasoner):
    config = CalibrationConfig(strategy="prompts", num_sequences=2)
    bare = build_set(Sources(prompts={"a": (1,), "b": (2,)}), config, origin_of(reasoner[1]))
    with pytest.raises(DataError, match="holds no rollouts"):
        reselect(bare, config)
