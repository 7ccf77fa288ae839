"""Which of torchao's number formats keep the zeros of a pruned model: `PYTHONPATH=.venv/torchao python benchmarks/quantize.py`.

The embedded reasoner is pruned to 2:4 by SparseGPT on its own right traces, quantized through transformers, saved, and
loaded again. Zeros are those of the decoder blocks' linear layers, among the numbers that quantized weights stand for. Trace
perplexity is that of right traces that were not calibrated on, in nats per token. Formats of torchao that only a GPU takes
are left out.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from setting import BATCH_SIZE, CALIBRATION
from torch import nn
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup
from transformers import AutoModelForCausalLM, PreTrainedModel, TorchAoConfig

from optimum_ssgr import PruningConfig, SSGRPruner, load_problems
from optimum_ssgr.likelihood import response_nll
from optimum_ssgr.reasoner import NAME


FORMATS = {
    "int8, a scale for each row": Int8WeightOnlyConfig(version=2),
    "fp8 (e4m3), a scale for each row": Float8WeightOnlyConfig(),
    "int4, a scale for every 32 weights": IntxWeightOnlyConfig(torch.int4, PerGroup(32)),
}


def zeros_of(model: PreTrainedModel) -> torch.Tensor:
    """Return which weights of the decoder blocks' linear layers are zero, one after the other."""
    weights = [layer.weight for layer in model.get_decoder().layers.modules() if isinstance(layer, nn.Linear)]
    return torch.cat([(weight.dequantize() == 0).flatten() for weight in weights])


def main() -> None:
    """Print a Markdown table."""
    pruner = SSGRPruner.from_pretrained(NAME, dtype="bfloat16")
    calibration = pruner.build_calibration(load_problems(NAME, limit=200), CALIBRATION, batch_size=BATCH_SIZE)
    print(pruner.prune(calibration, PruningConfig(pattern="2:4")))
    held_out = pruner.generate_rollouts(load_problems(NAME, split="test", limit=100), CALIBRATION, batch_size=BATCH_SIZE)
    traces = [(item.rollout.prompt_ids, item.rollout.response_ids) for item in held_out if item.verdict.correct]
    tokens = sum(len(response) for _, response in traces)
    print("| format | zeros | lost | MB | trace perplexity (nats) |\n|---|---|---|---|---|")
    with TemporaryDirectory() as name:
        folder = Path(name)
        pruner.save_pretrained(folder / "sparse")
        kept = zeros_of(pruner.model)
        for number, (title, config) in enumerate({"bfloat16": None, **FORMATS}.items()):
            stored = folder / "sparse"
            if config is not None:
                stored = folder / str(number)
                quantization = TorchAoConfig(config)
                AutoModelForCausalLM.from_pretrained(folder / "sparse", quantization_config=quantization).save_pretrained(
                    stored
                )
            model = AutoModelForCausalLM.from_pretrained(stored)
            zeros = zeros_of(model)
            size = sum(path.stat().st_size for path in stored.glob("*.safetensors")) / 1e6
            nats = sum(response_nll(model, traces)) / tokens
            print(f"| {title} | {int(zeros.sum()):,} | {int((kept & ~zeros).sum()):,} | {size:.2f} | {nats:.4f} |", flush=True)


if __name__ == "__main__":
    main()
