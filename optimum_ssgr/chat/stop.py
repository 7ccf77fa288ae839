"""Switches that stop a response; they work across the processes that ZeroGPU forks."""

import itertools
import mmap
import struct
from dataclasses import dataclass


SWITCHES = 4096  # in use at a time; the oldest one is stopped when more are made

# Anonymous memory is shared with forked processes. Each place holds the number of the switch that may still run.
_MEMORY = mmap.mmap(-1, 8 * SWITCHES)
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class StopSwitch:
    """Stops one response; can be pickled.

    Args:
        number: Its own number, never used again.
    """

    number: int

    def set(self) -> None:
        """Stop the response."""
        if not self.is_set():
            struct.pack_into("Q", _MEMORY, self._place, 0)

    def is_set(self) -> bool:
        """Tell whether the response is to stop."""
        return struct.unpack_from("Q", _MEMORY, self._place)[0] != self.number

    @property
    def _place(self) -> int:
        return 8 * (self.number % SWITCHES)


def new_switch() -> StopSwitch:
    """Make a switch that is not set."""
    switch = StopSwitch(next(_NUMBERS))
    struct.pack_into("Q", _MEMORY, 8 * (switch.number % SWITCHES), switch.number)
    return switch
