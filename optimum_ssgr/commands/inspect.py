"""`optimum-cli ssgr inspect`: the sparsity of a checkpoint, read from its files."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..errors import DataError
from .base import SSGRSubcommand, say
from .flags import add_quiet


class InspectCommand(SSGRSubcommand):
    """Show the sparsity of every pruned layer and in total."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of the checkpoint")
        add_quiet(parser)

    def execute(self, args: Namespace) -> None:
        """Print the sparsity of every layer and in total."""
        if not args.checkpoint.is_dir():
            raise DataError(f"there is no folder {args.checkpoint}.")
        from ..checkpoints.inspect import inspect_checkpoint, is_block_matrix

        tensors = list(inspect_checkpoint(args.checkpoint))
        matrices = [tensor for tensor in tensors if is_block_matrix(tensor)]
        if not matrices:
            raise DataError(f"the checkpoint {args.checkpoint} holds no weight matrices in numbered blocks.")
        width = max(len(tensor.name) for tensor in matrices)
        for tensor in matrices:
            shape = " x ".join(map(str, tensor.shape))
            say(f"{tensor.name:<{width}}  {shape:>14}  {tensor.zeros / tensor.weights:>7.2%}  {tensor.pattern or ''}".rstrip())
        zeros, weights = sum(t.zeros for t in matrices), sum(t.weights for t in matrices)
        everything = sum(tensor.weights for tensor in tensors)
        say(
            f"{zeros:,} of {weights:,} weights in {len(matrices)} matrices are zero ({zeros / weights:.2%}; "
            f"{zeros / everything:.2%} of all {everything:,} stored parameters)"
        )
