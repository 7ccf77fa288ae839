"""One comparison from question to verdict: what it may ask, who answers, and how it is stopped."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module

from ..errors import ConfigError
from ..records import Problem
from .answers import Answer
from .backends import Backend, ChatRequest
from .compared_models import ComparedModel
from .conversation import Conversation, Turn
from .grading import grade
from .settings import ChatSettings
from .stop import StopSwitch, new_switch
from .stream_all import stream_all


GPU_MARGIN = 10  # seconds that ZeroGPU is asked for beyond the time limit
MAX_SEED = 2**31 - 1


@dataclass
class ComparisonSession:
    """The models of a page and the comparisons that run on it.

    Args:
        settings: Limits.
        models: Who is compared.
        backends: One per model, in the same order.
        examples: Problems with known answers, by level.
    """

    settings: ChatSettings
    models: Sequence[ComparedModel]
    backends: Sequence[Backend]
    examples: dict[str, list[Problem]]
    _running: dict[str, list[StopSwitch]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        known = [problem for problems in self.examples.values() for problem in problems]
        self._known = {_squeeze(problem.question): problem for problem in known}
        self._stream = borrow_gpu(self._stream_in_order, self.settings.time_limit + GPU_MARGIN)

    def turn(self, question: str, expected: str, temperature: float, max_new_tokens: int, seed: int) -> Turn:
        """Check what is asked, and look its answer up if the question is an example.

        Raises:
            ConfigError: The question is empty or too long, or a setting is out of range.
        """
        question, limits = (question or "").strip(), self.settings
        if not question:
            raise ConfigError("Type a question first.")
        if len(question) > limits.max_question:
            raise ConfigError(f"The question is longer than {limits.max_question} characters.")
        try:
            temperature, max_new_tokens, seed = float(temperature), int(max_new_tokens), int(seed)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError("Temperature, token limit and seed must be numbers.") from None
        if not 0 <= temperature <= 2 or not 1 <= max_new_tokens <= limits.max_new_tokens or not 0 <= seed <= MAX_SEED:
            raise ConfigError(
                f"Temperature must be from 0 to 2, the token limit from 1 to {limits.max_new_tokens}, the seed not negative."
            )
        return Turn(question, self.problem(question, expected), temperature, max_new_tokens, seed)

    def problem(self, question: str, expected: str | None) -> Problem | None:
        """Return the question with its known answer: the one that was given, or that of the example with these words."""
        known = self._known.get(_squeeze(question))
        expected = (expected or "").strip()[: self.settings.max_question]
        if expected and (known is None or expected != known.answer):
            return Problem("question", question, expected)
        return known

    def answer(self, conversation: Conversation, session: str) -> Iterator[list[Answer]]:
        """Yield the answers to the open question as they grow, and once more with their verdicts.

        Args:
            conversation: Its last turn is the open question.
            session: Whose comparison it is; one that still runs for them is stopped.
        """
        turn = conversation.last
        requests = [
            ChatRequest(conversation.messages(column), turn.temperature, turn.max_new_tokens, turn.seed)
            for column in range(len(self.backends))
        ]
        switches = [new_switch() for _ in self.backends]
        self.stop(session)
        with self._lock:
            self._running[session] = switches
        answers: list[Answer] = []
        try:
            for answers in self._stream(conversation.order, requests, switches):
                yield answers
            yield grade(answers, turn.problem)
        finally:
            for switch in switches:  # the page may be gone
                switch.set()
            with self._lock:
                if self._running.get(session) is switches:
                    del self._running[session]

    def stop(self, session: str, column: int | None = None) -> None:
        """Stop a session's answers, or the one in a column."""
        with self._lock:
            switches = self._running.get(session, [])
        for switch in switches if column is None else switches[column : column + 1]:
            switch.set()

    def is_answering(self, session: str) -> bool:
        """Whether a session's comparison runs."""
        return session in self._running

    @property
    def running(self) -> int:
        """Number of comparisons that run."""
        return len(self._running)

    def _stream_in_order(
        self, order: Sequence[int], requests: Sequence[ChatRequest], switches: Sequence[StopSwitch]
    ) -> Iterator[list[Answer]]:
        backends = [self.backends[index] for index in order]
        yield from stream_all(backends, requests, switches, self.settings.time_limit)


def borrow_gpu(generate: Callable[..., Iterator[list[Answer]]], seconds: float) -> Callable[..., Iterator[list[Answer]]]:
    """Let a generator have the GPU of a ZeroGPU Space while it runs; elsewhere it is left as it is."""
    try:
        gpu = import_module("spaces").GPU
    except (ImportError, AttributeError):  # the package of ZeroGPU is not there; a folder of that name is not the package
        return generate
    return gpu(generate, duration=int(seconds))


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
