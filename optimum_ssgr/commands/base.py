"""What the commands share: help, quiet mode, and errors as one line and an exit code."""

import logging
import os
from argparse import Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from optimum.commands.base import BaseOptimumCLICommand

from ..errors import ConfigError, SSGRError
from ..resume import journal_folder


OUT_OF_MEMORY = (
    "the GPU has too little memory for this; free it of other programs, spread the model over more devices with "
    "--device-map auto, or prune with --streaming. What a journal holds is kept."
)


class SSGRSubcommand(BaseOptimumCLICommand):
    """A command that shows mistakes a user can mend as one line.

    Exit codes: 0 done, 1 an error a user can mend, 2 bad arguments, 130 interrupted. `SSGR_DEBUG=1` shows tracebacks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser.description = self.COMMAND.help
        self.parser.formatter_class = RawDescriptionHelpFormatter

    def run(self) -> None:
        """Run the command and turn what goes wrong into an exit code."""
        if getattr(self.args, "quiet", False):
            be_quiet()
        try:
            self.execute(self.args)
        except SSGRError as error:
            if os.environ.get("SSGR_DEBUG"):
                raise
            self.parser.exit(2 if isinstance(error, ConfigError) else 1, f"{self.parser.prog}: error: {error}\n")
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError" or os.environ.get("SSGR_DEBUG"):  # torch's, which is not loaded here
                raise
            self.parser.exit(1, f"{self.parser.prog}: error: {OUT_OF_MEMORY}\n")
        except KeyboardInterrupt:
            self.parser.exit(130, f"\n{self.parser.prog}: interrupted; {self.after_interruption(self.args)}\n")

    def after_interruption(self, args: Namespace) -> str:
        """Say what is left of an interrupted run, and how to go on."""
        return "nothing was written. Run the same command to start again."

    def execute(self, args: Namespace) -> None:
        """Do the command's work."""
        raise NotImplementedError


def resume_hint(output: Path, what: str) -> str:
    """Say what an interrupted run has left, and how to go on.

    Args:
        output: Where it would have written.
        what: What it keeps once it is finished, such as rollouts.
    """
    journal = journal_folder(output)
    if not journal.exists():
        return "nothing was written. Run the same command to start again."
    return f"finished {what} are kept in {journal}. Run the same command to go on."


def be_quiet() -> None:
    """Silence progress bars and everything below errors; must run before the heavy libraries are imported."""
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    logging.disable(logging.WARNING)


def say(text: str) -> None:
    """Print a result to standard output, at once."""
    print(text, flush=True)
