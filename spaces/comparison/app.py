"""Chat with dense and pruned reasoning models side by side; `settings.json` beside this file says which."""

import signal
import sys
from contextlib import suppress
from pathlib import Path


with suppress(ImportError):
    import spaces  # noqa: F401  on ZeroGPU it must be imported before torch

from optimum_ssgr.chat.page import launch_arguments, open_page
from optimum_ssgr.chat.settings import ChatSettings


demo = open_page(ChatSettings.from_file(Path(__file__).parent / "settings.json"))

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # a Space that is stopped still sends its votes
    demo.launch(**launch_arguments())
