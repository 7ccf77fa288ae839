"""Flags that several commands take; flags and config fields share their names."""

from argparse import ArgumentParser, BooleanOptionalAction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import (
    ALLOCATIONS,
    IN_PROCESS,
    METHODS,
    RECIPES,
    STRATEGIES,
    CalibrationConfig,
    PruningConfig,
)
from ..thinking import STYLES


if TYPE_CHECKING:
    from argparse import _ActionsContainer


def add_model(parser: ArgumentParser, several: bool = False) -> None:
    """Add the flags that say which model to load and how."""
    group = parser.add_argument_group("model")
    kind = {"nargs": "+"} if several else {}
    group.add_argument(
        "-m",
        "--model",
        required=True,
        help="Hub id (ID or ID@REVISION), local folder, or tiny-reasoner for the embedded model",
        **kind,
    )
    group.add_argument("--dtype", default="auto", help="weight type, such as bfloat16 (default: the checkpoint's own)")
    group.add_argument("--device-map", help="where to place the layers, such as auto or cuda")
    group.add_argument("--trust-remote-code", action="store_true", help="let code from the checkpoint run")


def add_problems(parser: ArgumentParser, required: bool, mixed: bool = False) -> None:
    """Add the flags that say which problems to ask; where several sets are mixed, each may have options of its own."""
    group = parser.add_argument_group("problems")
    own = (
        "; of several sets, each is a kind of problem, and may have options behind its name that hold for it alone, as in "
        "openai/gsm8k:main:share=.3,split=train: its share of the tokens (with the strategy cover), split, revision, "
        "num_problems, question_column, answer_column, kind_column, instruction"
    )
    group.add_argument(
        "--problems",
        required=required,
        nargs="+",
        default=[],
        help="Hub data set, such as openai/gsm8k or openai/gsm8k:main with a configuration, or JSON, JSON Lines, Parquet or "
        "CSV file with questions and answers, or tiny-reasoner, or some of its families as in tiny-reasoner:chain,sum, or "
        f"generators of the package reasoning-gym as in reasoning-gym:gcd,leg_counting{own if mixed else ''}",
    )
    group.add_argument("--problems-revision", help="branch, tag or commit of the data set on the Hub")
    group.add_argument(
        "--split", help="split of the data set (default: the one meant for this if the data set is known, else train)"
    )
    group.add_argument("--num-problems", type=int, help="draw this many problems of a set by the seed, if there are more")
    group.add_argument(
        "--question-column",
        help="column of the question, or a field as in extra_info.question (default: found by its usual names)",
    )
    group.add_argument(
        "--answer-column",
        help="column of the final answer, or a field as in reward_model.ground_truth (default: found by its usual names)",
    )
    group.add_argument(
        "--kind-column",
        help="column of what sort of problem it is, or a field as in extra_info.topic (default: the first of problem_type, "
        "subject, source, kind and category that holds texts, if any does)",
    )
    group.add_argument(
        "--instruction",
        help="text added to every question, '' for none (default: a known data set's own, none for tiny-reasoner, and for "
        "others the one that asks for a boxed answer)",
    )
    group.add_argument("--batch-size", type=int, default=64, help="responses generated together (default: %(default)s)")
    add_prompting(parser)


def add_prompting(parser: ArgumentParser) -> None:
    """Add the flags of `PromptConfig`, which say how a model is addressed beside the question."""
    group = parser.add_argument_group("thinking")
    group.add_argument(
        "--template-kwargs",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="variables of the chat template, as in enable_thinking=true reasoning_effort=high; JSON, or else text (default: "
        "what switches thinking on, where the template has it off)",
    )
    group.add_argument(
        "--system", metavar="TEXT|FILE", help="system message, or a file that holds it (default: the template's)"
    )
    group.add_argument(
        "--thinking",
        nargs="+",
        metavar=("NAME|OPEN", "CLOSE"),
        help=f"how thinking is delimited: {', '.join(STYLES)}, or an opening and a closing delimiter (default: found out "
        "from the tokenizer and its chat template)",
    )


def add_sampling(parser: ArgumentParser, defaults: Any) -> None:
    """Add the flags of sampling, with the defaults of a config class."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--temperature", type=float, help=f"0 is greedy (default: {defaults.temperature})")
    group.add_argument("--top-p", type=float, help=f"probability mass kept (default: {defaults.top_p})")
    group.add_argument("--max-new-tokens", type=int, help=f"longest response (default: {defaults.max_new_tokens})")
    group.add_argument("--seed", type=int, default=defaults.seed, help="seed of everything random (default: %(default)s)")


def add_generation(parser: ArgumentParser) -> None:
    """Add the flags of `CalibrationConfig` that say which rollouts to generate, and where."""
    add_rollouts(parser)
    parser.add_argument(
        "--recipe",
        help=f"settings that a paper publishes, for flags that are left out: {', '.join(RECIPES)}",
    )
    group = parser.add_argument_group("fewer rollouts")
    group.add_argument(
        "--adaptive",
        action="store_true",
        default=None,
        help="sample a problem no further once it is decided whether it is challenging, and stop when enough was found",
    )
    add_exclude(group)


def add_exclude(group: "_ActionsContainer") -> None:
    """Add the flag that leaves problems of evaluation sets out."""
    group.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="DATASET",
        help="evaluation sets whose problems are left out, named as in --problems; read in the split for evaluation",
    )


def add_rollouts(parser: ArgumentParser) -> None:
    """Add the flags that say how rollouts are sampled, and where."""
    add_sampling(parser, CalibrationConfig)
    group = parser.add_argument_group("generation")
    group.add_argument("--samples-per-problem", type=int, help=f"rollouts for each problem {_default('samples_per_problem')}")
    add_engine(group)


def add_engine(group: "_ActionsContainer") -> None:
    """Add the flags of `EngineConfig`, which say where to generate."""
    group.add_argument(
        "--engine",
        default=IN_PROCESS,
        help="transformers, or vllm or sglang, which are started for it and stopped again, or addresses of OpenAI-compatible "
        "servers that have the model, such as http://localhost:8000/v1, separated by commas (default: %(default)s)",
    )
    group.add_argument("--engine-command", metavar="PATH", help="executable of vllm or sglang (default: the one on PATH)")
    group.add_argument(
        "--engine-args",
        default="",
        metavar="FLAGS",
        help="more flags for the engine that is started, which win, as in --engine-args='--gpu-memory-utilization 0.8'",
    )
    group.add_argument(
        "--request-seeds",
        choices=("on", "off"),
        default="on",
        help="off: requests to servers carry no seed, for those that die of it; the samples of a problem then travel together, "
        "and the same command gives other responses every time (default: %(default)s)",
    )


def add_selection(parser: ArgumentParser, several: bool = False) -> None:
    """Add the flags of `CalibrationConfig` that say what to select."""
    group = parser.add_argument_group("selection")
    if several:
        group.add_argument("--strategies", nargs="+", default=["cover", "text"], help=f"{', '.join(STRATEGIES)}; cover+damage")
    else:
        group.add_argument("--strategy", help=f"{', '.join(STRATEGIES)} {_default('strategy')}")
        group.add_argument(
            "--damage",
            action=BooleanOptionalAction,
            default=None,
            help="draw the traces that pruning damages most more often, and not those of difficult problems (cover); prune "
            "measures that and keeps it with the rollouts (default: for prune with --problems yes, else as in the set)",
        )
    group.add_argument("--num-sequences", type=int, help="sequences to select (default: 128 unless --num-tokens is given)")
    group.add_argument("--num-tokens", type=int, help="tokens to select, prompts included")
    group.add_argument(
        "--pass-rate",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=f"share of correct rollouts that makes a problem challenging {_default('pass_rate')}",
    )
    group.add_argument(
        "--length-window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=f"percentiles of length that make a trace moderate {_default('length_window')}",
    )
    group.add_argument("--max-per-problem", type=int, help=f"traces from one problem at most {_default('max_per_problem')}")
    group.add_argument(
        "--text",
        help="general text for the strategies text and mix: a file, a Hub data set such as allenai/c4:en, or tiny-reasoner",
    )
    group.add_argument("--text-length", type=int, help=f"tokens in a window of general text {_default('text_length')}")
    group.add_argument("--text-share", type=float, help=f"share of general text in the strategy mix {_default('text_share')}")


def _default(name: str) -> str:
    value = getattr(CalibrationConfig, name)
    return f"(default: {' '.join(f'{end:g}' for end in value) if isinstance(value, tuple) else value})"


def add_hub(parser: ArgumentParser) -> None:
    """Add the flags that say how to push to the Hub; the token is the one of `hf auth login` or HF_TOKEN."""
    group = parser.add_argument_group("Hub")
    group.add_argument(
        "--private", action=BooleanOptionalAction, help="whether a new repository is private (default: as the namespace has it)"
    )
    group.add_argument("--hub-revision", help="branch to push to (default: main)")


def add_push(parser: ArgumentParser, what: str) -> None:
    """Add the flags that push what a command makes."""
    add_hub(parser)
    parser.add_argument(
        "--push-to-hub", metavar="HUB_ID", help=f"push the {what} there when it is done; that it is allowed is checked first"
    )


def add_output(parser: ArgumentParser) -> None:
    """Add where to write, and how loudly."""
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write; must be new or empty")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan and stop")
    add_quiet(parser)


def add_quiet(parser: ArgumentParser) -> None:
    """Add the flag that silences progress and warnings."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no warnings")


def add_streaming(parser: ArgumentParser) -> None:
    """Add the flags for models larger than memory."""
    group = parser.add_argument_group("models larger than memory")
    group.add_argument(
        "--streaming", action="store_true", help="read one block at a time from the checkpoint; needs --calibration"
    )
    group.add_argument(
        "--activation-gb",
        type=float,
        default=8.0,
        help="with --streaming, keep this much of the hidden states in memory and the rest on disk (default: %(default)s)",
    )


def add_pruning(parser: ArgumentParser) -> None:
    """Add the flags of `PruningConfig`."""
    group = parser.add_argument_group("pruning")
    group.add_argument("--method", default="sparsegpt", help=f"{', '.join(METHODS)} (default: %(default)s)")
    group.add_argument("--sparsity", type=float, help="share of weights to remove (default: 0.5)")
    group.add_argument(
        "--true-sequential",
        action=BooleanOptionalAction,
        help="run every block once, each layer behind the pruned ones before it, or twice with less memory (default: once, or "
        "twice with --streaming)",
    )
    group.add_argument(
        "--allocation", default="uniform", help=f"{' or '.join(ALLOCATIONS)}: sparsity of the blocks (default: %(default)s)"
    )
    group.add_argument(
        "--refine",
        nargs="+",
        help="swaps: exchange pruned and kept weights while that lowers a layer's error; blocks: fit what is left of each "
        "block to the dense block's outputs (default: neither)",
    )
    group.add_argument("--pattern", help="N:M pattern such as 2:4: N of every M weights stay")
    group.add_argument(
        "--damping", type=float, default=PruningConfig.damping, help="damping of the Hessian (default: %(default)s)"
    )
