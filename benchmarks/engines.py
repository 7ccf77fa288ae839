"""Compare what generates: `model.generate`, the engine in this process, `transformers serve`, and vLLM as a command starts it.

    python benchmarks/engines.py
    python benchmarks/engines.py --vllm .venv-vllm/bin/vllm --model FOLDER --dtype bfloat16 --vllm-args=--enforce-eager

All answer the same requests, 4 samples of every problem; `vLLM alone` is `LLM.generate` in vLLM's own process, to which all
requests are known at once and nothing travels by HTTP: what the managed engine can reach at most. Servers are started before
the clock and asked a few requests to warm up. Every repeat runs all contenders once, in an order of its own; ratios are within
a repeat. A quiet machine is up to whoever runs it.
"""

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from optimum_ssgr.checkpoints.load import load_model, source_of
from optimum_ssgr.config import EngineConfig, SamplingConfig
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner import NAME
from optimum_ssgr.rollouts.choose import open_engine
from optimum_ssgr.rollouts.engine import Request, request_seed
from optimum_ssgr.rollouts.process import ServerProcess
from optimum_ssgr.rollouts.prompts import encode_prompts


SAMPLES = 4
WARM_UP = 4
ALONE_NAME = "vLLM alone"
ALONE = """
import json, sys
from vllm import LLM, SamplingParams, TokensPrompt
model, length, dtype, options = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
# Prompts are read in one step, as by the managed one, since it dies of seeds otherwise.
llm = LLM(model, max_model_len=length, dtype=dtype, disable_log_stats=True, enable_chunked_prefill=False, **options)
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    outputs = llm.generate(
        [TokensPrompt(prompt_token_ids=ids) for ids in asked["prompts"]],
        [SamplingParams(seed=seed, **asked["sampling"]) for seed in asked["seeds"]],
        use_tqdm=False,
    )
    print("tokens", sum(len(output.outputs[0].token_ids) for output in outputs), flush=True)
"""

Contender = Callable[[list[Request]], int]
"""Answers requests, and says how many tokens it wrote."""


@dataclass(frozen=True)
class Setting:
    """What all contenders are given.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        source: Its Hub id or folder.
        sampling: How to sample.
        batch_size: Most responses in the making at a time; servers begin with it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    sampling: SamplingConfig
    batch_size: int


def generate(setting: Setting, requests: list[Request]) -> int:
    """Answer with `model.generate`, a static batch after the other, sorted by the length of their prompts."""
    model, sampling, tokens = setting.model, setting.sampling, 0
    requests = sorted(requests, key=lambda request: len(request.prompt_ids))
    ends = torch.tensor(model.generation_config.eos_token_id).reshape(-1)
    pad = setting.tokenizer.pad_token_id
    for start in range(0, len(requests), setting.batch_size):
        batch = [list(request.prompt_ids) for request in requests[start : start + setting.batch_size]]
        width = max(map(len, batch))
        output = model.generate(
            torch.tensor([[pad] * (width - len(ids)) + ids for ids in batch]),
            attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in batch]),
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=pad,
        )[:, width:]
        ended = torch.isin(output, ends)
        tokens += int((ended.cumsum(dim=1) - ended.long() == 0).sum())
    return tokens


def ask(engine: object, requests: list[Request]) -> int:
    """Answer with an engine of this package."""
    return sum(len(rollout.response_ids) for rollout in engine.generate(requests))


def open_own(stack: ExitStack, setting: Setting, engine: EngineConfig) -> Contender:
    """Open an engine of this package."""
    given = (setting.model, setting.tokenizer, setting.sampling, setting.batch_size)
    return partial(ask, stack.enter_context(open_engine(engine, *given)))


def open_transformers_serve(stack: ExitStack, setting: Setting) -> Contender:
    """Start `transformers serve` with continuous batching, and open the engine that asks it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", setting.source, "--continuous-batching"]
    dtype = str(setting.model.dtype).removeprefix("torch.")
    flags = ["--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--device", setting.model.device.type]
    process = ServerProcess("transformers", [*command, *flags, "--dtype", dtype])
    stack.callback(process.stop)

    def is_ready() -> bool:
        try:
            return httpx2.get(f"{address}/health").status_code == 200
        except httpx2.HTTPError:
            return False

    process.wait_until(is_ready)
    return open_own(stack, setting, EngineConfig(f"{address}/v1"))


def open_vllm_alone(stack: ExitStack, setting: Setting, python: Path, options: dict[str, object], length: int) -> Contender:
    """Start a process that answers with `LLM.generate`."""
    dtype = str(setting.model.dtype).removeprefix("torch.")
    command = [str(python), "-c", ALONE, setting.source, str(length), dtype, json.dumps(options)]
    process = stack.enter_context(subprocess.Popen(command, stdin=-1, stdout=-1, text=True))
    stack.callback(process.stdin.close)
    sampling = setting.sampling

    def read(word: str) -> list[str]:
        for line in process.stdout:
            if line.startswith(word):
                return line.split()
        raise RuntimeError("vLLM ended")

    read("ready")

    def answer(requests: list[Request]) -> int:
        settings = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
        prompts, seeds = [list(r.prompt_ids) for r in requests], [r.seed & 0x7FFFFFFF for r in requests]
        process.stdin.write(json.dumps({"prompts": prompts, "seeds": seeds, "sampling": settings}) + "\n")
        process.stdin.flush()
        return int(read("tokens")[1])

    return answer


def spread(values: list[float]) -> str:
    """Write a median and the range."""
    return f"{statistics.median(values):,.2f} ({min(values):,.2f}-{max(values):,.2f})"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=NAME, help="Hub id or folder")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--problems-from", default=NAME, metavar="DATASET", help="as --problems of the commands")
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vllm", type=Path, help="executable of vLLM; left out without")
    parser.add_argument("--vllm-args", default="", help="more flags for it")
    parser.add_argument("--alone", default="{}", metavar="JSON", help='the same for vLLM alone, as {"enforce_eager": true}')
    parser.add_argument("--without-serve", action="store_true", help="leave transformers serve out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    model, tokenizer = load_model(source_of(args.model), dtype=args.dtype)  # the name that `transformers serve` goes by
    sampling = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=args.max_new_tokens)
    setting = Setting(model, tokenizer, source_of(args.model), sampling, args.batch_size)
    prompts = encode_prompts(tokenizer, load_problems(args.problems_from, limit=args.problems))
    requests = [Request(name, n, ids, request_seed(0, name, n)) for name, ids in prompts.items() for n in range(SAMPLES)]
    length = max(len(request.prompt_ids) for request in requests) + args.max_new_tokens
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {
            "generate": partial(generate, setting),
            "in this process": open_own(stack, setting, EngineConfig()),
        }
        if not args.without_serve:
            contenders["transformers serve"] = open_transformers_serve(stack, setting)
        if args.vllm:
            engine = EngineConfig("vllm", str(args.vllm), args.vllm_args)
            contenders["vLLM, managed"] = open_own(stack, setting, engine)
            python = args.vllm.with_name("python")
            contenders[ALONE_NAME] = open_vllm_alone(stack, setting, python, json.loads(args.alone), length)
        for contender in contenders.values():
            contender(requests[:WARM_UP])
        order, speeds = random.Random(0), {name: [] for name in contenders}
        for _ in range(args.repeats):
            for name in order.sample(list(contenders), len(contenders)):
                torch.manual_seed(0)
                start = time.perf_counter()
                speeds[name].append(contenders[name](requests) / (time.perf_counter() - start))
    print(f"\n{args.model}, {model.dtype}, {len(requests)} requests, threads: {args.threads}, n = {args.repeats}\n")
    yardsticks = [name for name in ("generate", ALONE_NAME) if name in speeds]
    print("| contender | tokens/s |", *(f"times {name} |" for name in yardsticks))
    print("|---|---|", "---|" * len(yardsticks), sep="")
    for name, found in speeds.items():
        ratios = [spread([mine / its for mine, its in zip(found, speeds[other], strict=True)]) for other in yardsticks]
        print("|", " | ".join([name, spread(found), *ratios]), "|")


if __name__ == "__main__":
    main()
