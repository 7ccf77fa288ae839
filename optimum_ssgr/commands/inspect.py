"""`optimum-cli ssgr inspect`: the sparsity of a checkpoint, read from its files."""

import textwrap
from argparse import ArgumentParser, Namespace

from ..errors import DataError
from .base import SSGRSubcommand, say
from .flags import add_quiet


class InspectCommand(SSGRSubcommand):
    """Show the sparsity of every pruned layer and in total, and which runtimes can use it."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, Hub id (ID or ID@REVISION), or tiny-reasoner")
        add_quiet(parser)

    def execute(self, args: Namespace) -> None:
        """Print the sparsity of every layer and in total, and what to expect of it."""
        from ..checkpoints.inspect import (
            block_matrices,
            count_layers,
            find_checkpoint,
            inspect_checkpoint,
            quantized_matrices,
        )
        from ..checkpoints.runtimes import what_to_expect

        folder = find_checkpoint(args.checkpoint)
        layers, tensors = count_layers(folder), list(inspect_checkpoint(folder))
        matrices, quantized = block_matrices(tensors, layers), quantized_matrices(tensors, layers)
        if not matrices and quantized:
            raise DataError(
                f"the weights of {args.checkpoint} are quantized, so their zeros say nothing; inspect the original."
            )
        if not matrices:
            raise DataError(f"the checkpoint {args.checkpoint} holds no weight matrices in numbered blocks.")
        width = max(len(tensor.name) for tensor in matrices)
        for tensor in matrices:
            shape = " x ".join(map(str, tensor.shape))
            say(f"{tensor.name:<{width}}  {shape:>14}  {tensor.zeros / tensor.weights:>7.2%}  {tensor.pattern or ''}".rstrip())
        zeros, weights = sum(t.zeros for t in matrices), sum(t.weights for t in matrices)
        everything = sum(tensor.weights for tensor in tensors if tensor.zeros is not None)
        say(
            f"{zeros:,} of {weights:,} weights in {len(matrices)} matrices are zero ({zeros / weights:.2%}; "
            f"{zeros / everything:.2%} of all {everything:,} stored parameters)"
        )
        if quantized:
            say(f"{len(quantized)} quantized tensors such as {quantized[0].name} are not counted: their zeros say nothing")
        say("")
        for paragraph in what_to_expect(matrices):
            indent = "  " if paragraph.startswith("- ") else ""
            wrap = {"width": 100, "break_on_hyphens": False, "break_long_words": False}
            say(textwrap.fill(paragraph, subsequent_indent=indent, **wrap))
