"""The addresses of servers, checked without loading anything heavy."""

from typing import TYPE_CHECKING

from ..config import IN_PROCESS
from ..errors import ConfigError


if TYPE_CHECKING:
    import httpx2


def server_addresses(engine: str) -> list[str]:
    """Return the addresses that an engine's name consists of; none when the model generates in this process.

    Args:
        engine: `transformers`, or addresses of OpenAI-compatible servers, separated by commas.

    Raises:
        ConfigError: It is neither.
    """
    if engine == IN_PROCESS:
        return []
    addresses = [address.strip() for address in engine.split(",") if address.strip()]
    if not addresses or not all(address.startswith(("http://", "https://")) for address in addresses):
        raise ConfigError(f"the engine must be {IN_PROCESS} or addresses such as http://localhost:8000/v1, not '{engine}'.")
    for address in addresses:
        parse_address(address)
    return addresses


def check_engine(engine: str, batch_size: int) -> None:
    """Refuse an engine or a batch that there cannot be, before anything is read.

    Raises:
        ConfigError: There cannot.
    """
    server_addresses(engine)
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
