"""`optimum-cli ssgr recover`: fine-tune a pruned model on the dense model's own right traces, with its zeros kept."""

import os
from argparse import ArgumentParser, Namespace

from ..config import RecoveryConfig
from ..errors import ConfigError
from . import configs, flags
from .base import SSGRSubcommand, resume_hint, say
from .checks import check_push_allowed
from .push import push_output


class RecoverCommand(SSGRSubcommand):
    """Train what pruning has left, save and reload."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        parser.add_argument("checkpoint", metavar="SPARSE", help="pruned model: folder or Hub id (ID or ID@REVISION)")
        flags.add_output(parser)
        parser.add_argument(
            "--calibration",
            required=True,
            metavar="SET",
            help="folder or Hub id (ID or ID@REVISION) of a calibration set with rollouts of the dense model",
        )
        parser.add_argument("--teacher", help="dense model whose scores are to be met, too (default: its traces alone)")
        parser.add_argument("--trust-remote-code", action="store_true", help="let code from the checkpoint run")
        flags.add_exclude(parser.add_argument_group("problems"))
        group = parser.add_argument_group("training")
        defaults = RecoveryConfig
        group.add_argument("--epochs", type=float, help=f"times that every trace is seen (default: {defaults.epochs:g})")
        group.add_argument("--learning-rate", type=float, help=f"greatest step size (default: {defaults.learning_rate:g})")
        group.add_argument("--batch-size", type=int, help=f"traces in a step (default: {defaults.batch_size})")
        group.add_argument(
            "--gradient-accumulation", type=int, help="parts that a step is run in, for want of memory (default: 1)"
        )
        group.add_argument("--num-traces", type=int, help="traces to draw by the seed (default: all right ones)")
        group.add_argument(
            "--distillation",
            type=float,
            help=f"with --teacher, weight of its scores against its traces (default: {defaults.distillation:g})",
        )
        group.add_argument("--seed", type=int, help="seed of everything random (default: 0)")
        flags.add_push(parser, "checkpoint")

    def after_interruption(self, args: Namespace) -> str:
        """Say where the training goes on from."""
        return resume_hint(args.output, "steps")

    def execute(self, args: Namespace) -> None:
        """Train, save and push."""
        config, loading = configs.recovery_config(args), configs.loading_config(args)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("recover runs in one process; for several, train with SparsityCallback in a Trainer of your own.")
        from ..files import check_unused
        from ..recovery.recover import read_provenance, recover
        from ..recovery.traces import choose_traces
        from ..sharing import load_calibration_set

        check_unused(args.output)
        check_push_allowed(args, "model")
        provenance = read_provenance(args.checkpoint)
        calibration = load_calibration_set(args.calibration)
        if args.dry_run:
            traces = choose_traces(calibration, config, args.exclude, provenance.evaluation or ())
            tokens = sum(len(item.rollout.prompt_ids) + len(item.rollout.response_ids) for item in traces.train)
            say(f"trains on    {len(traces.train):,} right traces, {tokens:,} tokens, {config.epochs:g} times")
            say(f"held out     {len(traces.held_out)} traces of other problems")
            return
        given = {"teacher": args.teacher, "exclude": args.exclude, "loading": loading}
        say(str(recover(args.checkpoint, calibration, args.output, config, **given)))
        say(f"checkpoint written to {args.output}, reloaded and checked")
        push_output(args)
