"""What answers in a column: a model in this process, or one behind an OpenAI-compatible server."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .settings import ChatSettings


TOP_P = 0.95


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to continue.

    Args:
        messages: Role (`user` or `assistant`) and text, the question last.
        temperature: Softmax temperature; 0 is greedy.
        max_new_tokens: Longest response.
        seed: Seed of the response's own random numbers; columns with one seed draw the same numbers.
    """

    messages: tuple[tuple[str, str], ...]
    temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Piece:
    """A part of a response.

    Args:
        text: Text of the part.
        tokens: Number of tokens it took.
        token_ids: Their ids; empty when a server does not tell.
        finish: `stop` when the model ended with this part, `length` when it was cut, else None.
    """

    text: str
    tokens: int = 0
    token_ids: tuple[int, ...] = ()
    finish: str | None = None


class Backend(Protocol):
    """One model that answers."""

    def stream(self, request: ChatRequest, stopped: Callable[[], bool]) -> Iterator[Piece]:
        """Yield the response part by part, and end soon when `stopped` says so."""
        ...


def open_backends(settings: ChatSettings) -> list[Backend]:
    """Open a backend for every model.

    Raises:
        ModelError: A model that is to run in this process cannot be loaded.
        ConfigError: An address is not one.
    """
    if settings.addresses:
        from .server import ServerBackend

        addresses = settings.addresses * (len(settings.models) if len(settings.addresses) == 1 else 1)
        return [
            ServerBackend(address, model, settings.time_limit)
            for address, model in zip(addresses, settings.models, strict=True)
        ]
    from .local import LocalBackend

    return [
        LocalBackend.load(model, settings.dtype, settings.device_map, settings.trust_remote_code) for model in settings.models
    ]
