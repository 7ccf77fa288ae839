"""llm-compressor's `oneshot` with its two pruning modifiers."""

from collections.abc import Callable

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM


def contender(method: str, pattern: str, calibration: torch.Tensor, batch: int) -> Callable[[Qwen2ForCausalLM], None]:
    """Import llm-compressor and return what prunes a model with it.

    It gets the same sequences in the same order as a `datasets.Dataset` of tokens, made here, before the clock starts. Block
    size 128 and damping 0.01 are its defaults and everybody's. `oneshot` wants a tokenizer even for a tokenized dataset, so it
    gets an empty one; nothing is saved.
    """
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokens = calibration.tolist()
    dataset = Dataset.from_dict({"input_ids": tokens, "attention_mask": [[1] * len(row) for row in tokens]})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")))
    common = {
        "sparsity": 0.5,
        "mask_structure": "2:4" if pattern == "2:4" else "0:0",
        "targets": ["Qwen2DecoderLayer"],
        "ignore": ["re:.*lm_head"],
    }
    if method == "sparsegpt":
        modifier = SparseGPTModifier(**common, block_size=128, dampening_frac=0.01)
    else:
        modifier = WandaPruningModifier(**common)

    def prune(model: Qwen2ForCausalLM) -> None:
        oneshot(
            model=model,
            tokenizer=tokenizer,
            recipe=[modifier],
            dataset=dataset,
            num_calibration_samples=len(tokens),
            max_seq_length=calibration.shape[1],
            shuffle_calibration_samples=False,
            batch_size=batch,
            pipeline="sequential",
            sequential_targets=["Qwen2DecoderLayer"],
        )

    return prune
