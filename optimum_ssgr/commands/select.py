"""`optimum-cli ssgr select`: another calibration set from the rollouts of one that is there, without generating again."""

import dataclasses
from argparse import ArgumentParser, Namespace

from . import flags
from .base import SSGRSubcommand, say
from .calibrate import print_funnel
from .checks import check_text


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
        given = flags.calibration_config(args)  # checked before the set, which takes long to read
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
        config = flags.calibration_config(args, dataclasses.replace(earlier.config, adaptive=False))
        check_text(args, config)
        documents = load_documents(args.text, characters_for(config)) if config.needs_text else ()
        written_by = earlier.manifest
        tokenizer = load_tokenizer(written_by.model, revision=written_by.model_commit) if config.needs_text else None
        built = reselect(earlier, config, tokenizer, documents, args.text if config.needs_text else None)
        print_funnel(built.manifest)
        if args.dry_run:
            return
        built.save_to_disk(args.output, dataset_card(built.manifest))
        say(f"calibration set written to {args.output}")
