"""The ends of responses, with tokenizers and generation configs that are at odds as those of published models are."""

import copy
import logging

import pytest
from transformers import GenerationConfig

from optimum_ssgr.config import EngineConfig, SamplingConfig
from optimum_ssgr.errors import ModelError
from optimum_ssgr.records import Problem
from optimum_ssgr.rollouts.choose import open_engine
from optimum_ssgr.rollouts.ends import end_token_ids
from optimum_ssgr.rollouts.engine import Request
from optimum_ssgr.rollouts.prompts import encode_prompts


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def chatml(reasoner):
    """A tokenizer whose template ends a turn with a token of its own, as Qwen's base models have it."""
    tokenizer = copy.deepcopy(reasoner[1])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def ends(configured, tokenizer, model="org/model"):
    return end_token_ids(GenerationConfig(eos_token_id=configured), tokenizer, model)


def test_they_are_those_of_both(chatml, reasoner, caplog):
    end, turn = chatml.eos_token_id, chatml.convert_tokens_to_ids("<|im_end|>")
    assert len({end, turn}) == 2
    assert ends(end, chatml) == {end, turn}
    assert "generation config of org/model ends a response at the tokens 1 (<|end|>), its tokenizer at" in caplog.text
    assert "(<|im_end|>)" in caplog.text
    caplog.clear()
    assert ends([end, turn, 9], chatml, "org/other") == {end, turn, 9}
    assert ends(reasoner[1].eos_token_id, reasoner[1], "org/third") == {reasoner[1].eos_token_id}
    assert not caplog.text  # nothing is missing in the generation config


def test_either_is_enough(chatml, caplog):
    both = {chatml.eos_token_id, chatml.convert_tokens_to_ids("<|im_end|>")}
    assert end_token_ids(None, chatml, "m") == ends(None, chatml) == both
    assert end_token_ids(GenerationConfig(eos_token_id=7), None, "m") == {7}
    assert not caplog.text


def test_what_cannot_end_is_refused():
    with pytest.raises(ModelError, match="generation config nor the tokenizer of org/model names an end-of-sequence token"):
        ends(None, None)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no assistant here') }}",
        "{{ messages[0].content }}",
        "{{ messages[0].content }} {{ messages[-1].content }}",
        "{% for m in messages %}{{ m.content }}\nnext{% endfor %}",
    ],
)
def test_a_template_without_an_end_of_its_own_adds_none(chatml, template):
    chatml.chat_template = template
    assert ends(chatml.eos_token_id, chatml) == {chatml.eos_token_id}


def test_the_engine_stops_at_an_end_that_only_the_tokenizer_names(reasoner, caplog):
    """The embedded model with a generation config that names another token: it would write to the limit."""
    caplog.set_level(logging.WARNING)
    model, tokenizer = copy.deepcopy(reasoner[0]), reasoner[1]
    prompts = encode_prompts(tokenizer, [Problem("p", "Count the digit 1.\na 1\nb 2\nc 1\nd 7", "2")])
    sampling = SamplingConfig(temperature=0, max_new_tokens=200)
    request = Request("p", 0, prompts["p"], 0)
    with open_engine(EngineConfig(), reasoner[0], tokenizer, sampling, 1) as engine:
        (expected,) = engine.generate([request])
    model.generation_config.eos_token_id = 300
    with open_engine(EngineConfig(), model, tokenizer, sampling, 1) as engine:
        (found,) = engine.generate([request])
    assert expected.finished and found == expected
