"""The model and the tokens that every contender gets, and the words in which driver and worker speak of a run."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM


HELD_OUT_SEQUENCES = 4
TOKENS = "tokens.safetensors"


@dataclass(frozen=True)
class Setting:
    """Sizes of the model and of the calibration set.

    Args:
        hidden: Hidden size, a multiple of 64 (the heads are 64 wide, four of them share a key and a value).
        intermediate: Width of the feed-forward layers.
        blocks: Decoder blocks.
        vocabulary: Tokens of the vocabulary.
        sequences: Calibration sequences.
        length: Tokens of each sequence.
        dtype: Data type of the weights and activations, `float32` or `bfloat16`.
    """

    hidden: int = 512
    intermediate: int = 1408
    blocks: int = 3
    vocabulary: int = 2000
    sequences: int = 24
    length: int = 512
    dtype: str = "float32"


@dataclass(frozen=True)
class Task:
    """One run of one contender, as the driver hands it to a worker.

    Args:
        contender: `sparsegpt`, `wanda` (the originals), `llm-compressor` or `ours`.
        method: `sparsegpt` or `wanda`.
        pattern: `2:4` for two zeros in every four weights, or `50%` for half of the weights anywhere.
        folder: Where `prepare` wrote the model and the tokens.
        result: File to which the worker writes what it measured, as JSON.
        threads: Threads of PyTorch.
        repo: Clone of the original's repository; empty for the others.
        variant: `two passes`, `one pass` or `streamed`; empty for the others.
        batch: Sequences of a batch of llm-compressor.
    """

    contender: str
    method: str
    pattern: str
    folder: str
    result: str
    threads: int
    repo: str = ""
    variant: str = ""
    batch: int = 1


def build_model(setting: Setting) -> Qwen2ForCausalLM:
    """Build a Qwen2 with random weights but anisotropic activations, whose Hessians are far from the identity.

    With the usual initialization they would be nearly multiples of it, and there would be little for the methods to do. Here
    the embeddings' spectrum spans a factor of e^5 and the norms' scales are log-normal.
    """
    torch.manual_seed(0)
    heads = setting.hidden // 64
    config = Qwen2Config(
        hidden_size=setting.hidden,
        intermediate_size=setting.intermediate,
        num_hidden_layers=setting.blocks,
        vocab_size=setting.vocabulary,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        max_position_embeddings=max(4096, setting.length),
        tie_word_embeddings=False,
        use_cache=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for block in model.model.layers:
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight.copy_(torch.exp(0.7 * torch.randn(setting.hidden)))
            for module in block.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.normal_(std=1 / math.sqrt(module.in_features))
        spectrum = torch.exp(torch.linspace(1, -4, setting.hidden))
        mixing = spectrum[:, None] * torch.randn(setting.hidden, setting.hidden) / 5
        model.model.embed_tokens.weight.copy_(torch.randn(setting.vocabulary, setting.hidden) @ mixing)
    return model.to(getattr(torch, setting.dtype))


@torch.no_grad()
def logits(model: Qwen2ForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """Return the logits of sequences that are run one by one."""
    return torch.cat([model(sequence[None], use_cache=False).logits.float() for sequence in tokens])


def prepare(folder: Path, setting: Setting) -> None:
    """Write the model, the calibration tokens, held-out tokens and the dense model's logits for them to a folder."""
    model = build_model(setting)
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    count = setting.sequences + HELD_OUT_SEQUENCES
    tokens = torch.randint(setting.vocabulary, (count, setting.length), generator=generator)
    calibration, held_out = tokens[: setting.sequences].clone(), tokens[setting.sequences :].clone()
    tensors = {"calibration": calibration, "held_out": held_out, "logits": logits(model, held_out)}
    for name, tensor in tensors.items():
        save_file({name: tensor}, folder / f"{name}.{TOKENS}")


def read(folder: str, name: str) -> torch.Tensor:
    """Read `calibration`, `held_out` or the dense model's `logits` that `prepare` wrote."""
    return load_file(Path(folder) / f"{name}.{TOKENS}")[name]


def relative_error(model: Qwen2ForCausalLM, folder: str) -> float:
    """Squared difference to the dense model's logits on the held-out tokens, relative to their variance."""
    dense = read(folder, "logits")
    difference = logits(model, read(folder, "held_out")) - dense
    return (difference.square().sum() / (dense - dense.mean()).square().sum()).item()


def realised_sparsity(model: Qwen2ForCausalLM) -> float:
    """Share of zeros among the weights of the decoder blocks' linear layers."""
    weights = [module.weight for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
