"""Prompts by Mistral's own tokenizers, which have code where others have a chat template."""

from pathlib import Path

import pytest

from optimum_ssgr.checkpoints.load import load_tokenizer
from optimum_ssgr.errors import ModelError
from optimum_ssgr.records import Problem
from optimum_ssgr.rollouts.ends import end_token_ids
from optimum_ssgr.rollouts.prompts import encode_prompts
from optimum_ssgr.tokens import renders, tokenizer_hash


PROBLEMS = [Problem("a", "What is 1 + 1?", "2"), Problem("b", "And 2 + 3 + 4?", "9")]


def test_mistral_tokenizers_render_conversations():
    mistral_common = pytest.importorskip("mistral_common")
    from mistral_common.protocol.instruct.messages import UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from transformers.tokenization_mistral_common import MistralCommonBackend

    file = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    tokenizer, own = MistralCommonBackend(tokenizer_path=str(file)), MistralTokenizer.from_file(str(file))
    assert renders(tokenizer)
    rendered = encode_prompts(tokenizer, PROBLEMS)
    for problem in PROBLEMS:
        asked = ChatCompletionRequest(messages=[UserMessage(content=problem.question)])
        assert rendered[problem.id] == tuple(own.encode_chat_completion(asked).tokens)
    assert end_token_ids(None, tokenizer, "a model") == {tokenizer.eos_token_id}
    assert len(tokenizer_hash(tokenizer)) == 64


def test_a_tokenizer_without_either_is_refused():
    tokenizer = load_tokenizer("tiny-reasoner")
    assert renders(tokenizer)
    tokenizer.chat_template = None
    assert not renders(tokenizer)
    with pytest.raises(ModelError, match="no chat template"):
        encode_prompts(tokenizer, PROBLEMS)
