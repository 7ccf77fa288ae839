"""What is asked of a model, and what it answers piece by piece; `local` and `server` are the two kinds of backend."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ..thinking import ThinkingStyle


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
    """One model that answers.

    Args:
        style: How it delimits its thinking; told from what it writes when None.
    """

    style: ThinkingStyle | None

    def stream(self, request: ChatRequest, stopped: Callable[[], bool]) -> Iterator[Piece]:
        """Yield the response part by part, and end soon when `stopped` says so."""
        ...
