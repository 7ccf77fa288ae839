"""Compare the in-process engine with `model.generate` in static batches and with transformers' continuous batching.

    python benchmarks/generation.py --threads 1
    python benchmarks/generation.py --threads 2

Two sets of requests, 4 samples of every prompt:

- `reasoner`: the embedded reasoner on its training problems, difficulty 1 to 10; responses end where the model ends them.
- `long tail`: a Llama with random weights (hidden size 256, 4 layers) and log-normal lengths (median 90, sigma 0.9, between 10
  and 1000). The model never draws the token that ends a response. Rows end at the drawn lengths by a stopping criterion in
  `generate`, by the request's own `max_new_tokens` in continuous batching, and in the engine by a uniform number of 1, which
  draws the vocabulary's last token.

Every repeat runs all contenders once, in an order of its own; ratios are within a repeat.
"""

import argparse
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel, StoppingCriteria
from transformers.generation import ContinuousBatchingConfig
from transformers.utils import logging

from optimum_ssgr.checkpoints.load import load_model
from optimum_ssgr.config import SamplingConfig
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner import NAME
from optimum_ssgr.rollouts import local
from optimum_ssgr.rollouts.cache import PreallocatedKVLayer
from optimum_ssgr.rollouts.engine import Request, request_seed
from optimum_ssgr.rollouts.prompts import encode_prompts


SAMPLES = 4
Lengths = dict[tuple[str, int], int]
# Tokens in the responses, and the row-steps spent on them: a row of a static batch runs until the batch's last row ends.
Outcome = tuple[int, int]


class DrawnLengths(StoppingCriteria):
    """Ends every row at a length of its own."""

    def __init__(self, prompt: int, lengths: list[int]) -> None:
        self.ends = prompt + torch.tensor(lengths)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        """Return which rows end, bool [rows]."""
        return self.ends <= input_ids.shape[1]


class DrawnLengthsEngine(local.LocalEngine):
    """Ends every row at a length of its own: a uniform number of 1 draws the vocabulary's last token."""

    lengths: Lengths

    def _uniforms(self, request: Request) -> np.ndarray:
        uniforms = super()._uniforms(request)
        uniforms[self.lengths[request.problem_id, request.sample] - 1] = 1.0
        return uniforms


def run_engine(
    model: PreTrainedModel, requests: list[Request], lengths: Lengths | None, sampling: SamplingConfig, batch_size: int
) -> Outcome:
    """Sample with the engine of this package."""
    engine = (DrawnLengthsEngine if lengths else local.LocalEngine)(model, sampling, batch_size)
    engine.lengths = lengths
    tokens = sum(len(rollout.response_ids) for rollout in engine.generate(requests))
    return tokens, tokens


def run_generate(
    model: PreTrainedModel,
    requests: list[Request],
    lengths: Lengths | None,
    sampling: SamplingConfig,
    batch_size: int,
    by_length: bool,
) -> Outcome:
    """Sample with `model.generate`, `batch_size` requests after the other."""
    if by_length:
        requests = sorted(requests, key=lambda request: len(request.prompt_ids))
    tokens = spent = 0
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        width = max(len(request.prompt_ids) for request in batch)
        ids = torch.tensor([[0] * (width - len(request.prompt_ids)) + list(request.prompt_ids) for request in batch])
        mask = torch.tensor([[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in batch])
        ends = [lengths[request.problem_id, request.sample] for request in batch] if lengths else None
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=0,
            stopping_criteria=[DrawnLengths(width, ends)] if lengths else None,
        )[:, width:]
        spent += output.numel()
        if lengths:
            tokens += sum(ends)
        else:
            ended = output == model.generation_config.eos_token_id
            tokens += int((ended.cumsum(dim=1) - ended.long() == 0).sum())
    return tokens, spent


def run_continuous(
    model: PreTrainedModel, requests: list[Request], lengths: Lengths | None, sampling: SamplingConfig, batch_size: int
) -> Outcome:
    """Sample with transformers' continuous batching, in pages for `batch_size` of the longest requests."""
    generation = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=0,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=0,
    )
    longest = max(len(request.prompt_ids) for request in requests) + sampling.max_new_tokens
    page = 32
    settings = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=batch_size * longest // page,
        max_batch_tokens=1024,
        max_requests_per_batch=batch_size,
    )
    with model.continuous_batching_context_manager(generation, continuous_batching_config=settings) as manager:
        for request in requests:
            end = lengths[request.problem_id, request.sample] if lengths else sampling.max_new_tokens
            manager.add_request(list(request.prompt_ids), max_new_tokens=end, eos_token_id=generation.eos_token_id)
        tokens = finished = 0
        while finished < len(requests):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("continuous batching ended early")
            if result is not None and result.is_finished():
                if result.error:
                    raise RuntimeError(result.error)
                tokens += len(result.generated_tokens)
                finished += 1
    return tokens, tokens


def reasoner(problems: int) -> tuple[PreTrainedModel, list[Request], None, SamplingConfig]:
    """Load the embedded reasoner and ask it its own problems."""
    model, tokenizer = load_model(NAME)
    prompts = encode_prompts(tokenizer, load_problems(NAME, split="train", limit=problems))
    requests = [Request(name, s, prompt, request_seed(0, name, s)) for name, prompt in prompts.items() for s in range(SAMPLES)]
    return model, requests, None, SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=400)


def long_tail(problems: int) -> tuple[PreTrainedModel, list[Request], Lengths, SamplingConfig]:
    """Make a random model, random prompts and random lengths."""
    torch.manual_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "vocab_size": 2048}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048}
    model = LlamaForCausalLM(LlamaConfig(**size, **heads, eos_token_id=2047)).eval()
    model.lm_head.bias = nn.Parameter(torch.zeros(2048).index_fill(0, torch.tensor([2047]), -1e9))
    draws = np.random.default_rng(0)
    requests, lengths = [], {}
    for number in range(problems):
        prompt = tuple(draws.integers(8, 2000, size=draws.integers(20, 120)).tolist())
        for sample in range(SAMPLES):
            requests.append(Request(str(number), sample, prompt, request_seed(0, str(number), sample)))
            lengths[str(number), sample] = int(np.clip(draws.lognormal(np.log(90), 0.9), 10, 1000))
    return model, requests, lengths, SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=1000)


CASES = {"reasoner": reasoner, "long tail": long_tail}
CONTENDERS: dict[str, Callable[..., Outcome]] = {
    "LocalEngine": run_engine,
    "generate": partial(run_generate, by_length=False),
    "generate, sorted by prompt": partial(run_generate, by_length=True),
    "continuous batching": run_continuous,
}


@contextmanager
def clocked(owner: object, name: str, seconds: Counter, part: str) -> Iterator[None]:
    """Add the seconds spent in a function to a part, while in the context."""
    function = getattr(owner, name)

    def timed(*args: object, **kwargs: object) -> object:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - start

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, function)


def print_parts(*work: object) -> None:
    """Print where the engine's time goes."""
    seconds: Counter = Counter()
    parts = [(local.LocalEngine, "_forward", "model"), (local, "sample_tokens", "sampling"), (local._Batch, "compact", "rows")]
    parts += [(PreallocatedKVLayer, "update", "cache"), (local.LocalEngine, "_join", "prefill")]
    stack = [clocked(owner, name, seconds, part) for owner, name, part in parts]
    for context in stack:
        context.__enter__()
    start = time.perf_counter()
    run_engine(*work)
    total = time.perf_counter() - start
    for context in stack:
        context.__exit__(None, None, None)
    print(f"LocalEngine's time, of {total:.1f} s:", ", ".join(f"{part} {100 * s / total:.0f} %" for part, s in seconds.items()))


def spread(values: list[float]) -> str:
    """Write a median and the range."""
    return f"{statistics.median(values):,.2f} ({min(values):,.2f}-{max(values):,.2f})"


def main() -> None:
    """Print one Markdown table per set of requests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    order = random.Random(0)
    for case in args.cases:
        model, requests, lengths, sampling = CASES[case](args.problems)
        wall, cpu, speed = ({name: [] for name in args.contenders} for _ in range(3))
        useful = {}
        for _ in range(args.repeats):
            for name in order.sample(args.contenders, len(args.contenders)):
                torch.manual_seed(0)
                start, start_cpu = time.perf_counter(), time.process_time()
                tokens, spent = CONTENDERS[name](model, requests, lengths, sampling, args.batch_size)
                cpu[name].append((time.process_time() - start_cpu) / tokens)
                wall[name].append((time.perf_counter() - start) / tokens)
                speed[name].append(tokens / (time.perf_counter() - start))
                useful[name] = tokens / spent
        print(f"\n{case}: {len(requests)} requests, threads: {args.threads}, n = {args.repeats}\n")
        print("| contender | tokens/s | useful row-steps | time / LocalEngine's | least time | CPU time |")
        print("|---|---|---|---|---|---|")
        ours = args.contenders[0]
        for name in args.contenders:
            ratio = spread([theirs / mine for theirs, mine in zip(wall[name], wall[ours], strict=True)])
            least, cpus = min(wall[name]) / min(wall[ours]), min(cpu[name]) / min(cpu[ours])
            middle, low, high = (round(f(speed[name])) for f in (statistics.median, min, max))
            speeds = f"{middle:,} ({low:,}-{high:,})"
            print(f"| {name} | {speeds} | {useful[name]:.0%} | {ratio} | {least:.2f} | {cpus:.2f} |", flush=True)
        print()
        print_parts(model, requests, lengths, sampling, args.batch_size)


if __name__ == "__main__":
    main()
