"""`optimum-cli ssgr select`: another calibration set from the rollouts of one that is there, without generating again."""

import dataclasses
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ..config import CalibrationConfig, LoadingConfig
from . import configs, flags
from .base import SSGRSubcommand, say
from .calibrate import print_funnel
from .checks import check_text


if TYPE_CHECKING:
    from ..calibration.dataset import CalibrationSet
    from ..records import GradedRollout


class SelectCommand(SSGRSubcommand):
    """Select from rollouts again, by another strategy, other windows or another budget."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        parser.add_argument("rollouts", metavar="SET", help="folder or Hub id (ID or ID@REVISION) of a set with rollouts")
        flags.add_output(parser)
        flags.add_selection(parser)
        parser.add_argument("--seed", type=int, help="seed of the selection (default: the set's own)")

    def execute(self, args: Namespace) -> None:
        """Select and save; settings that are not given stay as they are in the set."""
        given = configs.calibration_config(args)  # checked before the set, which takes long to read
        if args.strategy is not None:
            check_text(args, given)
        from ..calibration.select import reselect
        from ..calibration.text import characters_for
        from ..cards.render import dataset_card
        from ..checkpoints.load import load_tokenizer
        from ..files import check_unused
        from ..problems.documents import load_documents
        from ..sharing import load_calibration_set

        check_unused(args.output)
        earlier = load_calibration_set(args.rollouts)
        # how many samples a problem got is settled, and only ssgr may be sampled adaptively
        config = configs.calibration_config(args, dataclasses.replace(earlier.config, adaptive=False))
        check_text(args, config)
        documents = load_documents(args.text, characters_for(config)) if config.needs_text else ()
        written_by = earlier.manifest
        tokenizer = load_tokenizer(written_by.model, revision=written_by.model_commit) if config.needs_text else None
        rollouts = _find_kinds(earlier, config) if config.strategy == "cover" else None
        built = reselect(earlier, config, tokenizer, documents, args.text if config.needs_text else None, rollouts)
        print_funnel(built.manifest)
        if args.dry_run:
            return
        built.save_to_disk(args.output, dataset_card(built.manifest))
        say(f"calibration set written to {args.output}")


def _find_kinds(earlier: "CalibrationSet", config: CalibrationConfig) -> "list[GradedRollout]":
    """Return the rollouts of a set, whose problems get a kind from the model where the set has none for them."""
    from ..calibration.kinds import name_kinds
    from ..evaluation.prepare import load_with_tokenizer

    graded = earlier.graded_rollouts()
    if all(item.problem.kind is not None for item in graded):
        return graded
    written_by = earlier.manifest
    name = f"{written_by.model}@{written_by.model_commit}" if written_by.model_commit else written_by.model
    model, _ = load_with_tokenizer(name, LoadingConfig(dtype=written_by.dtype), weights=True)
    return name_kinds(graded, model, config.seed)
