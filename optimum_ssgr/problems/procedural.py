"""Problems of the package reasoning-gym: over 100 procedural generators, seeded and endless, each with a scorer of its own.

Some generators go through sets, whose order differs from process to process: the same seed would give other problems. So the
package is imported only in processes that hash as every other, for generating in one that ends with it, and for scoring in the
workers of `verification/workers.py`.
"""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ..errors import DataError
from ..extras import require_extra
from ..records import Problem
from .sources import REASONING_GYM


SPLITS = ("train", "dev", "test")
SEEDS_OF_SPLIT, SEEDS_OF_SEED = 10**9, 10**6
"""Every split has 10^9 of the package's seeds for itself, and every seed of ours, modulo 1000, has 10^6 of those."""
CHUNK = 100  # problems of one seed of the package; few, since some generators make all of them beforehand
MOST_MISSES = 1000  # problems in a row that are not new, or another split's, after which a generator is exhausted
RIGHT = 1.0  # score of a right answer, exactly: what is partly right may sum up to anything close to it

_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from optimum_ssgr.problems.procedural import _serve; _serve()"
)
_KIND = re.compile(rf"{REASONING_GYM}:(.+)@(\d+)#(\d+)", re.DOTALL)
_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)")
_AS_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mbox)\s*\{([^{}]*)\}")
_ESCAPED = re.compile(r"\\([#$%&_{}])")
_NAMED = ("Symbol", "Integer", "Float", "Rational")  # what sympy's parser makes of names and numbers
_FUNCTIONS = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "factorial")


class _Generator(NamedTuple):
    """A generator by its name, with its options; as text as it is written in the name of a problem set."""

    name: str
    options: dict[str, Any]
    text: str


def generate_problems(names: str, split: str, seed: int, limit: int) -> list[Problem]:
    """Make problems, evenly of several generators.

    A question belongs to one split, which its hash decides, so that no two splits share one. Answers that are whole numbers
    are compared as mathematics, all others by the generator's own scorer.

    Args:
        names: Generators, separated by commas, perhaps with options: `gcd,chain_sum(min_terms=2,max_terms=4)`.
        split: One of `SPLITS`.
        seed: Seed of the problems.
        limit: How many in all; fewer are returned only when the generators have no more.

    Returns:
        Problems with the name of their generator as their kind.

    Raises:
        ConfigError: The package is missing.
        DataError: There is no such generator, option or split.
    """
    require_extra("reasoning_gym", "problems", f"problems of {REASONING_GYM}")
    if split not in SPLITS:
        raise DataError(f"{REASONING_GYM} has the splits {', '.join(SPLITS)}, not '{split}'.")
    read_generators(names)  # before a process is started
    asked = json.dumps({"names": names, "split": split, "seed": seed, "limit": limit})
    with subprocess.Popen(
        [sys.executable, "-c", _COMMAND, json.dumps(sys.path), asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        text=True,
        encoding="utf-8",
    ) as process:
        found = [json.loads(line) for line in tqdm(process.stdout, "generate", unit="problem", delay=5)]
    *problems, last = found or [{}]
    if "done" not in last:
        raise DataError(f"{REASONING_GYM} cannot make problems of {names}: {last.get('error', 'its process was ended')}.")
    return [Problem(**values) for values in problems]


def read_generators(names: str) -> list[_Generator]:
    """Read names of generators with their options.

    Raises:
        DataError: They are not written as `name` or `name(option=value)`, or there are none.
    """
    try:
        calls = ast.parse(f"[{names}]", mode="eval").body.elts
        read = [_read_generator(call) for call in calls]
    except (SyntaxError, ValueError, AttributeError):
        read = []
    if not read:
        raise DataError(
            f"name generators of {REASONING_GYM} as in {REASONING_GYM}:gcd,leg_counting or, with options, as in "
            f"'{REASONING_GYM}:chain_sum(min_terms=2,max_terms=4)', not '{names}'."
        )
    return read


def is_right(answer: str, expected: str, kind: str) -> bool | None:
    """Ask a generator's scorer about an answer; only in a process that hashes as that which made the problem.

    Args:
        answer: What the model answered, also with text set as text in LaTeX.
        expected: `Problem.answer`.
        kind: `Problem.answer_kind`, which says how to make the problem again.

    Returns:
        None where the installed version of the package makes another problem of it.
    """
    text, seed, index = _KIND.fullmatch(kind).groups()
    try:
        generator = _open(text, int(seed))
        entry = generator[int(index)]
    except Exception:  # of another version
        return None
    if (entry["answer"] or "") != expected:
        return None
    plain = _ESCAPED.sub(r"\1", _AS_TEXT.sub(r"\1", answer))
    with _checked_eval(sys.modules[type(generator).__module__]):
        return any(_score(generator, reading, entry) == RIGHT for reading in dict.fromkeys((answer, plain)))


def _score(generator: Any, answer: str, entry: dict[str, Any]) -> float:
    try:
        return float(generator.score_answer(answer, entry) or 0)
    except Exception:  # scorers raise many kinds on text that they cannot read
        return 0.0


def _read_generator(call: ast.expr) -> _Generator:
    if isinstance(call, ast.Name):
        return _Generator(call.id, {}, call.id)
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    if call.args or {None, "seed", "size"} & set(options):
        raise ValueError
    return _Generator(call.func.id, options, ast.unparse(call))


@lru_cache(maxsize=64)
def _open(text: str, seed: int) -> Any:
    """Return a generator's problems of one seed, by their index.

    Raises:
        DataError: There is no such generator or option.
    """
    from reasoning_gym.factory import DATASETS, create_dataset

    (generator,) = read_generators(text)
    if generator.name not in DATASETS:
        close = get_close_matches(generator.name, DATASETS, n=3)
        raise DataError(f"there is no generator {generator.name}{'; is it ' if close else ''}{' or '.join(close)}")
    try:
        return create_dataset(generator.name, seed=seed, size=CHUNK, **generator.options)
    except Exception as error:  # generators check their options in many ways
        raise DataError(f"{text} is refused ({error})") from error


def _serve() -> None:
    """Write problems as lines of JSON, and at last what went wrong, if anything; this is what the process runs."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    sys.stdout = sys.stderr  # nothing that the package prints may pass for a problem
    asked = json.loads(sys.argv[2])
    outcome: dict[str, str] = {"done": ""}
    try:
        for problem in islice(_draw(read_generators(asked["names"]), asked["split"], asked["seed"]), asked["limit"]):
            print(json.dumps(asdict(problem)), file=output)
    except Exception as error:  # the generators raise many kinds
        outcome = {"error": str(error) or type(error).__name__}
    print(json.dumps(outcome), file=output)


def _draw(generators: list[_Generator], split: str, seed: int) -> Iterator[Problem]:
    """Yield problems of the generators in turn, until none has more."""
    seen: set[str] = set()
    streams = [_draw_from(generator, split, seed, seen) for generator in generators]
    while streams:
        for stream in list(streams):
            problem = next(stream, None)
            if problem is None:
                streams.remove(stream)
            else:
                yield problem


def _draw_from(generator: _Generator, split: str, seed: int, seen: set[str]) -> Iterator[Problem]:
    first = SPLITS.index(split) * SEEDS_OF_SPLIT + seed % 1000 * SEEDS_OF_SEED
    misses = 0
    for start in range(first, first + SEEDS_OF_SEED, CHUNK):
        made = _open(generator.text, start)
        for index in range(len(made)):
            entry = made[index]
            digest = hashlib.sha256(entry["question"].encode())
            name = digest.hexdigest()[:16]
            if name in seen or digest.digest()[-1] % len(SPLITS) != SPLITS.index(split):
                misses += 1
                if misses == MOST_MISSES:
                    return
                continue
            misses = 0
            seen.add(name)
            answer = entry["answer"] or ""  # empty where many are right, and the package names none
            kind = "math" if _WHOLE_NUMBER.fullmatch(answer) else f"{REASONING_GYM}:{generator.text}@{start}#{index}"
            source = f"{REASONING_GYM}:{generator.text}@{version(REASONING_GYM)}"
            yield Problem(name, entry["question"], answer, source=source, answer_kind=kind, kind=generator.name)


@contextmanager
def _checked_eval(module: ModuleType) -> Iterator[None]:
    """Hold a scorer that evaluates answers, as Python or by sympy's parser, to those that are data or mathematics."""
    from sympy.parsing import sympy_parser

    for place in (module, sympy_parser):
        place.eval = _evaluate
    try:
        yield
    finally:
        for place in (module, sympy_parser):
            del place.eval


def _evaluate(code: str, *namespaces: dict[str, Any]) -> Any:
    """Evaluate Python that looks nothing up in an object, and calls nothing but functions of mathematics.

    Raises:
        ValueError: It does.
    """
    tree = ast.parse(code.strip(), mode="eval")
    nodes = list(ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    names = [call.func.id if isinstance(call.func, ast.Name) else None for call in calls]
    if any(isinstance(node, ast.Attribute) for node in nodes) or not set(names) <= {*_NAMED, *_FUNCTIONS}:
        raise ValueError("an answer is to be data or mathematics")
    # Functions of mathematics evaluate the texts that they are given.
    parsed = [argument for call, name in zip(calls, names, strict=True) if name in _NAMED for argument in call.args]
    texts = [node for node in nodes if isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)]
    if calls and not all(text in parsed for text in texts):
        raise ValueError("an answer is to be data or mathematics")
    return eval(compile(tree, "answer", "eval"), *(namespaces or ({"__builtins__": {}},)))
