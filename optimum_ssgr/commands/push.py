"""`optimum-cli ssgr push`: publish a checkpoint, a calibration set or the comparison page on the Hub, in one commit."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..errors import ConfigError
from . import flags
from .base import SSGRSubcommand, say


class PushCommand(SSGRSubcommand):
    """Push a folder that `calibrate`, `select` or `prune` wrote, or the page of `chat` as a Space."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="checkpoint or calibration set")
        parser.add_argument("repo_id", nargs="?", metavar="HUB_ID", help="NAMESPACE/NAME; created where it is missing")
        parser.add_argument("--space", metavar="HUB_ID", help="deploy the page of `ssgr chat` there, instead of DIR")
        parser.add_argument(
            "--models",
            nargs="+",
            default=[],
            metavar="MODEL",
            help="two to four Hub ids for the Space, dense first (default: those it has, or else the embedded reasoner)",
        )
        flags.add_hub(parser)
        parser.add_argument(
            "--evaluation",
            type=Path,
            metavar="EVALUATION",
            help="folder that `ssgr evaluate --output` wrote: its numbers go into the checkpoint's ssgr_config.json and card",
        )
        parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
        parser.add_argument("--dry-run", action="store_true", help="check that the push would be allowed, and stop")
        flags.add_quiet(parser)

    def execute(self, args: Namespace) -> None:
        """Check, push and say which commit it is."""
        if args.space:
            return deploy(args)
        if args.repo_id is None or args.models:
            raise ConfigError("give DIR and HUB_ID, or --space HUB_ID and perhaps --models.")
        from ..cards.evaluation import attach_evaluation, evaluation_rows
        from ..cards.render import card_for
        from ..hub.access import check_push
        from ..hub.publish import repo_type_of
        from ..sharing import push_with_card

        repo_type = repo_type_of(args.folder)
        card_for(args.folder, args.repo_id)  # refuses a folder whose card cannot be made
        rows = evaluation_rows(args.evaluation, args.folder) if args.evaluation else []
        if rows:
            say(f"evaluation   {' and '.join(sorted({row.model for row in rows}))}, from {args.evaluation}")
        check_push(args.repo_id, repo_type=repo_type, private=args.private, create_pr=args.create_pr)
        if args.dry_run:
            say(f"pushes       {args.folder} to the {repo_type} {args.repo_id}")
            return
        if rows:
            attach_evaluation(args.folder, rows)
        where = {"private": args.private, "revision": args.hub_revision, "create_pr": args.create_pr}
        commit = push_with_card(args.folder, args.repo_id, **where)
        say(f"pushed       {commit.pr_url or commit.commit_url}")


def push_output(args: Namespace) -> None:
    """Push what another command has made, if `--push-to-hub` asks for it."""
    if args.push_to_hub:
        from ..sharing import push_with_card

        commit = push_with_card(args.output, args.push_to_hub, private=args.private, revision=args.hub_revision)
        say(f"pushed       {commit.commit_url}")


def deploy(args: Namespace) -> None:
    """Deploy the comparison page as a Space."""
    if args.folder:
        raise ConfigError("give no DIR with --space; the page reads its models from the Hub, so give their ids by --models.")
    if args.evaluation:
        raise ConfigError("--evaluation is for the card of a checkpoint, not for --space; push the checkpoint with it.")
    from ..chat.deploy import check_space, publish_space

    closed = check_space(args.space, args.models, private=args.private, create_pr=args.create_pr)
    if args.dry_run:
        say(f"deploys      the comparison page to the Space {args.space}")
    else:
        where = {"private": args.private, "revision": args.hub_revision, "create_pr": args.create_pr}
        commit = publish_space(args.space, args.models, **where)
        say(f"deployed     {commit.pr_url or commit.commit_url}")
    if closed:
        say(f"secret       the Space needs HF_TOKEN in its settings, with read access to {', '.join(closed)}")
