"""Everything taken from private API of other libraries, so that an upgrade breaks one file.

Every entry says in which version it was seen, and why nothing public does. Nothing heavy is loaded before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO


if TYPE_CHECKING:
    import httpx2
    import torch
    from huggingface_hub import CommitInfo
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.core_model_loading import WeightConverter, WeightRenaming


# Where a model comes from. transformers 5.23: a config keeps both, and has no public name for either.


def model_name(model: PreTrainedModel) -> str:
    """Return the Hub id or folder that a model was loaded from."""
    return model.config._name_or_path


def model_commit(model: PreTrainedModel) -> str | None:
    """Return the commit on the Hub that a model was loaded from; None where there is none."""
    return getattr(model.config, "_commit_hash", None)


def set_origin(model: PreTrainedModel, name: str, commit: str | None) -> None:
    """Note in a model's config what it was loaded from; transformers leaves the commit out."""
    model.config._name_or_path = name
    model.config._commit_hash = commit


# How a checkpoint becomes a model. transformers 5.23: only `from_pretrained` applies these rules, to all tensors at once.


class LoadingRules:
    """The rules by which transformers makes a model's tensors out of those of a checkpoint: new names, and parts put together.

    Args:
        model: The model, which may be on the meta device.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self.model = model
        self.rules = get_model_conversion_mapping(model)
        self.renamings: list[WeightRenaming] = [rule for rule in self.rules if isinstance(rule, WeightRenaming)]
        self.converters: list[WeightConverter] = [rule for rule in self.rules if isinstance(rule, WeightConverter)]

    def match(
        self, stored: Iterable[str], wanted: Mapping[str, torch.Tensor]
    ) -> Iterator[tuple[str, str, str | None, WeightConverter | None]]:
        """Find out what becomes of stored tensors, in the order in which transformers loads them.

        Args:
            stored: Their names.
            wanted: The model's tensors by name.

        Yields:
            Name in the checkpoint, name in the model, and where it is one of several parts, the pattern that it fits and the
            converter that puts them together.
        """
        from transformers.core_model_loading import dot_natural_key, rename_source_key

        by_pattern = {pattern: converter for converter in self.converters for pattern in converter.source_patterns}
        for key in sorted(stored, key=dot_natural_key):
            name, pattern = rename_source_key(key, self.renamings, self.converters, self.model.base_model_prefix, wanted)
            yield key, name, pattern, by_pattern.get(pattern)

    def note_used(self) -> None:
        """Note in the model which rules were used, as `from_pretrained` does: they are undone when its tensors are saved."""
        self.model._weight_conversions = [rule for rule in self.rules if rule.was_used()]


def target_names(first: str, converter: WeightConverter | None) -> list[str]:
    """Return the names of all that a converter makes of what it calls by the first of them: several, where it splits."""
    patterns = [] if converter is None else converter.target_patterns
    before, found, after = first.partition(patterns[0]) if len(patterns) > 1 else (first, "", "")
    return [before + pattern + after for pattern in patterns] if found else [first]


def undo_conversion(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a model's tensors under the names and in the parts that its checkpoint has."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, tensors)


def without_initialisation() -> AbstractContextManager[None]:
    """Build models without drawing weights. transformers 5.23: public loaders always read or draw them."""
    from transformers.initialization import no_init_weights

    return no_init_weights()


def kept_in_float32(model: PreTrainedModel) -> Callable[[str], bool]:
    """Return what tells the names of tensors that transformers 5.23 keeps in float32 in a model of lower precision."""
    from transformers.core_model_loading import build_glob_alternation

    kept = list(model._get_dtype_plan(model.dtype))
    if not kept:
        return lambda name: False
    pattern, *_ = build_glob_alternation(kept)
    return lambda name: bool(pattern.search(name))


def find_file(source: str, name: str, *, revision: str | None, token: str | bool | None) -> str | None:
    """Find a file of a model as transformers 5.23 does; None where there is none, for which the public call raises."""
    from transformers.utils import cached_file

    return cached_file(source, name, revision=revision, token=token, _raise_exceptions_for_missing_entries=False)


# Attention. transformers 5.23: modules call a function by its name in a registry, which has no way to take a replacement back.


@contextmanager
def attention_computed_by(name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Have models compute attention by what a function makes of the one of a name."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    local = ALL_ATTENTION_FUNCTIONS._local_mapping
    before = local.get(name)
    local[name] = wrap(ALL_ATTENTION_FUNCTIONS[name])
    try:
        yield
    finally:
        if before is None:
            del local[name]
        else:
            local[name] = before


# Experts fused in 3-D parameters. transformers 5.23: such modules call a function by its name in a registry.


def expert_functions() -> MutableMapping[str, Callable[..., torch.Tensor]]:
    """Return the functions that can run fused experts, by name."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    return ALL_EXPERTS_FUNCTIONS


def takes_expert_functions(module: nn.Module) -> bool:
    """Tell whether a module holds fused experts that are run by a function of that registry."""
    return all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias", "_apply_gate"))


def apply_gate(module: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Apply a fused expert's activation, gated where it has a gate."""
    return module._apply_gate(hidden) if module.has_gate else module.act_fn(hidden)


@contextmanager
def experts_run_by(configs: Iterable[PretrainedConfig], name: str) -> Iterator[None]:
    """Have the models with these configs run their experts by the function of a name; the public setter forgets what was."""
    previous = [(config, config._experts_implementation) for config in configs]
    for config, _ in previous:
        config._experts_implementation = name
    try:
        yield
    finally:
        for config, implementation in previous:
            config._experts_implementation = implementation


# Modules. torch 2.13: the public accessors copy, leave out None, and do not tell which buffers are saved.


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return a module's own parameters by name; what is set in the result is set in the module, without any check."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """Return a module's own buffers by name; what is set in the result is set in the module, without any check."""
    return module._buffers


def is_saved(module: nn.Module, buffer: str) -> bool:
    """Tell whether a module's own buffer is part of its checkpoint."""
    return buffer not in module._non_persistent_buffers_set


def tree_leaves(tree: Any) -> list[Any]:
    """List what nested tuples, lists and mappings hold. torch 2.13: the public `torch.utils.pytree` is said to be unstable."""
    from torch.utils._pytree import tree_leaves

    return tree_leaves(tree)


def tree_map_only(kind: type, change: Callable[[Any], Any], tree: Any) -> Any:
    """Change everything of a kind in nested tuples, lists and mappings; like `tree_leaves`."""
    from torch.utils._pytree import tree_map_only

    return tree_map_only(kind, change, tree)


# Offloaded weights. accelerate 1.15: public helpers put hooks on and take them off, but none brings weights in for a while.


def offload_hook(module: nn.Module) -> Any:
    """Return the hook that brings a module's offloaded weights in for its forward pass."""
    return module._hf_hook


def offloaded_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's state dict with the offloaded tensors in it."""
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    return get_state_dict_offloaded_model(model)


# huggingface_hub 2.4.


def hub_client_factory() -> Callable[[], httpx2.Client]:
    """Return what makes huggingface_hub's clients; there is a public way to set it, but none to find out what a user set."""
    from huggingface_hub.utils import _http

    return _http._GLOBAL_CLIENT_FACTORY


def replace_hub_client_factory(make_client: Callable[[], httpx2.Client]) -> None:
    """Set what makes huggingface_hub's next clients; the public way also closes the one that other threads may be using."""
    from huggingface_hub.utils import _http

    with _http._CLIENT_LOCK:
        _http._GLOBAL_CLIENT_FACTORY = make_client


def make_commit_info(*, url: str, message: str, commit: str, endpoint: str, pull_request_url: str | None = None) -> CommitInfo:
    """Make what `create_commit` returns; its endpoint, which has no public name, lets it take the address of any Hub apart."""
    from huggingface_hub import CommitInfo

    return CommitInfo(
        commit_url=url,
        commit_message=message,
        commit_description="",
        oid=commit,
        _endpoint=endpoint,
        pr_url=pull_request_url,
    )


def git_hash(content: bytes) -> str:
    """Hash a file as git does; huggingface_hub does it for itself only."""
    from huggingface_hub.utils.sha import git_hash

    return git_hash(content)


def sha256(file: BinaryIO) -> str:
    """Hash an open file piece by piece, as huggingface_hub does for itself."""
    from huggingface_hub.utils.sha import sha_fileobj

    return sha_fileobj(file).hex()
