"""llm-compressor's `oneshot` with its two pruning modifiers.

    python -m peers.llm_compressor MODEL TOKENS OUTPUT METHOD TARGET

is the whole of it in a process of its own, as `optimum-cli ssgr prune` is of ours: load the model from its folder, prune it
with `sparsegpt` or `wanda` to a sparsity or a pattern (`0.5`, `2:4`) on the sequences of tokens that `TOKENS` holds as JSON,
and save it. The last line tells the processor's seconds of pruning.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast


def contender(method: str, target: str, sequences: list[list[int]], batch: int) -> Callable[[PreTrainedModel], None]:
    """Import llm-compressor and return what prunes a model with it to a sparsity or a pattern.

    It gets the same sequences in the same order as a `datasets.Dataset` of tokens, made here, before the clock starts. Block
    size 128 and damping 0.01 are its defaults and everybody's. `oneshot` wants a tokenizer even for a tokenized dataset, so it
    gets an empty one; nothing is saved.
    """
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    dataset = Dataset.from_dict({"input_ids": sequences, "attention_mask": [[1] * len(row) for row in sequences]})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")))

    def prune(model: PreTrainedModel) -> None:
        blocks = [type(model.model.layers[0]).__name__]
        common = {
            "sparsity": 0.5 if ":" in target else float(target),  # which a pattern overrides
            "mask_structure": target if ":" in target else "0:0",
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
            num_calibration_samples=len(sequences),
            max_seq_length=max(map(len, sequences)),
            shuffle_calibration_samples=False,
            batch_size=batch,
            pipeline="sequential",
            sequential_targets=blocks,
        )

    return prune


def main() -> None:
    """Load, prune and save."""
    folder, tokens, output, method, target = sys.argv[1:]
    prune = contender(method, target, json.loads(Path(tokens).read_text()), batch=1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    began = time.process_time()
    prune(model)
    seconds = time.process_time() - began
    model.save_pretrained(output)
    print(seconds)


if __name__ == "__main__":
    main()
