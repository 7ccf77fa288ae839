"""The Hub's clients of this process, turned towards a Hub on loopback."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers.utils import hub

from .server import HubServer


def turn_clients(patch: pytest.MonkeyPatch, server: HubServer, home: Path) -> None:
    """Let `huggingface_hub` talk to a server as the user whom its token is of, with its caches in the folder `home`.

    It reads its settings when it is imported, so the constants are changed; `HubServer.environment` is for new processes.
    """
    patch.setenv("HF_HOME", str(home))
    patch.setenv("HF_TOKEN", server.token)
    patch.setattr(constants, "ENDPOINT", server.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", server.mode != "xet")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(hub, "_hf_api", None)  # transformers keeps the first client that it makes, with its Hub's address
