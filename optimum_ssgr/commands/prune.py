"""`optimum-cli ssgr prune`: prune a model, block by block."""

import os
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ..config import PruningConfig
from ..errors import ConfigError
from ..resume import journal_folder
from . import calibrate, flags
from .base import SSGRSubcommand, say


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class PruneCommand(SSGRSubcommand):
    """Calibrate if need be, prune, save and reload."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_output(parser)
        flags.add_model(parser)
        flags.add_pruning(parser)
        parser.add_argument(
            "--calibration", help="folder or Hub id (ID or ID@REVISION) of a calibration set; made on the spot when left out"
        )
        flags.add_problems(parser, required=False)
        flags.add_generation(parser)
        flags.add_selection(parser)
        flags.add_push(parser, "checkpoint")
        group = parser.add_argument_group("models larger than memory")
        group.add_argument(
            "--streaming", action="store_true", help="read one block at a time from the checkpoint; needs --calibration"
        )
        group.add_argument(
            "--activation-gb",
            type=float,
            default=8.0,
            help="with --streaming, keep this much of the hidden states in memory and the rest on disk (default: %(default)s)",
        )

    def after_interruption(self, args: Namespace) -> str:
        """Say where the finished rollouts and blocks are."""
        return calibrate.kept(args.output, "rollouts and blocks")

    def execute(self, args: Namespace) -> None:
        """Prune the model and save the checkpoint."""
        config = flags.pruning_config(args)
        calibration_config = flags.calibration_config(args)
        needs_building = config.needs_calibration and args.calibration is None
        if needs_building and args.problems is None and args.text is None:
            raise ConfigError(f"the method {config.method} needs --calibration, or --problems to make a calibration set.")
        if needs_building and args.streaming:
            raise ConfigError("--streaming needs --calibration: a model larger than memory cannot write its own traces here.")
        if needs_building and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("several processes need --calibration; make it first with ssgr calibrate.")
        if needs_building:
            calibrate.check_inputs(args, calibration_config)
        from ..calibration.dataset import CalibrationSet
        from ..calibration.sequences import check_fits
        from ..checkpoints.load import load_skeleton, load_tokenizer
        from ..checkpoints.streaming import check_streamable
        from ..files import check_unused
        from ..pruner import SSGRPruner
        from ..pruning.block_store import BlockStore
        from ..pruning.distributed import barrier, rank, start_processes
        from ..pruning.layerwise import check_prunable
        from ..pruning.memory import map_large_tensors

        check_unused(args.output)
        calibrate.check_push_allowed(args, "model")
        shared = flags.source_arguments(args)
        skeleton = load_skeleton(args.model, **shared)
        linears = check_prunable(skeleton, config)
        if args.streaming:
            check_streamable(args.model, skeleton, device_map=args.device_map, revision=args.revision)
        calibration = CalibrationSet.load(args.calibration) if args.calibration else None
        if calibration and config.needs_calibration:
            check_fits(calibration, skeleton, load_tokenizer(args.model, **shared))
        problems = text = about = None
        if needs_building:
            calibrate.check_model(args, args.model, is_asked=calibration_config.strategy != "text")
            problems, text, about = calibrate.read_inputs(args, calibration_config)
            calibrate.check_asking(args, calibration_config, problems)
        if args.dry_run:
            device = planned_device(args.device_map)
            plan(args, config, skeleton, linears)
            if calibration or not config.needs_calibration:
                predict(args, config, skeleton, calibration.sequences if calibration else [], device)
            if needs_building:
                calibrate.plan(args, calibration_config, problems)
            return
        start_processes()
        if args.streaming:
            map_large_tensors()  # this process is the command's own
        pruner = SSGRPruner.from_pretrained(args.model, **flags.load_arguments(args), streaming=args.streaming)
        journal = journal_folder(args.output)
        if needs_building:
            rollouts = journal / "rollouts"
            calibration = calibrate.build(pruner, args, calibration_config, problems, text, about, rollouts)
        report = pruner.prune(calibration, config, journal_dir=journal, activation_gb=args.activation_gb)
        if rank() == 0:
            pruner.save_pretrained(args.output)
            BlockStore(journal).remove()
            say(str(report))
            say(f"checkpoint written to {args.output}, reloaded and checked")
        barrier()  # nobody need wait for an upload
        if rank() == 0:
            calibrate.push(args)


def plan(args: Namespace, config: PruningConfig, skeleton: "PreTrainedModel", linears: dict) -> None:
    """Print what would be done."""
    layers = [matrix for members in linears.values() for matrix in members.values()]
    weights = sum(layer.weight().numel() for layer in layers)
    say(f"model        {args.model}, {skeleton.num_parameters():,} parameters")
    say(f"prunes       {len(layers)} linear layers in {len(linears)} blocks, {weights:,} weights")
    say(f"method       {config.method}, {config.pattern or f'{config.sparsity:.0%}'}")
    say(f"removes      {int(weights * config.target_sparsity):,} weights ({config.target_sparsity:.0%} of them)")
    say(f"writes       {args.output}, about {skeleton.get_memory_footprint() / 1e6:,.0f} MB")


def predict(
    args: Namespace,
    config: PruningConfig,
    skeleton: "PreTrainedModel",
    sequences: list[list[int]],
    device: "torch.device",
) -> None:
    """Print what it would take on this machine."""
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
