"""The callback keeps a pruned model's zeros while transformers' Trainer trains it, alone and with other processes."""

import os
import socket

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainingArguments

from optimum_ssgr import PruningConfig, SparsityCallback
from optimum_ssgr.errors import ConfigError, ModelError
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.recovery.masks import find_zeros, keep_zeros

from ..models import random_model
from ..processes import started


def pruned(name="llama", pattern="2:4"):
    model = random_model(name)
    prune_layerwise(model, [], PruningConfig(method="magnitude", pattern=pattern))
    return model


def examples(count=16):
    ids = torch.randint(3, 700, (count, 12), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in ids]


def train(model, folder, callbacks, **options):
    arguments = TrainingArguments(
        str(folder), max_steps=4, learning_rate=0.01, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
        per_device_train_batch_size=2, dataloader_pin_memory=False, weight_decay=0.1, **options,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=examples(), callbacks=callbacks).train()


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3 moe"])
def test_every_forward_pass_sees_the_zeros_and_all_else_is_trained(tmp_path, name):
    model, before = pruned(name), pruned(name).state_dict()
    zeros = find_zeros(model)
    assert all(2 * mask.sum() == mask.numel() for mask in zeros.values())
    passes = []

    def look(module, *_):
        assert all(not module.get_parameter(name)[mask].any() for name, mask in zeros.items())
        passes.append(1)

    model.register_forward_pre_hook(look)
    train(model, tmp_path, [SparsityCallback()], gradient_accumulation_steps=2)
    assert len(passes) == 4 * 2
    look(model)
    for name, parameter in model.named_parameters():
        kept = ~zeros.get(name, torch.zeros_like(parameter, dtype=torch.bool))
        assert not torch.equal(parameter[kept], before[name][kept])


def test_without_the_callback_the_zeros_are_lost(tmp_path):
    model = pruned()
    zeros = find_zeros(model)
    train(model, tmp_path, [])
    assert all(model.get_parameter(name)[mask].count_nonzero() > 0.9 * mask.sum() for name, mask in zeros.items())


def test_training_is_that_of_the_projected_optimizer(tmp_path):
    """Against the definition: AdamW's step with all gradients, then zeros where zeros were."""
    ours, theirs, batches = pruned(), pruned(), []
    hook = ours.register_forward_pre_hook(lambda _, args, given: batches.append(given["input_ids"]), with_kwargs=True)
    train(ours, tmp_path, [SparsityCallback()], lr_scheduler_type="constant", max_grad_norm=0.0)
    hook.remove()
    by_decay = {decay: [p for p in theirs.parameters() if (p.ndim > 1) == bool(decay)] for decay in (0.1, 0.0)}
    optimizer = torch.optim.AdamW([{"params": some, "weight_decay": decay} for decay, some in by_decay.items()], lr=0.01)
    zeros = find_zeros(theirs)
    for batch in batches:
        theirs(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for name, mask in zeros.items():
                theirs.get_parameter(name)[mask] = 0
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_what_cannot_keep_zeros_is_refused():
    with pytest.raises(ModelError, match="no zeros to keep"):
        find_zeros(random_model("llama"))
    adapted = pruned()
    adapted.peft_config = {}
    with pytest.raises(ConfigError, match="would fill the zeros when it is merged"):
        find_zeros(adapted)
    flat = pruned()
    flat.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(9))
    with pytest.raises(ConfigError, match="use DDP or FSDP 2"):
        keep_zeros(flat, {"model.layers.0.mlp.up_proj.weight": torch.ones(9, dtype=torch.bool)})


def train_with_others(rank, port, folder):
    """Train in one of two processes, by DDP and then with parameters that FSDP 2 has sharded."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    model = pruned()
    zeros = find_zeros(model)
    train(model, folder, [SparsityCallback()], gradient_accumulation_steps=2, ddp_backend="gloo")
    assert torch.distributed.get_world_size() == 2
    assert all(not model.get_parameter(name)[mask].any() for name, mask in zeros.items())
    torch.save(model.state_dict(), folder / f"ddp-{rank}.pt")

    sharded = pruned()
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    for block in sharded.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    callback = SparsityCallback()
    callback.on_train_begin(None, None, None, model=sharded)
    optimizer = torch.optim.AdamW(sharded.parameters(), lr=0.01)
    for example in examples(3):
        row = example["input_ids"][None]
        sharded(input_ids=row, labels=row).loss.backward()
        optimizer.step()
        callback.on_optimizer_step(None, None, None, model=sharded)
        optimizer.zero_grad()
    for name, mask in zeros.items():
        parameter = sharded.get_parameter(name)
        assert isinstance(parameter, DTensor) and parameter.to_local().shape != mask.shape
        whole = parameter.full_tensor()
        assert not whole[mask].any() and whole[~mask].all()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_several_processes_keep_the_zeros(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rest = (port, tmp_path)
    with (
        started(train_with_others, 0, *rest, cwd=tmp_path) as first,
        started(train_with_others, 1, *rest, cwd=tmp_path) as second,
    ):
        codes = [first.wait(), second.wait()]
        assert codes == [0, 0], first.err.read_text() + second.err.read_text()
    states = [torch.load(tmp_path / f"ddp-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
