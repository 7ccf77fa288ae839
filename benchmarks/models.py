"""Try a tiny model of every architecture, and write docs/models.md: `python benchmarks/models.py`, or with some of the names.

A row is a model with random weights, written as safetensors with the embedded reasoner's tokenizer and taken the way of a real
one. What a cell says is found by comparing: with transformers' `generate`, with what the source's files hold, and with a fresh
`from_pretrained`. Rows of the page that are not asked for stay, unless other versions of torch or transformers made them. Of
what does not work the page gives the error's sentence; anything but an `SSGRError` is a bug and is shown as `error: ...`.
"""

import argparse
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory


os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries below are imported

import torch
import transformers
from architectures import ARCHITECTURES, build_model
from datasets import Dataset
from safetensors.torch import load_file
from transformers import PreTrainedModel

from optimum_ssgr import CalibrationConfig, PruningConfig, SSGRPruner
from optimum_ssgr.checkpoints.tensor_files import StoredTensor, read_header, same_bytes
from optimum_ssgr.errors import SSGRError
from optimum_ssgr.reasoner import WEIGHTS
from optimum_ssgr.records import Problem
from optimum_ssgr.rollouts.ends import end_token_ids


PAGE = Path(__file__).parents[1] / "docs" / "models.md"
COLUMNS = ("loads", "generates", "SparseGPT", "Wanda 2:4", "streamed", "saves", "reloads")
HEADER = f"| architecture | `model_type` | {' | '.join(COLUMNS)} | why not |\n|---|---|{'---|' * len(COLUMNS)}---|\n"
INTRODUCTION = """# Models

Blocks are found by their structure, so nothing is listed by name in the code; this page is what came out when a tiny model with
random weights of each architecture was taken the whole way. It says that the architecture works, and nothing of how well
pruning goes.

| column | yes means |
|---|---|
| loads | a checkpoint as transformers writes it is loaded with its tokenizer |
| generates | in process, greedily, a batch of a short and a long prompt gives the tokens of transformers' `generate`, prompt \
by prompt; where it does not, [a server](servers.md) generates |
| SparseGPT | every linear layer of the blocks has 50 % zeros, [those whose inputs cannot be seen](pruning.md#what-is-pruned) \
by magnitude |
| Wanda 2:4 | every linear layer of the blocks has two zeros in four |
| streamed | read [block by block](large-models.md), the same bytes are saved as in memory (two passes) |
| saves | the folder holds the tensors of the source by name, shape and type, and those that were not pruned byte by byte |
| reloads | a fresh `from_pretrained` of the folder has the pruned weights |

"-" is what an earlier "no" leaves untried.

"""
# Short and long; in one batch, the short one is padded. The long one is beyond the window or the original length of some.
QUESTIONS = (
    "2+3?",
    "Tom has 12 apples and gives 5 of them to Ann, who has 7 pears. How many pieces of fruit has Ann now, and Tom?",
)
SPARSEGPT = PruningConfig(method="sparsegpt", sparsity=0.5, true_sequential=False)
WANDA = PruningConfig(method="wanda", pattern="2:4")
GREEDY = CalibrationConfig(samples_per_problem=1, temperature=0.0, top_p=1.0, max_new_tokens=12)


class Trial:
    """What is found of one architecture: a cell for every column, and the sentences of what does not work.

    Args:
        folder: Where its models are written; left out of the sentences.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = dict.fromkeys(COLUMNS, "-")
        self.columns: dict[str, list[str]] = {}  # by what was said of them

    @contextmanager
    def column(self, name: str) -> Iterator[None]:
        """Fill a column: with yes, or with no where what is done in it fails, whatever it raises."""
        try:
            yield
            self.cells[name] = "yes"
        except Exception as error:  # of any kind, since no row is left unexplained
            self.cells[name] = "no"
            said = str(error) if isinstance(error, SSGRError | AssertionError) else f"error: {type(error).__name__}: {error}"
            said = re.sub(r"\s+", " ", said.replace(str(self.folder / "dense"), "MODEL").replace(str(self.folder), "FOLDER"))
            said = re.sub(r"([|<>*_`\[\]\\])", r"\\\1", said).strip()
            self.columns.setdefault(said, []).append(name)

    @property
    def reasons(self) -> str:
        """What was said of columns, after their names."""
        return " ".join(f"{', '.join(names)}: {said}" for said, names in self.columns.items())

    def has(self, name: str) -> bool:
        """Tell whether a column says yes."""
        return self.cells[name] == "yes"


def check(holds: bool, otherwise: str) -> None:
    """Say what is not so; unlike `assert`, also under `python -O`."""
    if not holds:
        raise AssertionError(otherwise)


def write_source(name: str, folder: Path) -> None:
    """Write a tiny model and a tokenizer with a chat template, in several files as large models are."""
    build_model(name).save_pretrained(folder, max_shard_size="100KB")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(WEIGHTS / file, folder)


def make_sequences() -> Dataset:
    """Draw token ids to calibrate on."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(8, 700, (length,), generator=generator).tolist() for length in (96, 120, 80, 128)]
    return Dataset.from_dict({"input_ids": rows})


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Read what the headers of a checkpoint's files say, by name."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in read_header(path)[0].items()}


def check_generation(pruner: SSGRPruner) -> None:
    """Compare a batch with transformers' `generate`, which has one prompt at a time."""
    problems = [Problem(str(number), question, "5") for number, question in enumerate(QUESTIONS)]
    found = [graded.rollout for graded in pruner.generate_rollouts(problems, GREEDY, batch_size=len(problems))]
    check(len({len(rollout.prompt_ids) for rollout in found}) == len(problems), "error: the prompts are equally long.")
    ends = end_token_ids(pruner.model.generation_config, pruner.tokenizer, "")
    options = {"max_new_tokens": GREEDY.max_new_tokens, "do_sample": False, "eos_token_id": list(ends), "pad_token_id": 0}
    for rollout in found:
        ids = torch.tensor([rollout.prompt_ids])
        expected = pruner.model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :]
        check(
            list(rollout.response_ids) == expected.tolist(),
            f"error: a batch gives the prompt of {ids.shape[1]} tokens a response other than generate does.",
        )


def prune(source: Path, config: PruningConfig, folder: Path, **options: bool) -> SSGRPruner:
    """Load and prune, and see that every layer has the zeros that were asked for."""
    pruner = SSGRPruner.from_pretrained(str(source), **options)
    report = pruner.prune(make_sequences(), config, journal_dir=folder)
    for layer in report.layers:
        most = 0 if config.pattern else max(0.02 * layer.weights, 1)
        check(abs(layer.zeros - layer.weights / 2) <= most, f"error: {layer.name} has not half of its weights zero.")
    return pruner


def check_saved(source: Path, folder: Path) -> None:
    """Compare a checkpoint with its source: what is not pruned is as it was, and of the pruned a half is zeros."""
    dense, sparse = read_tensors(source), read_tensors(folder)
    for name in sorted(dense.keys() ^ sparse.keys()):
        raise AssertionError(f"error: {name} is only in one of source and checkpoint.")
    for name, tensor in dense.items():
        check((tensor.dtype, tensor.shape) == (sparse[name].dtype, sparse[name].shape), f"error: {name} is of another type.")
    changed = [name for name, tensor in dense.items() if not same_bytes(tensor, sparse[name])]
    check(bool(changed), "error: nothing was pruned.")
    values = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    for name in changed:
        check((values[name] == 0).float().mean() > 0.4, f"error: {name} was changed, and not pruned.")


def check_same_files(one: Path, other: Path) -> None:
    """Compare the tensors of two checkpoints, byte by byte."""
    ours, theirs = read_tensors(one), read_tensors(other)
    check(ours.keys() == theirs.keys(), "error: the streamed checkpoint has other tensors.")
    for name, tensor in ours.items():
        check(same_bytes(tensor, theirs[name]), f"error: {name} is streamed to other values.")


def check_reloaded(model: PreTrainedModel, folder: Path) -> None:
    """Compare a model with a fresh one from its folder."""
    fresh, expected = type(model).from_pretrained(folder).state_dict(), model.state_dict()
    check(fresh.keys() == expected.keys(), "error: the reloaded model has other tensors.")
    for name, tensor in expected.items():
        check(torch.equal(tensor, fresh[name]), f"error: {name} is reloaded with other values.")


def try_architecture(name: str) -> str:
    """Take a tiny model the whole way.

    Args:
        name: Its name in `ARCHITECTURES`.

    Returns:
        Its row of the page.
    """
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source, trial = folder / "dense", Trial(folder)
        write_source(name, source)
        with trial.column("loads"):
            pruner = SSGRPruner.from_pretrained(str(source))
        if trial.has("loads"):
            with trial.column("generates"):
                check_generation(pruner)
            with trial.column("Wanda 2:4"):
                prune(source, WANDA, folder / "wanda")
            with trial.column("SparseGPT"):
                pruner = prune(source, SPARSEGPT, folder / "resident")
        if trial.has("SparseGPT"):
            with trial.column("saves"):
                pruner.save_pretrained(folder / "sparse")
                check_saved(source, folder / "sparse")
        if trial.has("saves"):
            with trial.column("reloads"):
                check_reloaded(pruner.model, folder / "sparse")
            with trial.column("streamed"):
                streamed = prune(source, SPARSEGPT, folder / "streamed", streaming=True)
                streamed.save_pretrained(folder / "sparse-streamed")
                check_same_files(folder / "sparse-streamed", folder / "sparse")
        cells = [name, f"`{ARCHITECTURES[name].model_type}`", *trial.cells.values(), trial.reasons]
        return f"| {' | '.join(cells)} |"


def read_rows(page: Path) -> dict[str, str]:
    """Read the rows of a page by architecture; none where there is no page."""
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    return {name: row for name, row in rows.items() if name in ARCHITECTURES}


def made_with() -> str:
    """Say which versions a page was made with."""
    return f"torch {torch.__version__.split('+')[0]} and transformers {transformers.__version__}"


def write_page(page: Path, rows: dict[str, str]) -> None:
    """Write the page, with the rows in the order of `ARCHITECTURES`."""
    kept = [rows[name] for name in ARCHITECTURES if name in rows]
    whole = sum(" no |" not in row for row in kept)
    summary = f'{len(kept)} architectures, {whole} of them without a "no". '
    origin = f"By `make models`, which runs `python benchmarks/models.py`, on {date.today()} with {made_with()}.\n\n"
    page.write_text(INTRODUCTION + summary + origin + HEADER + "\n".join(kept) + "\n", encoding="utf-8")


def main() -> None:
    """Try architectures and put their rows into the page, one after another, so that it can be interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which architectures to try; all when none is named")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    for name in args.names:
        if name not in ARCHITECTURES:
            parser.error(f"there is no '{name}'; choose from: {'; '.join(ARCHITECTURES)}")
    torch.set_num_threads(1)  # tiny models: more threads only wait for one another
    is_current = args.page.exists() and made_with() in args.page.read_text(encoding="utf-8")
    rows = read_rows(args.page) if is_current else {}
    for name in args.names or ARCHITECTURES:
        rows[name] = try_architecture(name)
        print(rows[name], flush=True)
        write_page(args.page, rows)


if __name__ == "__main__":
    main()
