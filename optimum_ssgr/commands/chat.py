"""`optimum-cli ssgr chat`: the comparison page, on this machine."""

import os
import signal
import sys
import threading
from argparse import ArgumentParser, Namespace

from ..errors import OutputError
from ..extras import require_extra
from .base import SSGRSubcommand, say
from .configs import prompting_config
from .flags import add_prompting, add_quiet


class ChatCommand(SSGRSubcommand):
    """Serve the comparison page until interrupted."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        parser.add_argument(
            "models",
            nargs="*",
            metavar="MODEL",
            help="two to four Hub ids (ID or ID@REVISION), local folders or, with servers, names they know; the dense model "
            "first (default: the embedded reasoner and pruned versions of it, from ./demo or made now)",
        )
        parser.add_argument(
            "--engine",
            default="transformers",
            help="transformers, or the address of an OpenAI-compatible server, or one for each model, separated by commas "
            "(default: %(default)s)",
        )
        group = parser.add_argument_group("models in this process")
        group.add_argument("--dtype", default="auto", help="weight type, such as bfloat16 (default: the checkpoint's own)")
        group.add_argument("--device-map", help="where to place the layers, such as auto (default: the GPU, if there is one)")
        group.add_argument("--trust-remote-code", action="store_true", help="let code from the checkpoints run")
        add_prompting(parser)
        group = parser.add_argument_group("page")
        group.add_argument(
            "--max-new-tokens", type=int, default=2048, help="longest response one can ask for (default: %(default)s)"
        )
        group.add_argument("--results", help="folder of `demo` or `study` whose numbers and plots to show")
        group.add_argument("--calibration", help="folder of a calibration set whose histograms to show")
        group.add_argument(
            "--votes", default="votes.jsonl", help="file for votes, or hf://datasets/ID for a data set (default: %(default)s)"
        )
        group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        group.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
        add_quiet(parser)

    def after_interruption(self, args: Namespace) -> str:
        """Say what is left."""
        return f"votes are in {args.votes}."

    def execute(self, args: Namespace) -> None:
        """Load the models and serve the page."""
        require_extra("gradio", "chat", "comparison pages")
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # no part of Gradio is to call home
        from ..chat.settings import ChatSettings

        prompting = prompting_config(args)
        settings = ChatSettings(
            models=tuple(args.models),
            engine=args.engine,
            dtype=args.dtype,
            device_map=args.device_map,
            trust_remote_code=args.trust_remote_code,
            template_kwargs=prompting.template_kwargs,
            system=prompting.system,
            thinking=prompting.thinking,
            max_new_tokens=args.max_new_tokens,
            votes=args.votes,
            results=args.results,
            calibration=args.calibration,
        )
        from ..chat.page import launch_arguments, open_page  # heavy: after what is quick to find out

        page = open_page(settings)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that votes are sent then, too
        try:
            _, url, _ = page.launch(
                server_name=args.host, server_port=args.port, quiet=True, prevent_thread_lock=True, **launch_arguments()
            )
        except OSError as error:
            raise OutputError(f"cannot listen on {args.host}: {error}.") from error
        say(f"Chat at {url} (Ctrl-C ends it).")
        try:
            threading.Event().wait()  # until Ctrl-C, which Gradio's own waiting would swallow
        finally:
            page.close(verbose=False)
