"""Chat with dense and pruned reasoning models side by side; `settings.json` beside this file says which."""

from contextlib import suppress
from pathlib import Path


with suppress(ImportError):
    import spaces  # noqa: F401  on ZeroGPU it must be imported before torch

from optimum_ssgr.chat.embedded import with_embedded_models
from optimum_ssgr.chat.page import build_page, launch_arguments, open_arena
from optimum_ssgr.chat.settings import ChatSettings


settings = ChatSettings.from_file(Path(__file__).parent / "settings.json")
demo = build_page(open_arena(with_embedded_models(settings)))

if __name__ == "__main__":
    demo.launch(**launch_arguments())
