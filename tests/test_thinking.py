"""Thinking in the styles of published models: small templates that behave like theirs, and responses as they write them."""

import copy
import dataclasses
import logging
from contextlib import nullcontext

import pytest

from optimum_ssgr.calibration.generate import generate_rollouts
from optimum_ssgr.chat.answers import Answer
from optimum_ssgr.config import CalibrationConfig, PromptConfig
from optimum_ssgr.errors import ConfigError, ModelError
from optimum_ssgr.evaluation.metrics import summarize
from optimum_ssgr.pruner import SSGRPruner
from optimum_ssgr.records import Problem, Rollout
from optimum_ssgr.rollouts.prompts import encode_prompts, resolve_prompting
from optimum_ssgr.rollouts.watch import FIRST, watch_thinking
from optimum_ssgr.thinking import choose_style, detect_style, thinking_part
from optimum_ssgr.verification.verify import grade_all


PROBLEM = Problem("p", "2 + 3?", "5")
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n"
PLAIN = TURNS + OPENS + "{% endif %}"
HARMONY = (
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort or 'medium' }}<|end|>"
    "{% for m in messages %}<|start|>{{ m.role }}{{ '<|channel|>final' if m.role == 'assistant' }}<|message|>{{ m.content }}"
    "<|end|>{% endfor %}{% if false %}<|channel|>analysis<|message|>{% endif %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
GEMMA = (
    "{% if enable_thinking %}<|think|>{% endif %}"
    "{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n"
    "{% if not enable_thinking %}<|channel>thought\n<channel|>{% endif %}{% endif %}"
)
GRANITE = (
    "{% if thinking %}<|im_start|>system\nWrite your thoughts after 'Here is my thought process:' and your answer after "
    "'Here is my response:'.<|im_end|>\n{% endif %}" + PLAIN
)
SWITCHED_OFF = TURNS + OPENS + "{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}"
SWITCHED_ON = (
    TURNS + OPENS + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
EFFORT = "{% set effort = reasoning_effort or 'none' %}[MODEL_SETTINGS]{{ effort }}[/MODEL_SETTINGS]" + PLAIN + "{# [THINK] #}"
# Style, template, tokens in the vocabulary, what the model writes up to its thought, and between that and the answer.
STYLES = {
    "opened by the template": ("think", TURNS + OPENS + "<think>\n{% endif %}", ["<think>", "</think>"], "", "</think>\n"),
    "opened by the model": ("think", SWITCHED_ON, ["<think>", "</think>"], "<think>\n", "\n</think>\n\n"),
    "off unless asked for": ("think", SWITCHED_OFF, ["<think>", "</think>"], "", "</think>"),
    "known to nobody": ("think", PLAIN, [], "<think>", "</think>"),
    "answer in a tag": ("think", PLAIN, [], "<think>\n", "\n</think>\n<answer>\n"),
    "gpt-oss": (
        "gpt-oss",
        HARMONY,
        ["<|start|>", "<|channel|>", "<|message|>", "<|return|>"],
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "gpt-oss, two thoughts": (
        "gpt-oss",
        HARMONY,
        ["<|start|>", "<|channel|>", "<|message|>", "<|return|>"],
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "gemma": ("gemma", GEMMA, ["<|channel>", "<channel|>", "<|think|>"], "<|channel>thought\n", "<channel|>"),
    "mistral": ("mistral", PLAIN + "{# [THINK] #}", ["[THINK]", "[/THINK]"], "[THINK]", "[/THINK]"),
    "seed": ("seed", PLAIN, ["<seed:think>", "</seed:think>", "<think>", "</think>"], "<seed:think>", "</seed:think>"),
    "minimax": ("minimax", PLAIN, ["<mm:think>", "</mm:think>", "<think>", "</think>"], "<mm:think>", "</mm:think>"),
    "kimi-vl": ("kimi-vl", PLAIN, ["◁think▷", "◁/think▷"], "◁think▷", "◁/think▷"),
    "exaone": ("exaone", TURNS + OPENS + "<thought>\n{% endif %}", ["<thought>", "</thought>"], "", "</thought>\n"),
    "marin": ("marin", PLAIN, ["<|start_think|>", "<|end_think|>"], "<|start_think|>", "<|end_think|>"),
    "cohere": (
        "cohere",
        PLAIN,
        ["<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"],
        "<|START_THINKING|>",
        "<|END_THINKING|><|START_RESPONSE|>",
    ),
    "openthinker": (
        "openthinker",
        "<|im_start|>system\nThink in <|begin_of_thought|>.<|im_end|>\n" + PLAIN,
        [],
        "<|begin_of_thought|>\n",
        "\n<|end_of_thought|>\n\n<|begin_of_solution|>\n",
    ),
    "kimi-k3": (
        "kimi-k3",
        PLAIN,
        ["<|open|>", "<|close|>", "<|sep|>"],
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|><|open|>response<|sep|>",
    ),
    "granite": ("granite", GRANITE, [], "Here is my thought process: ", "\n\nHere is my response: "),
}
ENDS = {"cohere": "<|END_RESPONSE|>", "openthinker": "\n<|end_of_solution|>", "kimi-k3": "<|close|>response<|sep|>"}


def make_tokenizer(reasoner, template, tokens, name="org/model"):
    tokenizer = copy.deepcopy(reasoner[1])
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", "<|end|>"])
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})  # which decoding may leave out
    if "<think>" not in tokens:  # a token of the embedded reasoner
        vocabulary = {token: id for token, id in tokenizer.get_vocab().items() if "think>" not in token or token in tokens}
        tokenizer.get_vocab = lambda: vocabulary
    tokenizer.chat_template, tokenizer.name_or_path = template, name
    return tokenizer


def grade(tokenizer, response, prompting=None, finished=True):
    prompting = prompting or PromptConfig()
    prompt = encode_prompts(tokenizer, [PROBLEM], prompting=prompting)["p"]
    ids = tokenizer.encode(response, add_special_tokens=False)
    style = choose_style(tokenizer, prompting.thinking, prompting.system)
    return grade_all({"p": PROBLEM}, [Rollout("p", 0, prompt, tuple(ids), finished)], tokenizer, style)


@pytest.mark.parametrize("case", STYLES)
def test_what_stands_in_the_thought_is_not_the_answer(reasoner, case):
    name, template, tokens, opening, closing = STYLES[case]
    tokenizer = make_tokenizer(reasoner, template, tokens)
    detected = detect_style(tokenizer)
    assert detected.name == name if template != PLAIN or tokens else detected is None

    wrong, right = r"It is \boxed{4}.", r"It is \boxed{5}."
    end = {"answer in a tag": "\n</answer>", "gpt-oss": "<|return|>"}.get(case) or ENDS.get(name, "<|im_end|>")
    [item] = grade(tokenizer, f"{opening}{wrong}{closing}{right}{end}")
    assert (item.verdict.answer, item.verdict.correct, item.verdict.thought) == ("5", True, True)
    assert thinking_part(item.text, choose_style(tokenizer)).removeprefix("Hm.").strip() == wrong

    unclosed = grade(tokenizer, f"{opening}{wrong} No. {right}")
    assert (unclosed[0].verdict.answer, unclosed[0].verdict.thought) == (None, False)
    assert summarize([item, *unclosed])["missing_think_end"] == 0.5


@pytest.mark.parametrize("case", STYLES)
def test_what_stands_in_a_thought_that_is_opened_again_is_not_the_answer(reasoner, case):
    """As models do that think between steps; the answer stands behind the last thought, if that is closed."""
    _, template, tokens, opening, closing = STYLES[case]
    tokenizer = make_tokenizer(reasoner, template, tokens)
    style = choose_style(tokenizer)
    again = (style.between or "\n") + style.opening
    first = rf"{opening}It is \boxed{{4}}.{closing}So \boxed{{6}}.{again}No, \boxed{{7}}."
    [item] = grade(tokenizer, rf"{first}{closing}\boxed{{5}}")
    assert (item.verdict.answer, item.verdict.thought) == ("5", True)
    shown = thinking_part(item.text, style)
    assert all(part in shown for part in ("4", "6", "7")) and "5" not in shown
    assert style.opening not in shown and style.closing not in shown
    [item] = grade(tokenizer, first)
    assert (item.verdict.answer, item.verdict.correct, item.verdict.thought) == (None, False, False)
    assert Answer(item.text if opening else style.opening + item.text, style=style).thinks


def test_an_answers_tag_need_not_be_closed(reasoner):
    """A server that stops at the closing tag leaves it out."""
    tokenizer = make_tokenizer(reasoner, PLAIN, [])
    [item] = grade(tokenizer, "<think>4?</think>\n<answer>\n5")
    assert (item.verdict.answer, item.verdict.thought) == ("5", True)


def test_a_response_without_a_thought_is_read_whole(reasoner):
    tokenizer = make_tokenizer(reasoner, *STYLES["gpt-oss"][1:3])
    [item] = grade(tokenizer, r"<|channel|>final<|message|>\boxed{5}<|return|>")
    assert (item.verdict.answer, item.verdict.thought) == ("5", None)
    [item] = grade(make_tokenizer(reasoner, PLAIN, []), r"\boxed{5}")
    assert (item.verdict.answer, item.verdict.thought) == ("5", None)


def test_delimiters_of_ones_own_and_those_that_a_system_message_asks_for(reasoner):
    tokenizer = make_tokenizer(reasoner, PLAIN, [])
    [item] = grade(tokenizer, r"(( \boxed{4} )) \boxed{5}", PromptConfig(thinking=("((", "))")))
    assert (item.verdict.answer, item.verdict.thought) == ("5", True)
    asked = PromptConfig(system="Think within <thought> and </thought>.")
    assert resolve_prompting(tokenizer, asked).thinking == ("exaone",)
    for wrong in (("no-such-style",), ("one", ""), ("a", "b", "c"), ()):
        with pytest.raises(ConfigError, match="thinking is one of gpt-oss"):
            PromptConfig(thinking=wrong)


@pytest.mark.parametrize(
    ("template", "switch"),
    [
        (SWITCHED_OFF, {"thinking": True}),
        (GEMMA, {"enable_thinking": True}),
        (GRANITE, {"thinking": True}),
        (EFFORT, {"reasoning_effort": "high"}),
        (SWITCHED_ON, {}),
        (HARMONY, {}),
    ],
)
def test_thinking_that_the_template_has_off_is_switched_on(reasoner, caplog, template, switch):
    tokenizer = make_tokenizer(reasoner, template, [], name=f"org/{abs(hash(template))}")
    resolved = resolve_prompting(tokenizer, PromptConfig())
    assert resolved.template_kwargs == switch
    assert resolve_prompting(tokenizer, resolved) == resolved
    assert ("has thinking switched off" in caplog.text) == bool(switch)
    for name, value in switch.items():
        assert f"rendered with {name}={str(value).lower()};" in caplog.text
        off = PromptConfig(template_kwargs={name: False if value is True else "none"})
        assert resolve_prompting(tokenizer, off).template_kwargs == off.template_kwargs
        assert encode_prompts(tokenizer, [PROBLEM], prompting=off) != encode_prompts(tokenizer, [PROBLEM])


def test_an_effort_that_is_given_does_not_leave_thinking_off(reasoner):
    tokenizer = make_tokenizer(reasoner, SWITCHED_OFF + "{# reasoning_effort #}", ["<think>", "</think>"])
    resolved = resolve_prompting(tokenizer, PromptConfig(template_kwargs={"reasoning_effort": "low"}))
    assert resolved.template_kwargs == {"reasoning_effort": "low", "thinking": True}


def test_variables_and_the_system_message_reach_the_prompt(reasoner):
    tokenizer = make_tokenizer(reasoner, HARMONY, STYLES["gpt-oss"][2])
    prompting = PromptConfig(template_kwargs={"reasoning_effort": "high"}, system="Be exact.")
    prompt = tokenizer.decode(encode_prompts(tokenizer, [PROBLEM], prompting=prompting)["p"])
    assert prompt.startswith("<|start|>system<|message|>Reasoning: high<|end|><|start|>system<|message|>Be exact.<|end|>")
    assert "Reasoning: medium" in tokenizer.decode(encode_prompts(tokenizer, [PROBLEM])["p"])
    with pytest.raises(ConfigError, match="of org/model has no variable reasoning_efort"):
        encode_prompts(tokenizer, [PROBLEM], prompting=PromptConfig(template_kwargs={"reasoning_efort": "high"}))
    with pytest.raises(ModelError, match="cannot render a question"):
        encode_prompts(tokenizer, [PROBLEM], prompting=PromptConfig(template_kwargs={"add_generation_prompt": False}))


def test_a_prompt_that_ends_with_a_closed_thought_is_told(reasoner, caplog):
    tokenizer = make_tokenizer(reasoner, SWITCHED_ON, ["<think>", "</think>"], name="org/closed")
    encode_prompts(tokenizer, [PROBLEM])
    assert "closed thought" not in caplog.text
    encode_prompts(tokenizer, [PROBLEM], prompting=PromptConfig(template_kwargs={"enable_thinking": False}))
    assert "org/closed ends the prompt with a closed thought (</think>)" in caplog.text


@pytest.mark.parametrize(
    ("template", "response", "told"),
    [
        (SWITCHED_ON, r"\boxed{5}", True),
        (SWITCHED_ON, "<think>\n\n</think>\n\n5", True),
        (SWITCHED_ON, "<think>Hm.</think>5", False),
        (PLAIN, r"\boxed{5}", False),  # nothing says that it could
    ],
)
def test_a_model_that_hardly_ever_thinks_though_it_can_is_told(reasoner, caplog, template, response, told):
    caplog.set_level(logging.WARNING)
    tokenizer = make_tokenizer(reasoner, template, [])
    ids, look = tuple(tokenizer.encode(response, add_special_tokens=False)), watch_thinking(tokenizer)
    for sample in range(2 * FIRST):
        look(Rollout("p", sample, (1,), ids, finished=sample % 2 == 0))
        assert ("finished responses 0 think" in caplog.text) == (told and sample >= 2 * FIRST - 2)


def test_how_a_model_was_addressed_is_in_the_manifest(reasoner):
    tokenizer = make_tokenizer(reasoner, SWITCHED_OFF, ["<think>", "</think>"])
    pruner = SSGRPruner(reasoner[0], tokenizer, prompting=PromptConfig(system="Be exact."))
    built = pruner.build_calibration([PROBLEM], CalibrationConfig(strategy="prompts"))
    known = {"template_kwargs": {"thinking": True}, "system": "Be exact.", "thinking": ["think"]}
    assert built.manifest.prompting == built.manifest.to_dict()["prompting"] == known
    prompt = tokenizer.decode(list(built.sequences[0]))
    assert "Be exact." in prompt and prompt.endswith("<think>")
    text = pruner.build_calibration(config=CalibrationConfig(strategy="text", text_length=8), text=["1 + 2 = 3. " * 40])
    assert text.manifest.prompting is None


class Writes:
    """An engine that answers every request with the same text."""

    def __init__(self, ids):
        self.ids = ids

    def check(self, requests):
        pass

    def generate(self, requests):
        for request in requests:
            yield Rollout(request.problem_id, request.sample, request.prompt_ids, self.ids, True)


@pytest.mark.parametrize("adaptive", [False, True])
def test_rollouts_are_generated_and_verified_in_the_models_style(reasoner, caplog, adaptive):
    _, template, tokens, opening, closing = STYLES["gpt-oss"]
    tokenizer = make_tokenizer(reasoner, template, tokens)
    problems = [dataclasses.replace(PROBLEM, id=str(number)) for number in range(FIRST)]
    prompts = encode_prompts(tokenizer, problems)
    config = CalibrationConfig(strategy="ssgr", samples_per_problem=4, adaptive=adaptive)
    for text, thinks in ((rf"{opening}\boxed{{4}}{closing}\boxed{{5}}", True), (r"\boxed{5}", False)):
        engine = Writes(tuple(tokenizer.encode(text, add_special_tokens=False)))
        graded = generate_rollouts(engine, tokenizer, problems, prompts, config, nullcontext())
        assert {(item.verdict.answer, item.verdict.thought) for item in graded} == {("5", True if thinks else None)}
        assert ("finished responses 0 think" in caplog.text) == (not thinks)
