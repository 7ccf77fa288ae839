"""Train the tiny reasoner: `python -m optimum_ssgr.reasoner.train OUT`.

A llama of 1.7 million parameters learns to write out the solutions of graded problems and, as a second skill, to continue
general text. Muon trains the matrices, AdamW everything else; the run is seeded and counted in steps, so that the same machine
makes the same weights again. Compiling needs a C++ compiler.
"""

import argparse
import json
import platform
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .tasks import Task, tasks, write_solution
from .text import documents
from .tokenizer import train_tokenizer


BATCH_TOKENS = 3072
TEXT_SHARE = 0.3
TEXT_WINDOW = 160
BATCHES_PER_ROUND = 60
IGNORED = -100

Batch = tuple[str, torch.Tensor, torch.Tensor]


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make the untrained model: 4 layers, hidden size 192, tied embeddings, context 1024."""
    config = LlamaConfig(
        vocab_size=len(tokenizer) + -len(tokenizer) % 8,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode_solutions(
    tokenizer: PreTrainedTokenizerFast, chosen: list[Task], rng: random.Random
) -> list[tuple[list[int], list[int]]]:
    """Turn tasks into token ids and labels; the questions and the slips carry no label."""
    prompts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": task.problem.question}] for task in chosen],
        add_generation_prompt=True,
        return_dict=False,
    )
    solutions = [[*write_solution(task, rng), (tokenizer.eos_token, True)] for task in chosen]
    encoded = iter(tokenizer([text for pieces in solutions for text, _ in pieces]).input_ids)
    examples = []
    for prompt, pieces in zip(prompts, solutions, strict=True):
        ids, labels = list(prompt), [IGNORED] * len(prompt)
        for _, learnt in pieces:
            piece = next(encoded)
            ids += piece
            labels += piece if learnt else [IGNORED] * len(piece)
        examples.append((ids, labels))
    return examples


def _solution_batches(
    tokenizer: PreTrainedTokenizerFast, stream: Iterator[Task], rng: random.Random, budget: int
) -> list[Batch]:
    """Batches of solutions of similar length, right-padded, of about `budget` tokens together."""
    examples, total = [], 0
    while total < budget:
        fresh = encode_solutions(tokenizer, list(islice(stream, 128)), rng)
        examples += fresh
        total += sum(len(ids) for ids, _ in fresh)
    examples.sort(key=lambda example: len(example[0]) + 8 * rng.random())
    batches: list[Batch] = []
    while examples:
        count = max(1, BATCH_TOKENS // (len(examples[-1][0]) + 8))
        chosen, examples = examples[-count:], examples[:-count]
        width = max(len(ids) for ids, _ in chosen)
        inputs = torch.full((len(chosen), width), tokenizer.pad_token_id)
        labels = torch.full((len(chosen), width), IGNORED)
        for row, (ids, targets) in enumerate(chosen):
            inputs[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(ids)] = torch.tensor(targets)
        batches.append(("reasoning", inputs, labels))
    return batches


def text_windows(tokenizer: PreTrainedTokenizerFast, split: str) -> torch.Tensor:
    """General text as rows of `TEXT_WINDOW` token ids, each opened by the beginning-of-text token."""
    ids = tokenizer("\n".join(documents(split))).input_ids
    rows = torch.tensor(ids[: len(ids) // (TEXT_WINDOW - 1) * (TEXT_WINDOW - 1)]).view(-1, TEXT_WINDOW - 1)
    return torch.cat([torch.full((len(rows), 1), tokenizer.bos_token_id), rows], dim=1)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> Iterator[Batch]:
    """Yield training batches; the hardest problems join while the first quarter of the run goes by."""
    rng = random.Random(seed)
    text = text_windows(tokenizer, "train")
    made = 0
    while made < steps:
        hardest = min(10, 3 + int(28 * made / steps))
        stream = tasks("train", rng.randrange(2**31), hardest=hardest)
        budget = int(BATCHES_PER_ROUND * BATCH_TOKENS * (1 - TEXT_SHARE))
        mixed = _solution_batches(tokenizer, stream, rng, budget)
        for _ in range(int(BATCHES_PER_ROUND * TEXT_SHARE)):
            rows = text[rng.sample(range(len(text)), BATCH_TOKENS // TEXT_WINDOW)]
            mixed.append(("text", rows, rows))
        rng.shuffle(mixed)
        made += len(mixed)
        yield from mixed


def train(output: Path, steps: int, seed: int) -> None:
    """Train the model and write weights, tokenizer and `training.json`.

    Args:
        output: Folder to write.
        steps: Optimizer steps of about `BATCH_TOKENS` tokens each.
        seed: Seed of the initial weights and of the data.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed)
    model = build_model(tokenizer).train()
    # Measured on two cores: plain attention trains 1.5 times as fast as the fused kernel at these lengths, compiling 1.6 times.
    model.set_attn_implementation("eager")
    compiled = torch.compile(model, dynamic=True)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "layers" not in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.01, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]

    def learning_rate(step: int) -> float:
        return min(1, (step + 1) / 50) * min(1, max(0.01, (1 - step / steps) / 0.5))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate) for optimizer in optimizers]
    started, seen, losses = time.time(), 0, {}
    progress = tqdm(islice(batches(tokenizer, seed, steps), steps), total=steps, desc="train", mininterval=10)
    for kind, inputs, labels in progress:
        with torch.autocast("cpu", torch.bfloat16):
            loss = compiled(inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        seen += inputs.numel()
        losses[kind] = 0.98 * losses.get(kind, loss.item()) + 0.02 * loss.item()
        progress.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)

    output.mkdir(parents=True, exist_ok=True)
    model.set_attn_implementation("sdpa")
    model.eval().save_pretrained(output)
    tokenizer.save_pretrained(output)
    record = {
        "command": f"python -m optimum_ssgr.reasoner.train {output.name} --steps {steps} --seed {seed}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": seen,
        "seconds": round(time.time() - started),
        "threads": torch.get_num_threads(),
        "final_loss": {name: round(value, 4) for name, value in losses.items()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (output / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the tiny reasoner.")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--steps", type=int, default=4000, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data (default: %(default)s)")
    arguments = parser.parse_args()
    train(arguments.output, arguments.steps, arguments.seed)
