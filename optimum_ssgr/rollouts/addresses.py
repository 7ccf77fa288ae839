"""What an engine's name stands for, checked without loading anything heavy."""

import shutil
from typing import TYPE_CHECKING

from ..config import IN_PROCESS, MANAGED, EngineConfig
from ..errors import ConfigError


if TYPE_CHECKING:
    import httpx2


def server_addresses(engine: str) -> list[str]:
    """Return the addresses that an engine's name consists of.

    Args:
        engine: Addresses of OpenAI-compatible servers, separated by commas.

    Raises:
        ConfigError: It is something else.
    """
    addresses = [address.strip() for address in engine.split(",") if address.strip()]
    if not addresses or not all(address.startswith(("http://", "https://")) for address in addresses):
        known = ", ".join((IN_PROCESS, *MANAGED))
        raise ConfigError(f"the engine must be {known} or addresses such as http://localhost:8000/v1, not '{engine}'.")
    for address in addresses:
        parse_address(address)
    return addresses


def find_command(engine: EngineConfig) -> str:
    """Return the path of a server to start.

    Raises:
        ConfigError: It is not there.
    """
    wanted = engine.command or engine.name
    found = shutil.which(wanted)
    if found is None:
        raise ConfigError(
            f"there is no command '{wanted}' to start; install {engine.name}, or name its executable with --engine-command."
        )
    return found


def check_engine(engine: EngineConfig, batch_size: int) -> None:
    """Refuse an engine or a batch that there cannot be, before anything is read.

    Raises:
        ConfigError: There cannot.
    """
    if engine.is_managed:
        find_command(engine)
    elif not engine.in_process:
        server_addresses(engine.name)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}.")


def parse_address(address: str) -> "httpx2.URL":
    """Take the address of a server's API apart; it stays out of the message, since it may hold a password.

    Raises:
        ConfigError: It is no address of an API.
    """
    import httpx2  # not for those who only ask for help

    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.path.strip("/") == "":
        raise ConfigError("an engine's address must look like http://host:8000/v1; check the one you gave.")
    return url
