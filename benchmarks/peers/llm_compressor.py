"""llm-compressor's `oneshot` with its two pruning modifiers.

    python -m peers.llm_compressor MODEL TOKENS OUTPUT

is the whole of it in a process of its own, as `optimum-cli ssgr prune` is of ours: load the model from its folder, prune it to
50 % zeros with SparseGPT on the tokens that `TOKENS` holds as JSON, and save it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast


def contender(method: str, pattern: str, calibration: torch.Tensor, batch: int) -> Callable[[PreTrainedModel], None]:
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

    def prune(model: PreTrainedModel) -> None:
        blocks = [type(model.model.layers[0]).__name__]
        common = {
            "sparsity": 0.5,
            "mask_structure": "2:4" if pattern == "2:4" else "0:0",
            "targets": blocks,
            "ignore": ["re:.*lm_head"],
        }
        if method == "sparsegpt":
            modifier = SparseGPTModifier(**common, block_size=128, dampening_frac=0.01)
        else:
            modifier = WandaPruningModifier(**common)
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
            sequential_targets=blocks,
        )

    return prune


def main() -> None:
    """Load, prune and save."""
    folder, tokens, output = sys.argv[1:]
    prune = contender("sparsegpt", "50%", torch.tensor(json.loads(Path(tokens).read_text())), batch=1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    prune(model)
    model.save_pretrained(output)


if __name__ == "__main__":
    main()
