"""How many processors this process may use, which on a shared host are far fewer than the machine has."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_processors(root: Path = Path("/")) -> int:
    """Count the processors that this process may run on, no more than its control groups give it time for.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        At least 1; part of a processor's time counts as one.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # only Linux has it
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield how many processors' time each control group around this process may use, in either version of Linux's files."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folders, read = [mounts], _quota_v2
        elif "cpu" in controllers.split(","):
            folders, read = [mounts / "cpu", mounts / controllers], _quota_v1
        else:
            continue
        for folder in folders:
            group = folder / path.lstrip("/")  # in a container it may not be seen by its name, but as the root
            for place in (group, *group.parents):
                with suppress(OSError, ValueError, ZeroDivisionError):
                    if (quota := read(place)) is not None:
                        yield quota
                if place == folder:
                    break


def _quota_v2(group: Path) -> float | None:
    quota, period = (group / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float | None:
    quota = int((group / "cpu.cfs_quota_us").read_text())
    return None if quota < 0 else quota / int((group / "cpu.cfs_period_us").read_text())
