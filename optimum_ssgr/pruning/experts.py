"""Mixture-of-experts layers whose experts are fused in 3-D parameters: run them so that every expert's inputs are seen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from ..compat import apply_gate, expert_functions, experts_run_by, takes_expert_functions
from .forwards import replaced_forwards


# Called with the parameter's name, the inputs of every expert [routed tokens, in], and which tokens of the batch those are.
Observer = Callable[[str, list[torch.Tensor], list[torch.Tensor]], None]
# transformers calls `_run_experts` with the module alone, so that it looks its observer up here.
_observers: "WeakKeyDictionary[nn.Module, Observer]" = WeakKeyDictionary()
_registrations = count()
# Modules that transformers runs itself: every expert on as many rows [experts * tokens, in] as there are tokens, with zeros for
# those that did not choose it; parameters gate_up_proj and down_proj [experts, in, out].
BATCHED = frozenset({"Llama4TextExperts"})


def is_fused(module: nn.Module) -> bool:
    """Tell whether a module holds fused experts that can be run by a function of ours."""
    return takes_expert_functions(module) or _is_batched(module)


def _is_batched(module: nn.Module) -> bool:
    return type(module).__name__ in BATCHED


def is_transposed(module: nn.Module) -> bool:
    """Tell whether fused parameters are stored [experts, in, out]."""
    return _is_batched(module) or module.is_transposed


def fused_parameters(module: nn.Module) -> tuple[str, str]:
    """Return the names of the parameters into and out of the experts' hidden layer."""
    return ("gate_up_proj" if _is_batched(module) or module.has_gate else "up_proj"), "down_proj"


@contextmanager
def observe_experts(module: nn.Module, observer: Observer) -> Iterator[None]:
    """Show the inputs of a module's experts to an observer: first all that go in, then all that go out."""
    batched = [module] if _is_batched(module) else []
    _observers[module] = observer
    try:
        with replaced_forwards(batched, [partial(_run_batched, module)] * len(batched)):
            yield
    finally:
        del _observers[module]


@contextmanager
def use_observable_experts(model: PreTrainedModel) -> Iterator[None]:
    """Have a model run its fused experts expert by expert.

    transformers finds the function by a name in the model's config, in a registry that the whole process shares. It is in there
    during this context only, each time under a name of its own: contexts may be nested, on one model too, and may overlap.
    """
    name = f"ssgr-{next(_registrations)}"
    configs = {id(module.config): module.config for module in model.modules() if takes_expert_functions(module)}.values()
    expert_functions()[name] = _run_experts
    try:
        with experts_run_by(configs, name):
            yield
    finally:
        del expert_functions()[name]


def _run_experts(
    module: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Compute what transformers' own loop over experts computes, all experts one layer at a time.

    transformers takes each expert through both of its layers before it comes to the next. Here all experts' first layers come
    before all second ones, so that the observer sees the inputs of a whole parameter at once; it may prune that parameter
    before this function goes on, which therefore reads the weights only afterwards.
    """
    observer = _observers.get(module, lambda *_: None)
    into, out_of = fused_parameters(module)
    experts = range(module.num_experts)
    if hidden_states.is_meta:  # nothing to route: only shows that the experts are reached
        observer(into, [], [])
        observer(out_of, [], [])
        return torch.empty_like(hidden_states)

    # 1. Route: for every expert the tokens that chose it, and as which of their choices.
    routes = [torch.where(top_k_index == expert) for expert in experts]
    tokens = [token for token, _ in routes]

    # 2. Into the hidden layers.
    inputs = [hidden_states[token] for token in tokens]
    observer(into, inputs, tokens)
    inputs = [apply_gate(module, _linear(module, into, expert, inputs[expert])) for expert in experts]

    # 3. Out of them, and back to the tokens. A slot for every choice of a token is filled first and then summed over, because
    # summing over a dimension is deterministic on every device and adding by index is not.
    observer(out_of, inputs, tokens)
    outputs = hidden_states.new_zeros(*top_k_index.shape, hidden_states.shape[-1])
    for expert, (token, slot) in enumerate(routes):
        output = _linear(module, out_of, expert, inputs[expert])
        if module.has_post_expert_norm:
            output = module.post_expert_norm(output)
        outputs[token, slot] = (output * top_k_weights[token, slot, None]).to(outputs.dtype)
    return outputs.sum(dim=1)


def _run_batched(module: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute what a module of `BATCHED` computes, on the rows that are not zero alone, and show them to the observer."""
    observer, (into, out_of) = _observers[module], fused_parameters(module)
    if hidden_states.is_meta:
        observer(into, [], [])
        observer(out_of, [], [])
        return torch.empty_like(hidden_states)
    rows = hidden_states.view(module.num_experts, -1, hidden_states.shape[-1])
    tokens = [torch.where(of_expert.any(dim=-1))[0] for of_expert in rows]
    inputs = [of_expert[token] for of_expert, token in zip(rows, tokens, strict=True)]
    observer(into, inputs, tokens)
    halves = [(of_expert @ weight).chunk(2, dim=-1) for of_expert, weight in zip(inputs, module.gate_up_proj, strict=True)]
    inputs = [up * module.act_fn(gate) for gate, up in halves]
    observer(out_of, inputs, tokens)
    outputs = torch.zeros_like(rows)
    for expert, token in enumerate(tokens):
        outputs[expert, token] = inputs[expert] @ module.down_proj[expert]
    return outputs.view(hidden_states.shape)


def _linear(module: nn.Module, name: str, expert: int, inputs: torch.Tensor) -> torch.Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return nn.functional.linear(inputs, weight.T if module.is_transposed else weight, bias)
