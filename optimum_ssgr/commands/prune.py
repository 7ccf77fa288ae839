"""`optimum-cli ssgr prune`: prune a model, block by block."""

import dataclasses
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import CalibrationConfig, PruningConfig
from ..errors import ConfigError
from ..resume import journal_folder
from . import configs, flags
from .base import SSGRSubcommand, resume_hint, say
from .calibrate import build
from .checks import CalibrationInputs, check_inputs, check_push_allowed, read_inputs
from .plan import planned_device, print_calibration_plan, print_damage_plan, print_pruning_costs, print_pruning_plan
from .push import push_output


if TYPE_CHECKING:
    from ..calibration.dataset import CalibrationSet
    from ..pruner import SSGRPruner
    from ..records import GradedRollout


class PruneCommand(SSGRSubcommand):
    """Calibrate if need be, prune, save and reload."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_output(parser)
        flags.add_model(parser)
        flags.add_pruning(parser)
        parser.add_argument(
            "--calibration",
            help="folder or Hub id (ID or ID@REVISION) of a calibration set; made on the spot when left out, and kept in "
            "OUT/calibration",
        )
        flags.add_problems(parser, required=False, mixed=True)
        flags.add_generation(parser)
        flags.add_selection(parser)
        flags.add_push(parser, "checkpoint")
        flags.add_streaming(parser)

    def after_interruption(self, args: Namespace) -> str:
        """Say where the finished rollouts and blocks are."""
        return resume_hint(args.output, "rollouts and blocks")

    def execute(self, args: Namespace) -> None:
        """Prune the model and save the checkpoint."""
        config, calibration_config = configs.pruning_config(args), configs.calibration_config(args)
        builds = config.needs_calibration and args.calibration is None
        if builds:
            if calibration_config.strategy == "cover" and args.damage is None:
                calibration_config = dataclasses.replace(calibration_config, damage=True)
            check_building(args, config, calibration_config)
        reselects = bool(args.calibration and args.damage)
        if reselects and not config.needs_calibration:
            raise ConfigError(f"the method {config.method} needs no calibration set, so --damage has nothing to select for.")
        from ..checkpoints.load import load_skeleton, load_tokenizer
        from ..checkpoints.streaming import check_streamable
        from ..files import check_unused
        from ..pruning.inputs import check_fits
        from ..pruning.prunable import check_prunable
        from ..sharing import load_calibration_set

        check_unused(args.output)
        check_push_allowed(args, "model")
        shared = configs.loading_config(args).source
        skeleton = load_skeleton(args.model, **shared)
        linears = check_prunable(skeleton, config)
        if args.streaming:
            check_streamable(args.model, skeleton, device_map=args.device_map)
        calibration = None
        if args.calibration:
            kept = not (args.streaming or args.dry_run) and Path(args.calibration).is_dir()
            calibration = load_calibration_set(args.calibration, with_rollouts=kept or reselects)
        if calibration and config.needs_calibration:
            check_fits(calibration, skeleton, load_tokenizer(args.model, **shared))
        if reselects and calibration.rollouts is None:
            raise ConfigError(f"{args.calibration} holds no rollouts, of which --damage could select.")
        inputs = read_inputs(args, calibration_config) if builds else None
        if not args.dry_run:
            run(args, config, calibration_config, calibration, inputs)
            return
        device = planned_device(args.device_map)
        print_pruning_plan(args, config, skeleton, linears)
        if inputs:  # how long its sequences will be is not known
            print_calibration_plan(args, calibration_config, inputs)
        else:
            if reselects:
                print_damage_plan(sum(calibration.rollouts["num_tokens"]))
            print_pruning_costs(args, config, skeleton, calibration.sequences if calibration else [], device)


def check_building(args: Namespace, config: PruningConfig, calibration_config: CalibrationConfig) -> None:
    """Refuse to make a calibration set on the spot where there is nothing to make it of, or it cannot be made here.

    Raises:
        ConfigError: It cannot.
    """
    if not args.problems and args.text is None:
        raise ConfigError(f"{config.calibrated} needs --calibration, or --problems to make a calibration set.")
    if args.streaming:
        raise ConfigError("--streaming needs --calibration: a model larger than memory cannot write its own traces here.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes need --calibration; make it first with ssgr calibrate.")
    check_inputs(args, calibration_config)


def run(
    args: Namespace,
    config: PruningConfig,
    calibration_config: CalibrationConfig,
    calibration: "CalibrationSet | None",
    inputs: CalibrationInputs | None,
) -> None:
    """Prune, save and push; with several processes, the first one saves and pushes."""
    from ..likelihood import format_rise
    from ..pruner import SSGRPruner
    from ..pruning.block_store import BlockStore
    from ..pruning.distributed import barrier, rank, start_processes, world_size
    from ..pruning.memory import map_large_tensors
    from ..pruning.watch import watch_others

    store = start_processes()
    map_large_tensors()  # this process is the command's own
    journal = journal_folder(args.output)
    with watch_others(store, rank(), world_size()):
        rollouts = None
        if inputs and calibration_config.needs_rollouts and not configs.engine_config(args).in_process:
            rollouts = generate(args, calibration_config, inputs, journal / "rollouts")
        pruner = SSGRPruner.from_pretrained(args.model, **configs.load_arguments(args), streaming=args.streaming)
        if inputs:
            calibration = build(pruner, args, calibration_config, inputs, journal / "rollouts", config, rollouts)
        elif calibration and args.damage:
            calibration = reselect_by_damage(pruner, args, config, calibration, journal / "damage")
        report = pruner.prune(calibration, config, journal_dir=journal, activation_gb=args.activation_gb)
        if rank() == 0:
            pruner.save_pretrained(args.output, calibration=calibration if inputs or args.damage else None)
            BlockStore(journal).remove()
            say(str(report))
            if report.held_out:
                rise, traces = format_rise(report.held_out), report.held_out["traces"]
                say(f"trace perplexity (a proxy): {rise} nats per token on {traces} held-out traces of the dense model")
            say(f"checkpoint written to {args.output}, reloaded and checked")
        barrier()  # nobody need wait for an upload
    if rank() == 0:
        push_output(args)


def generate(args: Namespace, config: CalibrationConfig, inputs: CalibrationInputs, journal: Path) -> "list[GradedRollout]":
    """Let servers generate before the weights are loaded here, so that both need not be in memory at the same time."""
    from ..problems.mixture import instruction_of

    return configs.load_pruner(args, generates=True).generate_rollouts(
        inputs.problems,
        config,
        journal_dir=journal,
        engine=configs.engine_config(args),
        batch_size=args.batch_size,
        instruction=instruction_of(configs.problem_sets(args)),
    )


def reselect_by_damage(
    pruner: "SSGRPruner", args: Namespace, config: PruningConfig, calibration: "CalibrationSet", journal: Path
) -> "CalibrationSet":
    """Select from the rollouts of a set again, by the damage that this pruning does to them; the rest is as in the set."""
    from ..calibration.select import find_kinds, reselect

    defaults = dataclasses.replace(calibration.config, strategy="cover", damage=True, adaptive=False)
    selection = configs.calibration_config(args, defaults)
    graded = find_kinds(calibration.graded_rollouts(), pruner.model, selection.seed)
    measured, damage = pruner.measure_damage(graded, config, selection, journal_dir=journal, activation_gb=args.activation_gb)
    return reselect(calibration, selection, rollouts=measured, damage=damage)
