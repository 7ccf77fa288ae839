import json

import pytest
from tokenizers.normalizers import Lowercase
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from optimum_ssgr.config import SamplingConfig
from optimum_ssgr.errors import ModelError
from optimum_ssgr.reasoner import WEIGHTS
from optimum_ssgr.rollouts.completions import LostResponse, MalformedAnswer, completion_body, read_completion
from optimum_ssgr.rollouts.engine import Request


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(WEIGHTS)


ENDS = frozenset({1, 499})  # of the embedded reasoner, and one more
PROMPT = "<|user|>What is 3 + 4?<|assistant|><think>\n"


def request_for(ids):
    return Request("a", 0, tuple(ids), 2**62 + 5)


def answer(text, reason="stop", completion_tokens=None, **choice):
    usage = {} if completion_tokens is None else {"usage": {"completion_tokens": completion_tokens}}
    return {"choices": [{"text": text, "finish_reason": reason} | choice]} | usage


def body_of(request, tokenizer, dialect, **sampling):
    return completion_body(request, "m", SamplingConfig(**sampling), tokenizer, ENDS, dialect)


def read(content, request, tokenizer, most=100):
    return read_completion(content, request, tokenizer, ENDS, most)


def test_a_prompt_sent_as_text_is_tokenized_back_to_its_ids(tokenizer):
    ids = tokenizer.encode(PROMPT, add_special_tokens=False)
    assert body_of(request_for(ids), tokenizer, "text")["prompt"] == PROMPT
    assert body_of(request_for(ids), tokenizer, "ids")["prompt"] == ids
    # A tokenizer that puts a beginning-of-sequence token before every text would double the one that the prompt has.
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    body = body_of(request_for([tokenizer.bos_token_id, *ids]), tokenizer, "text")
    assert body["prompt"] == PROMPT
    assert tokenizer(body["prompt"])["input_ids"] == [tokenizer.bos_token_id, *ids]
    with pytest.raises(ModelError, match="takes prompts as text only"):
        body_of(request_for(ids), tokenizer, "text")  # the server could only see it with one more token


def test_a_prompt_split_in_an_unusual_way_cannot_be_sent_as_text(tokenizer):
    letters = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "What"]
    assert tokenizer.encode("What", add_special_tokens=False) != letters
    with pytest.raises(ModelError, match="generate with vLLM or SGLang"):
        body_of(request_for(letters), tokenizer, "text")


def test_temperature_zero_is_greedy_for_transformers_serve(tokenizer):
    request = request_for(tokenizer.encode(PROMPT, add_special_tokens=False))
    for temperature, sampled in ((0.0, False), (0.6, True)):
        body = body_of(request, tokenizer, "text", temperature=temperature)
        assert json.loads(body["generation_config"])["do_sample"] is sampled
        assert body["temperature"] == temperature


def test_the_end_is_the_token_that_the_server_names(tokenizer):
    request = request_for([5, 6])
    for choice, ids in (
        ({"token_ids": [9, 8, 7], "stop_reason": 7}, (9, 8, 7)),
        ({"token_ids": [9, 8], "matched_stop": 7}, (9, 8, 7)),
        ({"token_ids": [9, 8, 1], "matched_stop": 1}, (9, 8, 1)),
        ({"token_ids": [9, 8, 1], "stop_reason": None}, (9, 8, 1)),
        ({"token_ids": [9, 8, 3], "stop_reason": None}, (9, 8, 3)),  # another end-of-sequence token of the model
    ):
        counted = answer("xy", completion_tokens=3, **choice)
        assert read(counted, request, tokenizer).response_ids == ids


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_whether_it_is_finished_is_seen_from_the_last_token_and_the_count(tokenizer, reason):
    """As in process, whatever the server calls it."""
    for ids, most, finished in (
        ([9, 8, 1], 3, True),  # the end just fits
        ([9, 8, 499], 3, True),  # the other end
        ([9, 8, 7], 3, False),
        ([9, 8, 1], 4, True),
    ):
        content = answer("xy", reason, len(ids), token_ids=ids, stop_reason=None)
        rollout = read(content, request_for([5, 6]), tokenizer, most)
        assert (list(rollout.response_ids), rollout.finished) == (ids, finished)
    hidden = read(answer("xy", reason, 3, token_ids=[9, 8]), request_for([5, 6]), tokenizer, 3)
    assert (hidden.response_ids, hidden.finished) == ((9, 8, 1), True)
    text = tokenizer.encode("The answer is 4.", add_special_tokens=False)
    rollout = read(answer("The answer is 4.", reason, len(text)), request_for([5, 6]), tokenizer, len(text))
    assert (list(rollout.response_ids), rollout.finished) == (text, False)
    rollout = read(answer("The answer is 4.<|end|>", reason, len(text) + 1), request_for([5, 6]), tokenizer, len(text) + 1)
    assert (list(rollout.response_ids), rollout.finished) == ([*text, 1], True)


def test_a_response_that_a_server_cut_below_the_limit_is_not_finished(tokenizer):
    content = answer("xy", "length", 2, token_ids=[9, 8])
    assert not read(content, request_for([5, 6]), tokenizer, 50).finished


def test_nothing_but_temperature_and_top_p_shapes_what_is_drawn(tokenizer):
    ids = tokenizer.encode(PROMPT, add_special_tokens=False)
    body = body_of(request_for(ids), tokenizer, "ids")
    neutral = {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "min_p": 0, "top_k": -1}
    assert {name: body[name] for name in neutral} == neutral
    body = body_of(request_for(ids), tokenizer, "text")
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0, 0)


def test_servers_end_a_response_where_the_engine_in_process_does(tokenizer):
    ids = tokenizer.encode(PROMPT, add_special_tokens=False)
    assert body_of(request_for(ids), tokenizer, "ids")["stop_token_ids"] == [1, 499]
    body = body_of(request_for(ids), tokenizer, "text")
    assert json.loads(body["generation_config"])["eos_token_id"] == [1, 499]


def test_text_ends_with_the_end_only_if_the_model_ended(tokenizer):
    request = request_for([5, 6])
    ids = tokenizer.encode("The answer is 4.", add_special_tokens=False)
    for text, reason, counted, response in (
        ("The answer is 4.", "stop", len(ids) + 1, [*ids, 1]),
        ("The answer is 4.<|end|>", "stop", len(ids) + 1, [*ids, 1]),
        ("The answer is 4.", "stop", None, [*ids, 1]),
        ("The answer is 4.", "length", len(ids), ids),
        ("", "stop", 1, [1]),
    ):
        rollout = read(answer(text, reason, counted), request, tokenizer)
        assert (list(rollout.response_ids), rollout.finished) == (response, reason == "stop")


@pytest.mark.parametrize(
    ("text", "reason", "counted"),
    [("The answer is 4.", "stop", 99), ("The answer is 4.", "length", 99), ("caf\ufffd", "length", None)],
)
def test_text_that_does_not_lead_back_to_the_tokens_is_lost(tokenizer, text, reason, counted):
    with pytest.raises(LostResponse):
        read(answer(text, reason, counted), request_for([5, 6]), tokenizer)


def test_a_tokenizer_that_changes_the_text_is_noticed(tokenizer):
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(LostResponse, match="another text"):
        read(answer("The answer"), request_for([5, 6]), tokenizer)


@pytest.mark.parametrize(
    "content",
    [
        [],
        None,
        "text",
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"text": "a"}]},
        answer(None),
        answer("a", "abort"),
    ],
    ids=repr,
)
def test_what_is_no_completion_is_told_apart(tokenizer, content):
    with pytest.raises(MalformedAnswer):
        read(content, request_for([5, 6]), tokenizer)


def test_another_prompt_of_the_same_length_is_refused(tokenizer):
    content = answer("x", token_ids=[9], prompt_token_ids=[5, 7])
    with pytest.raises(ModelError, match="other prompt tokens"):
        read(content, request_for([5, 6]), tokenizer)
