"""What `/v1/completions` is asked, and what is made of its answer: token ids, exactly as the model wrote them."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from ..config import SamplingConfig
from ..errors import ModelError
from ..records import Rollout
from .engine import Request


Dialect = Literal["ids", "text"]
"""`ids`: prompts are token ids (vLLM, SGLang). `text`: prompts are strings (`transformers serve`)."""

DIALECTS: tuple[Dialect, ...] = ("ids", "text")


CONTEXT_SETTINGS = (
    "OLLAMA_CONTEXT_LENGTH for Ollama, -c for llama.cpp, where -np slots share it, --max-model-len for vLLM, --context-length "
    "for SGLang"
)
"""Where servers are told how long a sequence may be; Ollama and llama.cpp cut what is longer without a word."""


class MalformedAnswer(Exception):
    """The answer is not a completion; another try may give one."""


class LostResponse(Exception):
    """The response cannot be had as the exact token ids that the model wrote."""

    advice = "generate with a server that returns token ids (vLLM, SGLang)."


class GivenUp(LostResponse):
    """The response cannot be had at all."""

    advice = "see what the server's log says, and give the same command again."


def completion_body(
    request: Request,
    model: str,
    sampling: SamplingConfig,
    tokenizer: PreTrainedTokenizerBase,
    ends: frozenset[int],
    dialect: Dialect,
    seeded: bool = True,
    samples: int = 1,
) -> dict[str, Any]:
    """Build the JSON body of one request.

    Args:
        request: What to sample.
        model: Name of the model on the server.
        sampling: How to sample.
        tokenizer: The model's tokenizer.
        ends: Tokens that end a response.
        dialect: What the server understands.
        seeded: Whether the request carries its seed.
        samples: Responses to draw for the prompt.

    Raises:
        ModelError: The prompt has no text that is tokenized to its ids.
    """
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # Servers take what is left out from the model's generation config or from settings of their own, so that everything is
        # said: only temperature and top_p shape the distribution, as in the in-process engine.
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    if seeded:
        body["seed"] = request.seed & 0x7FFFFFFF  # the widest that every server takes
    if samples > 1:
        body["n"] = samples
    if dialect == "ids":
        # Unknown fields are ignored by vLLM and SGLang. They end a response at the ids of their generation config anyway.
        neutral = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": sorted(ends)}
        kept = {"return_token_ids": True, "skip_special_tokens": False, "spaces_between_special_tokens": False}
        return body | neutral | kept | {"prompt": list(request.prompt_ids)}
    # `transformers serve` samples only if the generation config says so, and with --continuous-batching it never ends a
    # response unless the config names the end-of-sequence token.
    generation = {"do_sample": sampling.temperature > 0, "top_k": 0, "eos_token_id": sorted(ends)}
    return body | {"prompt": _prompt_text(tokenizer, request.prompt_ids), "generation_config": json.dumps(generation)}


def _prompt_text(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    """Find the text that a plain `tokenizer(text)`, which may add a beginning-of-sequence token, turns into the ids."""
    for start in (0, 1):
        text = tokenizer.decode(ids[start:], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if tuple(tokenizer(text)["input_ids"]) == ids:
            return text
    raise ModelError(
        "the server takes prompts as text only, and this model's tokenizer does not turn the text of a prompt back into its "
        "tokens; generate with vLLM or SGLang, which take token ids."
    )


def read_completions(
    answer: Any,
    requests: Sequence[Request],
    tokenizer: PreTrainedTokenizerBase,
    ends: frozenset[int],
    max_new_tokens: int,
) -> list[Rollout | LostResponse]:
    """Turn a server's answer to several requests of one prompt into rollouts, see `read_completion`.

    A server that draws fewer responses than it was asked for answers the first of the requests.

    Raises:
        MalformedAnswer: The answer is no completion, or the server broke one off.
        ModelError: The server saw another prompt.
    """
    try:
        choices, usage = answer["choices"][: len(requests)], answer.get("usage") or {}
    except (TypeError, KeyError, AttributeError):
        raise MalformedAnswer("its answer is not a completion") from None
    if len(requests) > 1:
        usage = {"prompt_tokens": usage.get("prompt_tokens")}  # the others are counts of all responses together
    found: list[Rollout | LostResponse] = []
    for request, choice in zip(requests, choices, strict=False):
        one = {"choices": [choice], "usage": usage}
        try:
            found.append(read_completion(one, request, tokenizer, ends, max_new_tokens))
        except LostResponse as error:
            found.append(error)
    if not found:
        raise MalformedAnswer("its answer is empty")
    return found


def read_completion(
    answer: Any, request: Request, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], max_new_tokens: int
) -> Rollout:
    """Turn a server's answer into a rollout.

    A response is finished when its last token is an end, as it is in process, whatever the server calls it. One that stopped
    short of the limit was ended by the server, at a token that only it knows.

    Args:
        answer: Decoded JSON of the response.
        request: What was asked.
        tokenizer: The model's tokenizer.
        ends: Tokens that end a response.
        max_new_tokens: Longest response that was asked for.

    Raises:
        MalformedAnswer: The answer is no completion, or the server broke it off.
        LostResponse: The server returned no token ids, and the text does not lead back to them.
        ModelError: The server saw another prompt.
    """
    try:
        choice = answer["choices"][0]
        text, reason = choice["text"], choice["finish_reason"]
        usage = answer.get("usage") or {}
        ids, seen = choice.get("token_ids"), choice.get("prompt_token_ids")
        prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        ending = next((choice[key] for key in ("matched_stop", "stop_reason") if type(choice.get(key)) is int), None)
    except (TypeError, KeyError, IndexError, AttributeError):
        raise MalformedAnswer("its answer is not a completion") from None
    if not isinstance(text, str) or reason not in ("stop", "length"):
        raise MalformedAnswer(f"it broke a response off (finish_reason {reason!r})")
    _check_prompt(request, seen, prompt_tokens)
    known = ends if ending is None else ends | {ending}
    exact = ids is not None
    if exact:
        is_end_hidden = ending is not None or completion_tokens == len(ids) + 1
    else:
        ids = _tokenize_exactly(text, request, tokenizer)
        is_end_hidden = reason == "stop" and len(ids) < max_new_tokens
    if is_end_hidden and not known.intersection(ids[-1:]):
        usual = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else min(ends)
        ids = [*ids, usual if ending is None else ending]
    if not exact and completion_tokens not in (None, len(ids)):
        raise LostResponse(f"the server counted {completion_tokens} tokens, the tokenizer {len(ids)}")
    if not ids:
        raise MalformedAnswer("its answer is empty")
    finished = ids[-1] in known or (reason == "stop" and len(ids) < max_new_tokens)
    return Rollout(request.problem_id, request.sample, request.prompt_ids, tuple(ids), finished)


def _check_prompt(request: Request, seen: list[int] | None, prompt_tokens: int | None) -> None:
    advice = "check that it serves the model given here, with the same tokenizer and chat template."
    if prompt_tokens is not None and prompt_tokens < len(request.prompt_ids):
        advice = f"if it cuts long prompts, start it with a longer context ({CONTEXT_SETTINGS}); else {advice}"
    if prompt_tokens not in (None, len(request.prompt_ids)):
        raise ModelError(f"the server saw a prompt of {prompt_tokens} tokens instead of {len(request.prompt_ids)}; {advice}")
    if seen is not None and tuple(seen) != request.prompt_ids:
        raise ModelError(f"the server saw other prompt tokens than it was sent; {advice}")


def _tokenize_exactly(text: str, request: Request, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Recover token ids from text, or refuse.

    Several sequences of tokens may spell one text. Ids are accepted only if they spell prompt and text together and, with the
    end, are as many as the server counted; vLLM, SGLang and `transformers serve` all count the end-of-sequence token, and leave
    it out of the text. What cannot be seen from outside is another split of the same text into as many tokens.
    """
    if "\ufffd" in text:
        raise LostResponse("a character was cut")
    ids = tokenizer.encode(text, add_special_tokens=False)
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    prompt = tokenizer.decode(request.prompt_ids, **options)
    if tokenizer.decode([*request.prompt_ids, *ids], **options) != prompt + text:
        raise LostResponse("its tokens spell another text")
    return ids
