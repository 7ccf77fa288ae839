"""What a sparse checkpoint takes as a Core ML package: `python benchmarks/coreml.py FOLDER...` where coremltools is installed.

Every checkpoint is converted twice, in float16, for sequences of 64 tokens: as it is, and with bit masks for weights of which
at least 40 % are zero. Conversion runs on Linux, too; running the package takes a Mac, so that sizes are all that is told here.
coremltools 9 takes no newer numpy than 2.1.
"""

import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import coremltools as ct
import numpy as np
import torch
from coremltools.optimize.coreml import OpThresholdPrunerConfig, OptimizationConfig, prune_weights
from transformers import AutoModelForCausalLM, PreTrainedModel


TOKENS = 64
# Zeros stay zeros: only what is as good as zero is set to it.
MASKS = OptimizationConfig(OpThresholdPrunerConfig(threshold=1e-12, minimum_sparsity_percentile=0.4))


class Scores(torch.nn.Module):
    """The scores of the next tokens, and nothing else of what the model returns."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        hidden = torch.full((TOKENS, TOKENS), torch.finfo(torch.float32).min).triu(1)
        self.register_buffer("mask", hidden[None, None])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Score the next token at every place of `ids`, int [1, tokens]."""
        return self.model(ids, attention_mask=self.mask, use_cache=False).logits


def megabytes(package: Path) -> float:
    """Return the size of a package's files."""
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Print a Markdown table."""
    warnings.simplefilter("ignore")
    print("| checkpoint | zeros | Core ML, MB | with bit masks, MB | share |\n|---|---|---|---|---|")
    for name in sys.argv[1:]:
        model = AutoModelForCausalLM.from_pretrained(name, dtype="float32", attn_implementation="eager").eval()
        weights = [layer.weight for layer in model.get_decoder().layers.modules() if isinstance(layer, torch.nn.Linear)]
        zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        ids = torch.zeros(1, TOKENS, dtype=torch.int32)
        traced = torch.jit.trace(Scores(model), ids, strict=False)
        package = ct.convert(
            traced,
            inputs=[ct.TensorType("ids", ids.shape, np.int32)],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
        )
        with TemporaryDirectory() as folder:
            dense, sparse = Path(folder, "dense.mlpackage"), Path(folder, "sparse.mlpackage")
            package.save(str(dense))
            prune_weights(package, MASKS).save(str(sparse))
            sizes = megabytes(dense), megabytes(sparse)
        print(f"| {Path(name).name} | {zeros:.1%} | {sizes[0]:.2f} | {sizes[1]:.2f} | {sizes[1] / sizes[0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
