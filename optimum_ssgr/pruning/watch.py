"""Processes that look after one another: where one of them fails, the others end, instead of waiting for it for days.

Whoever waits in a collective operation is not told why nobody comes. So a thread of every process tells the others every few
seconds that its process lives, looks whether they do, and ends its own where one has failed or gone silent.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch.distributed import Store


BEAT = 5.0
"""Seconds between two signs of life."""
SILENCE = 1800.0
"""Seconds without one after which a process counts as gone: more than any call that lets no other thread run."""
FAILED = "failed"


@contextmanager
def watch_others(store: Store | None, rank: int, size: int) -> Iterator[None]:
    """End this process when another one fails in here, and tell the others when this one does.

    Args:
        store: Where the processes of a job leave messages for one another; None when there is one process only.
        rank: Number of this process.
        size: Number of processes.
    """
    if store is None:
        yield
        return
    stopped, reached = threading.Event(), [time.monotonic()]
    listens = threading.Thread(target=_listen, args=(store.clone(), rank, size, stopped, reached), daemon=True)
    looks = threading.Thread(target=_look_after, args=(stopped, reached), daemon=True)
    listens.start()
    looks.start()
    try:
        yield
    except BaseException as error:
        stopped.set()
        with suppress(RuntimeError):  # it is gone with the process that held it
            # the first is the cause, and others may follow from it
            store.compare_set(FAILED, "", f"process {rank} of this job has failed: {str(error) or type(error).__name__}")
        raise
    finally:
        stopped.set()
        listens.join(BEAT)


def _listen(store: Store, rank: int, size: int, stopped: threading.Event, reached: list[float]) -> None:
    """Beat, listen, and end the process where the others cannot go on; `reached` is when the store was reached last."""
    heard = {other: (0, time.monotonic()) for other in range(size) if other != rank}
    lost = False
    while not stopped.wait(BEAT):
        try:
            store.add(f"alive/{rank}", 1)
            if store.check([FAILED]):
                return _end(store.get(FAILED).decode(), stopped)
            for other, (beats, since) in heard.items():
                now = store.add(f"alive/{other}", 0)
                if now != beats:
                    heard[other] = now, time.monotonic()
                elif time.monotonic() - since > SILENCE:
                    return _end(f"process {other} of this job has not been heard of for {SILENCE / 60:g} minutes", stopped)
            lost, reached[0] = False, time.monotonic()
        except RuntimeError:  # at the end of a job the process that holds the store may be the first to leave
            if lost:
                return _end("the process of this job that the others meet at is gone", stopped)
            lost = True


def _look_after(stopped: threading.Event, reached: list[float]) -> None:
    """End the process where its listening thread waits for an answer that does not come."""
    while not stopped.wait(BEAT):
        if time.monotonic() - reached[0] > SILENCE:
            return _end(
                f"the process of this job that the others meet at has been silent for {SILENCE / 60:g} minutes", stopped
            )


def _end(reason: str, stopped: threading.Event) -> None:
    """End the whole process at once: its main thread may wait where no exception reaches it."""
    if not stopped.is_set():
        sentence = f"{reason.rstrip('.')}; this process ends, too, and what a journal holds is kept."
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        os._exit(1)
