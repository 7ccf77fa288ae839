"""What `--dry-run` prints: what a command would do, and what that would take on this machine."""

from argparse import Namespace
from typing import TYPE_CHECKING

from ..config import CalibrationConfig, PruningConfig
from ..errors import ConfigError
from . import configs
from .base import say
from .checks import CalibrationInputs


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def print_calibration_plan(args: Namespace, config: CalibrationConfig, inputs: CalibrationInputs) -> None:
    """Print what a calibration set would be made of."""
    from ..checkpoints.load import load_skeleton

    skeleton = load_skeleton(args.model, **configs.loading_config(args).source)
    say(f"model        {args.model}, {skeleton.num_parameters():,} parameters")
    say(f"strategy     {config.strategy}")
    if config.needs_rollouts:
        rollouts = len(inputs.problems) * config.samples_per_problem
        say(f"problems     {len(inputs.problems):,}")
        say(f"rollouts     {rollouts:,}, at most {rollouts * config.max_new_tokens:,} tokens")
        if config.damage:
            print_damage_plan(rollouts * config.max_new_tokens)
    budget = [f"{config.num_sequences} sequences"] if config.num_sequences else []
    budget += [f"{config.num_tokens:,} tokens"] if config.num_tokens else []
    say(f"selects      at most {' and '.join(budget)}")
    say(f"writes       {args.output}")


def print_damage_plan(tokens: int) -> None:
    """Print what measuring damage takes; how long a forward pass takes depends on the machine."""
    say(f"damage       one more pruning, and two forward passes over the correct traces, at most {tokens:,} tokens")


def print_pruning_plan(args: Namespace, config: PruningConfig, skeleton: "PreTrainedModel", linears: dict) -> None:
    """Print what would be pruned.

    Args:
        args: Flags of the command.
        config: How to prune.
        skeleton: The model without weights.
        linears: What `check_prunable` returns.
    """
    layers = [matrix for members in linears.values() for matrix in members.values()]
    weights = sum(layer.weight().numel() for layer in layers)
    say(f"model        {args.model}, {skeleton.num_parameters():,} parameters")
    say(f"prunes       {len(layers)} linear layers in {len(linears)} blocks, {weights:,} weights")
    say(f"method       {config.method}, {config.pattern or f'{config.sparsity:.0%}'}")
    if config.refine:
        beside = ", with the dense model's hidden states held beside the sparse one's" if "blocks" in config.refine else ""
        say(f"refines      {' and '.join(config.refine)}{beside}")
    say(f"removes      {int(weights * config.target_sparsity):,} weights ({config.target_sparsity:.0%} of them)")
    say(f"writes       {args.output}, about {skeleton.get_memory_footprint() / 1e6:,.0f} MB")


def print_pruning_costs(
    args: Namespace, config: PruningConfig, skeleton: "PreTrainedModel", sequences: list[list[int]], device: "torch.device"
) -> None:
    """Print what pruning would take on this machine.

    Args:
        args: Flags of the command.
        config: How to prune.
        skeleton: The model without weights.
        sequences: Token ids to calibrate on; none for a method that needs no calibration.
        device: Where to compute, and what a block is timed on.
    """
    import psutil
    import torch

    from ..checkpoints.load import dtype_of
    from ..pruning.plan import make_plan

    dtype = skeleton.dtype if args.dtype == "auto" else dtype_of(args.dtype)
    baseline = psutil.Process().memory_info().rss
    found = make_plan(
        skeleton,
        [len(ids) for ids in sequences],
        config.resolve(args.streaming),
        dtype=dtype,
        device=device,
        streaming=args.streaming,
        activation_bytes=int(args.activation_gb * 1e9),
    )
    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    say(f"takes        {found.seconds:,.0f} s for pruning and writing, on {device.type} with {threads}")
    total = (baseline + found.memory) / 1e9
    say(f"memory       {total:,.2f} GB at most, {baseline / 1e9:.2f} GB of it Python and its libraries")
    say(f"disk         {found.disk / 1e9:,.2f} GB at most")


def planned_device(device_map: str | None) -> "torch.device":
    """Return the device that a block is timed on: where the model is spread out, a GPU if there is one.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device_map or "cpu").device
    except (RuntimeError, AssertionError):
        raise ConfigError(f"there is no device '{device_map}' here; choose auto, balanced, sequential, cuda or cpu.") from None
