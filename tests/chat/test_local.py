import copy
import threading

import pytest
import torch

from optimum_ssgr.chat.backends import ChatRequest
from optimum_ssgr.chat.local import LocalBackend
from optimum_ssgr.config import PromptConfig
from optimum_ssgr.errors import ModelError
from optimum_ssgr.problems.load import load_problems


QUESTION = load_problems("tiny-reasoner", split="test", limit=1)[0].question


def text_of(backend, temperature=0.0, most=400, seed=0, messages=(("user", QUESTION),)):
    request = ChatRequest(messages, temperature, most, seed)
    return "".join(piece.text for piece in backend.stream(request, lambda: False))


@pytest.fixture(scope="module")
def backend(reasoner):
    return LocalBackend(*reasoner)


def test_greedy_text_is_that_of_generate(backend, reasoner):
    model, tokenizer = reasoner
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        written = model.generate(**prompt, max_new_tokens=400, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert written[-1].item() in backend.eos
    assert text_of(backend) == "<think>\n" + tokenizer.decode(written[:-1])


def test_a_seed_gives_the_same_text_again_and_another_seed_another(backend):
    texts = [text_of(backend, temperature=1.5, seed=seed, most=60) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
def test_conversations_at_the_same_time_do_not_mix(backend):
    alone = [text_of(backend, temperature=1.0, seed=seed) for seed in range(4)]
    together = [None] * 4

    def ask(seed):
        together[seed] = text_of(backend, temperature=1.0, seed=seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert together == alone


def test_it_stops_between_tokens(backend):
    pieces = []
    for piece in backend.stream(ChatRequest((("user", QUESTION),), 0.0, 400, 0), lambda: len(pieces) >= 5):
        pieces.append(piece)
    assert len(pieces) == 5


def test_the_token_limit_is_told_from_an_end(backend):
    cut = list(backend.stream(ChatRequest((("user", QUESTION),), 0.0, 3, 0), lambda: False))
    assert sum(piece.tokens for piece in cut) == 3 and cut[-1].finish == "length"
    whole = list(backend.stream(ChatRequest((("user", QUESTION),), 0.0, 400, 0), lambda: False))
    assert whole[-1].finish == "stop"


@pytest.mark.slow
def test_characters_of_several_tokens_arrive_whole(backend):
    """The byte-level model is led to copy a character of several tokens; no part of it may come alone."""
    backend_tokenizer = backend.tokenizer.backend_tokenizer
    assert len(backend_tokenizer.encode("🙂").ids) > 1
    text = text_of(backend, temperature=2.0, seed=3, most=300, messages=(("user", "🙂 " * 30),))
    ids = []
    for piece in backend.stream(ChatRequest((("user", "🙂 " * 30),), 2.0, 300, 3), lambda: False):
        ids += piece.token_ids
    assert text == "<think>\n" + backend.tokenizer.decode([token for token in ids if token not in backend.eos])


def test_a_conversation_beyond_the_context_is_refused(backend):
    with pytest.raises(ModelError, match="start a new one"):
        text_of(backend, messages=(("user", "1 " * 2000),))


def test_a_question_about_the_tag_does_not_open_the_thinking(reasoner):
    model, tokenizer = reasoner[0], copy.deepcopy(reasoner[1])
    tokenizer.chat_template = "{{ messages[0]['content'] }}\n"
    backend = LocalBackend(model, tokenizer)
    assert not text_of(backend, most=5, messages=(("user", "What is <think> for? 1"),)).startswith("<think>")
    tokenizer.chat_template = "{{ messages[0]['content'] }} <think>\n"
    assert text_of(backend, most=5, messages=(("user", "What is </think> for?"),)).startswith("<think>")


def test_the_template_is_filled_as_it_is_set(reasoner):
    model, tokenizer = reasoner[0], copy.deepcopy(reasoner[1])
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if enable_thinking %} <thought>\n{% endif %}"
    backend = LocalBackend(model, tokenizer, PromptConfig(system="1"))  # which this template takes for the question
    assert backend.prompting.template_kwargs == {"enable_thinking": True} and backend.style.name == "exaone"
    assert text_of(backend, most=5).startswith("<thought>\n")
    off = LocalBackend(model, tokenizer, PromptConfig(template_kwargs={"enable_thinking": False}))
    assert not text_of(off, most=5).startswith("<thought>")


def test_scores_that_are_no_numbers_are_an_error(reasoner):
    model = copy.deepcopy(reasoner[0])
    model.get_output_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="scores of tiny-reasoner for the next token are not numbers"):
        text_of(LocalBackend(model, reasoner[1]))


@pytest.mark.slow
def test_an_end_that_only_the_tokenizer_names_ends_an_answer(backend, reasoner):
    model = copy.deepcopy(reasoner[0])
    model.generation_config.eos_token_id = 300
    assert text_of(LocalBackend(model, reasoner[1])) == text_of(backend)


def test_a_model_without_chat_template_is_refused(reasoner):
    model, tokenizer = reasoner
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(ModelError, match="chat template"):
            LocalBackend(model, tokenizer)
    finally:
        tokenizer.chat_template = template
