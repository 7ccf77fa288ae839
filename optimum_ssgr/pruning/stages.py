"""In which order a block's weight matrices are used, and which of them share their inputs."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..errors import ModelError
from .blocks import Matrix
from .experts import observed


@dataclass(frozen=True)
class Stage:
    """Weight matrices whose inputs are known at the same moment of a block's forward pass.

    Args:
        shares: Names of the matrices, those that are fed the same inputs together: q/k/v, or each expert by itself.
    """

    shares: tuple[tuple[str, ...], ...]


# Called with a stage's number, the inputs of each share [tokens, in], and which tokens of the batch those are (None: all).
Observer = Callable[[int, list[torch.Tensor], list[torch.Tensor] | None], None]


@contextmanager
def noted(matrices: Mapping[str, Mapping[str, Matrix]]) -> Iterator[dict[str, list[Stage]]]:
    """Note what is fed to what while a few tokens run through the model, on the meta device too.

    Args:
        matrices: For every block's name its prunable matrices by name.

    Yields:
        For every block's name its stages in the order of the forward pass; filled in at the end.

    Raises:
        ModelError: A matrix is never used, so that there would be nothing to calibrate it on, or more than once.
    """
    events: dict[str, list[tuple[int, tuple[str, ...]]]] = {name: [] for name in matrices}
    kept: list[torch.Tensor] = []  # holds the inputs, so that no two of them share an id

    def note(block: str, matrix: str, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        kept.append(args[0])
        events[block].append((id(args[0]), (matrix,)))

    def note_experts(block: str, members: Sequence[Matrix], key: str, *_: object) -> None:
        events[block].append((id(members), tuple(matrix.name for matrix in members if matrix.parameter == key)))

    stages: dict[str, list[Stage]] = {}
    with ExitStack() as stack:
        for block, found in matrices.items():
            for matrix in found.values():
                if matrix.expert is None:
                    stack.callback(matrix.module.register_forward_pre_hook(partial(note, block, matrix.name)).remove)
            for module, members in _by_module(found).items():
                stack.enter_context(observed(module, partial(note_experts, block, members)))
        yield stages
    for block, found in matrices.items():
        stages[block] = _as_stages(found, events[block])
        used = Counter(name for stage in stages[block] for share in stage.shares for name in share)
        if repeated := [name for name, times in used.items() if times > 1]:
            raise ModelError(f"{block}.{repeated[0]} is run more than once in its block; its inputs cannot be seen at once.")
        if missing := set(found) - set(used):
            raise ModelError(f"{block}.{min(missing)} is not run as a layer of its own, so its inputs cannot be seen.")


def _by_module(matrices: Mapping[str, Matrix]) -> dict[nn.Module, list[Matrix]]:
    """Group the fused matrices by their module."""
    grouped: dict[nn.Module, list[Matrix]] = {}
    for matrix in matrices.values():
        if matrix.expert is not None:
            grouped.setdefault(matrix.module, []).append(matrix)
    return grouped


def _as_stages(matrices: Mapping[str, Matrix], events: list[tuple[int, tuple[str, ...]]]) -> list[Stage]:
    """Turn what was noted into stages: linear layers that saw the same tensor together, experts each alone."""
    shared: dict[int, int] = {}  # number of the stage by the identity of its input
    stages: list[Stage] = []
    for identity, names in events:
        if matrices[names[0]].expert is not None:
            stages.append(Stage(tuple((name,) for name in names)))
        elif identity in shared:
            [members] = stages[shared[identity]].shares
            stages[shared[identity]] = Stage(((*members, *names),))
        else:
            shared[identity] = len(stages)
            stages.append(Stage((names,)))
    return stages


@contextmanager
def watched(matrices: Mapping[str, Matrix], stages: Sequence[Stage], observe: Observer) -> Iterator[None]:
    """Show the inputs of every stage to an observer, just before they are used."""

    def of_linear(number: int, _: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        observe(number, [args[0].reshape(-1, args[0].shape[-1])], None)

    def of_experts(numbers: Mapping[str, int], key: str, inputs: list[torch.Tensor], tokens: list[torch.Tensor]) -> None:
        observe(numbers[key], inputs, tokens)

    fused: dict[nn.Module, dict[str, int]] = {}
    with ExitStack() as stack:
        for number, stage in enumerate(stages):
            leader = matrices[stage.shares[0][0]]
            if leader.expert is None:
                stack.callback(leader.module.register_forward_pre_hook(partial(of_linear, number)).remove)
            else:
                fused.setdefault(leader.module, {})[leader.parameter] = number
        for module, numbers in fused.items():
            stack.enter_context(observed(module, partial(of_experts, numbers)))
        yield
