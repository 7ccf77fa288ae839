"""`optimum-cli ssgr push`: publish a checkpoint or a calibration set on the Hub, in one commit."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from . import flags
from .base import SSGRSubcommand, say


class PushCommand(SSGRSubcommand):
    """Push a folder that `calibrate`, `select` or `prune` wrote."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        parser.add_argument("folder", type=Path, metavar="DIR", help="checkpoint or calibration set")
        parser.add_argument("repo_id", metavar="HUB_ID", help="NAMESPACE/NAME; created where it is missing")
        flags.add_hub(parser)
        parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
        parser.add_argument("--dry-run", action="store_true", help="check that the push would be allowed, and stop")
        flags.add_quiet(parser)

    def execute(self, args: Namespace) -> None:
        """Check, push and say which commit it is."""
        from ..cards.render import card_for
        from ..hub.access import check_push
        from ..hub.publish import publish_folder, repo_type_of

        repo_type = repo_type_of(args.folder)
        card = card_for(args.folder, args.repo_id)
        check_push(args.repo_id, repo_type=repo_type, private=args.private, create_pr=args.create_pr)
        if args.dry_run:
            say(f"pushes       {args.folder} to the {repo_type} {args.repo_id}")
            return
        commit = publish_folder(
            args.folder,
            args.repo_id,
            card,
            private=args.private,
            revision=args.hub_revision,
            create_pr=args.create_pr,
        )
        say(f"pushed       {commit.pr_url or commit.commit_url}")
