"""Let several models answer at once, and merge what they write into one stream of snapshots."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import monotonic

from transformers.utils import logging

from ..errors import SSGRError
from ..evaluation.metrics import is_loop
from ..thinking import ThinkingStyle, recognize_style
from .answers import Answer
from .backends import Backend, ChatRequest, Piece
from .stop import StopSwitch


logger = logging.get_logger(__name__)

INTERVAL = 0.12  # seconds between snapshots
LOOP_CHECK = 32  # tokens between looks for a loop


@dataclass
class _Column:
    """The response of one model in the making."""

    style: ThinkingStyle | None = None
    text: str = ""
    tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    first: float | None = None
    thought: float | None = None
    ended: float | None = None
    finish: str | None = None
    error: str | None = None
    rambling: bool = False
    checked: int = 0

    def add(self, piece: Piece, now: float) -> None:
        if self.first is None and piece.tokens:
            self.first = now
        self.text += piece.text
        self.tokens += piece.tokens
        self.token_ids += piece.token_ids
        if self.thought is None and piece.text:
            closing = (self.style or recognize_style(self.text)).closing
            if closing in self.text[-len(piece.text) - len(closing) :]:
                self.thought = now
        if piece.finish:
            self.end(piece.finish, now)
        elif self.tokens >= self.checked + LOOP_CHECK:
            self.look_for_loop()

    def end(self, finish: str, now: float, error: str | None = None) -> None:
        self.finish, self.ended, self.error = finish, now, error
        self.look_for_loop()

    def look_for_loop(self) -> None:
        self.checked = self.tokens
        numbers: dict[str, int] = {}  # servers do not tell token ids; words take their place
        self.rambling = is_loop(self.token_ids or [numbers.setdefault(word, len(numbers)) for word in self.text.split()])

    def snapshot(self, now: float) -> Answer:
        seconds = now if self.ended is None else self.ended
        known = (self.text, self.tokens, self.first, self.thought, seconds, self.finish, self.error, self.rambling)
        return Answer(*known, style=self.style)


def stream_all(
    backends: Sequence[Backend], requests: Sequence[ChatRequest], switches: Sequence[StopSwitch], time_limit: float
) -> Iterator[list[Answer]]:
    """Yield the answers as they grow, a few times a second, and once more when all of them are finished.

    A model that fails ends its own column only. Closing this generator stops all of them.

    Args:
        backends: One per column.
        requests: What to ask each.
        switches: Setting one stops its column.
        time_limit: Seconds after which all columns are stopped.
    """
    events: SimpleQueue[tuple[int, Piece | Exception | None, float]] = SimpleQueue()
    start = monotonic()

    def work(index: int) -> None:
        try:
            for piece in backends[index].stream(requests[index], switches[index].is_set):
                events.put((index, piece, monotonic() - start))
            events.put((index, None, monotonic() - start))
        except Exception as error:  # whatever a model's code raises must not end the other columns
            events.put((index, error, monotonic() - start))

    for index in range(len(backends)):
        threading.Thread(target=work, args=(index,), daemon=True).start()
    columns = [_Column(backend.style) for backend in backends]
    shown = -INTERVAL
    try:
        while any(column.finish is None for column in columns):
            try:
                index, event, at = events.get(timeout=INTERVAL)
                if columns[index].finish is None:
                    _apply(columns[index], event, at)
            except Empty:
                pass
            now = monotonic() - start
            for column, switch in zip(columns, switches, strict=True):
                # A server may be silent for long: its column ends at once, its thread when it hears from the server.
                if column.finish is None and (switch.is_set() or now > time_limit):
                    column.end("stopped" if switch.is_set() else "time", now)
                    switch.set()
            if now - shown >= INTERVAL:
                shown = now
                yield [column.snapshot(now) for column in columns]
        yield [column.snapshot(now) for column in columns]
    finally:
        for switch in switches:
            switch.set()


def _apply(column: _Column, event: Piece | Exception | None, now: float) -> None:
    if isinstance(event, Piece):
        column.add(event, now)
    elif isinstance(event, SSGRError):
        column.end("error", now, str(event))
    elif event is None:
        column.end("stopped", now)
    else:
        logger.error("A model failed while answering.", exc_info=event)
        column.end("error", now, "this model failed; the log of the server says why.")  # its own words may hold secrets
