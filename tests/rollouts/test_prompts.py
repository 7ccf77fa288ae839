"""Prompts by Mistral's own tokenizers, which have code where others have a chat template."""

import json
from base64 import b64encode
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedTokenizerFast
from transformers.utils import is_mistral_common_available

from optimum_ssgr.checkpoints.load import load_tokenizer
from optimum_ssgr.config import CalibrationConfig, PromptConfig, PruningConfig
from optimum_ssgr.errors import ModelError
from optimum_ssgr.pruner import SSGRPruner
from optimum_ssgr.records import Problem
from optimum_ssgr.rollouts import prompts
from optimum_ssgr.rollouts.ends import end_token_ids
from optimum_ssgr.rollouts.prompts import encode_prompts
from optimum_ssgr.tokens import renders, tokenizer_hash


PROBLEMS = [Problem("a", "What is 1 + 1?", "2"), Problem("b", "And 2 + 3 + 4?", "9")]


with_mistral_common = pytest.mark.skipif(not is_mistral_common_available(), reason="takes a recent mistral-common")


@with_mistral_common
def test_mistral_tokenizers_render_conversations():
    import mistral_common
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


def write_tekken(folder):
    """A tokenizer file as Mistral writes them, whose vocabulary is the 256 bytes."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]
    special += ["[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"]
    special += [
        "[SUFFIX]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "[TOOL_CONTENT]",
        "[ARGS]",
        "[CALL_ID]",
        "[THINK]",
        "[/THINK]",
    ]
    count = 32
    special += [f"<SPECIAL_{number}>" for number in range(len(special), count)]
    config = {"pattern": r"\w+|\W", "num_vocab_tokens": 256, "default_vocab_size": count + 256, "version": "v13"}
    values = {
        "config": {**config, "default_num_special_tokens": count},
        "vocab": [
            {"rank": byte, "token_bytes": b64encode(bytes([byte])).decode(), "token_str": chr(byte)} for byte in range(256)
        ],
        "special_tokens": [{"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(special)],
    }
    (folder / "tekken.json").write_text(json.dumps(values))


@pytest.fixture
def mistral(tmp_path):
    """A tiny model whose tokenizer is Mistral's own."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 288, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(**sizes, num_key_value_heads=2, head_dim=8, max_position_embeddings=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
    write_tekken(tmp_path / "dense")
    return tmp_path / "dense"


@with_mistral_common
def test_a_model_with_mistrals_tokenizer_goes_the_whole_way(mistral, tmp_path):
    pruner = SSGRPruner.from_pretrained(str(mistral), prompting=PromptConfig(system="Be exact."))
    assert type(pruner.tokenizer).__name__ == "MistralCommonBackend"
    config = CalibrationConfig(strategy="rac", samples_per_problem=2, max_new_tokens=8)
    calibration = pruner.build_calibration(PROBLEMS, config)
    assert calibration.manifest.prompting["thinking"] == ["mistral"]
    text = pruner.tokenizer.decode(list(calibration.sequences[0]), skip_special_tokens=False)
    assert "Be exact." in text and any(f"[INST]{problem.question}[/INST]" in text for problem in PROBLEMS)
    pruner.prune(calibration, PruningConfig(method="wanda"))
    pruner.save_pretrained(tmp_path / "sparse")
    assert (tmp_path / "sparse" / "tekken.json").read_bytes() == (mistral / "tekken.json").read_bytes()
    assert encode_prompts(load_tokenizer(str(tmp_path / "sparse")), PROBLEMS) == encode_prompts(pruner.tokenizer, PROBLEMS)


def test_the_package_that_renders_mistrals_conversations_is_named_where_it_is_missing(mistral, monkeypatch):
    monkeypatch.setattr(prompts, "is_mistral_common_available", lambda: False)  # or too old
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), name_or_path=str(mistral))
    with pytest.raises(
        ModelError, match=r"a tokenizer of Mistral's own \(tekken\.json\).*pip install --upgrade mistral-common"
    ):
        encode_prompts(tokenizer, PROBLEMS)


def test_a_tokenizer_without_either_is_refused():
    tokenizer = load_tokenizer("tiny-reasoner")
    assert renders(tokenizer)
    tokenizer.chat_template = None
    assert not renders(tokenizer)
    with pytest.raises(ModelError, match="no chat template"):
        encode_prompts(tokenizer, PROBLEMS)
