"""Mixture-of-experts layers whose experts are fused in 3-D parameters: run them so that every expert's inputs are seen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS


NAME = "ssgr"
# Called with the parameter's name, the inputs of every expert [routed tokens, in], and which tokens of the batch those are.
Observer = Callable[[str, list[torch.Tensor], list[torch.Tensor]], None]
_observers: "WeakKeyDictionary[nn.Module, Observer]" = WeakKeyDictionary()


def is_fused(module: nn.Module) -> bool:
    """Tell whether a module holds fused experts that transformers lets be run by a function of ours."""
    return all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias", "_apply_gate"))


def fused_parameters(module: nn.Module) -> tuple[str, str]:
    """Return the names of the parameters into and out of the experts' hidden layer."""
    return ("gate_up_proj" if module.has_gate else "up_proj"), "down_proj"


@contextmanager
def observed(module: nn.Module, observer: Observer) -> Iterator[None]:
    """Show the inputs of a module's experts to an observer, stage by stage: first all that go in, then all that go out."""
    _observers[module] = observer
    try:
        yield
    finally:
        del _observers[module]


@contextmanager
def observable(model: PreTrainedModel) -> Iterator[None]:
    """Have a model run its fused experts expert by expert."""
    configs = {id(module.config): module.config for module in model.modules() if is_fused(module)}.values()
    previous = [config._experts_implementation for config in configs]
    for config in configs:
        config._experts_implementation = NAME
    try:
        yield
    finally:
        for config, name in zip(configs, previous, strict=True):
            config._experts_implementation = name


def _run_experts(
    module: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Compute what transformers' own loop over experts computes, all experts one layer at a time."""
    observer = _observers.get(module, lambda *_: None)
    into, out_of = fused_parameters(module)
    experts = range(module.num_experts)
    if hidden_states.is_meta:  # nothing to route: only shows that the experts are reached
        observer(into, [], [])
        observer(out_of, [], [])
        return torch.empty_like(hidden_states)
    routes = [torch.where(top_k_index == expert) for expert in experts]
    tokens = [token for token, _ in routes]
    inputs = [hidden_states[token] for token in tokens]
    observer(into, inputs, tokens)
    apply = module._apply_gate if module.has_gate else module.act_fn
    inputs = [apply(_linear(module, into, expert, inputs[expert])) for expert in experts]
    observer(out_of, inputs, tokens)
    # Summing over a dimension is deterministic on every device, adding by index is not.
    outputs = hidden_states.new_zeros(*top_k_index.shape, hidden_states.shape[-1])
    for expert, (token, place) in enumerate(routes):
        output = _linear(module, out_of, expert, inputs[expert])
        if module.has_post_expert_norm:
            output = module.post_expert_norm(output)
        outputs[token, place] = (output * top_k_weights[token, place, None]).to(outputs.dtype)
    return outputs.sum(dim=1)


def _linear(module: nn.Module, name: str, expert: int, inputs: torch.Tensor) -> torch.Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return nn.functional.linear(inputs, weight.T if module.is_transposed else weight, bias)


ALL_EXPERTS_FUNCTIONS.register(NAME, _run_experts)
