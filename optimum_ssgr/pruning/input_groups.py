"""Which of a block's weight matrices are fed the same inputs, and at which moment of its forward pass those are known."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..errors import ModelError
from .blocks import Matrix
from .experts import observe_experts


@dataclass(frozen=True)
class InputGroup:
    """Weight matrices that are fed the same inputs, such as q, k and v: one set of statistics serves all of them.

    Args:
        matrices: Their names in the block.
    """

    matrices: tuple[str, ...]

    @property
    def first(self) -> str:
        """Name of the matrix that the inputs are looked at for."""
        return self.matrices[0]


@dataclass(frozen=True)
class HookPoint:
    """A moment of a block's forward pass at which the inputs of some groups are known.

    Args:
        groups: One group of linear layers, or one group for every expert: a fused layer feeds all of its experts at once.
    """

    groups: tuple[InputGroup, ...]


# Of a block's weights, the most that may be in layers whose inputs cannot be seen; these are pruned by magnitude.
MAX_UNSEEN = 0.05
# Called with a hook point's number, the inputs of each group [tokens, in], and which tokens of the batch those are (None: all).
Observer = Callable[[int, list[torch.Tensor], list[torch.Tensor] | None], None]


@contextmanager
def trace_input_groups(matrices: Mapping[str, Mapping[str, Matrix]]) -> Iterator[dict[str, list[HookPoint]]]:
    """Find out what is fed to what while a few tokens run through the model, on the meta device too.

    Args:
        matrices: For every block's name its prunable matrices by name.

    Yields:
        For every block's name its hook points in the order of the forward pass; filled in at the end. Without the matrices
        whose inputs cannot be seen at once: of layers that are called more than once, or whose weights are used elsewhere.

    Raises:
        ModelError: These are more than a small part of a block.
    """
    # Which matrices share their inputs is not read off the architecture but seen: they are called with the same tensor object.
    events: dict[str, list[tuple[int, tuple[str, ...]]]] = {name: [] for name in matrices}
    inputs: list[torch.Tensor] = []  # kept alive, since a freed tensor's id could be given to another one

    def record_linear(block: str, matrix: str, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        inputs.append(args[0])
        events[block].append((id(args[0]), (matrix,)))

    def record_experts(block: str, members: Sequence[Matrix], key: str, *_: object) -> None:
        events[block].append((id(members), tuple(matrix.name for matrix in members if matrix.parameter == key)))

    points: dict[str, list[HookPoint]] = {}
    with ExitStack() as stack:
        for block, found in matrices.items():
            for matrix in found.values():
                if matrix.expert is None:
                    stack.callback(matrix.module.register_forward_pre_hook(partial(record_linear, block, matrix.name)).remove)
            for module, members in _by_module(found).items():
                stack.enter_context(observe_experts(module, partial(record_experts, block, members)))
        yield points
    for block, found in matrices.items():
        times = Counter(name for _, names in events[block] for name in names)
        once = {name for name, count in times.items() if count == 1}
        _check_nearly_all_seen(block, found, times)
        points[block] = _make_hook_points(found, [event for event in events[block] if once.issuperset(event[1])])


def _by_module(matrices: Mapping[str, Matrix]) -> dict[nn.Module, list[Matrix]]:
    """Group the fused matrices by their module."""
    grouped: dict[nn.Module, list[Matrix]] = {}
    for matrix in matrices.values():
        if matrix.expert is not None:
            grouped.setdefault(matrix.module, []).append(matrix)
    return grouped


def _make_hook_points(matrices: Mapping[str, Matrix], events: list[tuple[int, tuple[str, ...]]]) -> list[HookPoint]:
    """Turn what was traced into hook points: linear layers that were fed the same tensor together, experts each alone."""
    known: dict[int, int] = {}  # number of the hook point by the identity of its input
    points: list[HookPoint] = []
    for identity, names in events:
        if matrices[names[0]].expert is not None:
            points.append(HookPoint(tuple(InputGroup((name,)) for name in names)))
        elif identity in known:
            [group] = points[known[identity]].groups
            points[known[identity]] = HookPoint((InputGroup((*group.matrices, *names)),))
        else:
            known[identity] = len(points)
            points.append(HookPoint((InputGroup(names),)))
    return points


def _check_nearly_all_seen(block: str, matrices: Mapping[str, Matrix], times: Counter[str]) -> None:
    """Refuse a block of which more than a small part is not run, or more than once; an embedded router may be."""
    sizes = {name: matrix.weight().numel() for name, matrix in matrices.items()}
    unseen = {name: size for name, size in sizes.items() if times[name] != 1}
    if sum(unseen.values()) > MAX_UNSEEN * sum(sizes.values()):
        largest = max(unseen, key=unseen.__getitem__)
        how = "is run more than once in its block" if times[largest] else "is not run as a layer of its own"
        raise ModelError(f"{block}.{largest} {how}, so its inputs cannot be seen at once; prune the model by magnitude.")


@contextmanager
def hook_input_groups(matrices: Mapping[str, Matrix], points: Sequence[HookPoint], observe: Observer) -> Iterator[None]:
    """Show the inputs of every hook point to an observer, just before they are used.

    Args:
        matrices: A block's prunable matrices by name.
        points: Its hook points.
        observe: The observer; what it does to the weights takes effect on the very inputs it was shown.
    """

    def observe_linear(number: int, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        observe(number, [args[0].reshape(-1, args[0].shape[-1])], None)

    def observe_fused(numbers: Mapping[str, int], key: str, inputs: list[torch.Tensor], tokens: list[torch.Tensor]) -> None:
        observe(numbers[key], inputs, tokens)

    fused: dict[nn.Module, dict[str, int]] = {}
    with ExitStack() as stack:
        for number, point in enumerate(points):
            first = matrices[point.groups[0].first]
            if first.expert is None:
                # Only the group's first layer is hooked: the others are fed the same tensor later.
                stack.callback(first.module.register_forward_pre_hook(partial(observe_linear, number)).remove)
            else:
                fused.setdefault(first.module, {})[first.parameter] = number
        for module, numbers in fused.items():
            stack.enter_context(observe_experts(module, partial(observe_fused, numbers)))
        yield
