"""Cards: what they state, what they leave out, and that nothing which comes from elsewhere can change their structure."""

import ast
import copy
import html
import json
import math
import re
import subprocess
from argparse import ArgumentParser
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from optimum_ssgr import CalibrationConfig, PruningConfig, RecoveryConfig, SSGRPruner
from optimum_ssgr.calibration.tables import CALIBRATION_FEATURES, ROLLOUT_FEATURES
from optimum_ssgr.cards import render as rendering
from optimum_ssgr.cards.metadata import inherited_metadata
from optimum_ssgr.cards.render import PLACEHOLDER, card_for, merge_card
from optimum_ssgr.commands.calibrate import CalibrateCommand
from optimum_ssgr.commands.configs import calibration_config, problem_sets, prompting_config, pruning_config, recovery_config
from optimum_ssgr.commands.prune import PruneCommand
from optimum_ssgr.commands.recover import RecoverCommand
from optimum_ssgr.commands.select import SelectCommand
from optimum_ssgr.errors import DataError
from optimum_ssgr.formats import Manifest, Provenance, Recovery
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.problems.mixture import ProblemSet
from optimum_ssgr.problems.options import ProblemOptions
from optimum_ssgr.problems.sources import BOXED

from ..processes import started


REPOSITORY = Path(__file__).parents[2]
CARDS = REPOSITORY / "docs" / "cards"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTILE = (
    "a | b\n\n# Heading\n| c | d |\n---\nlicense: mit\n<script>alert(1)</script> **bold** [x](javascript:y) "
    "`` ` ```\n{{ 7 * 7 }} {% x %} \\| \u202e\r\n"
    "<!-- optimum-ssgr ends -->"
)


def model_card(provenance, repo_id=None):
    """Render the contents of a file, which the tests change in their own ways."""
    return rendering.model_card(Provenance.from_dict(provenance), repo_id)


def dataset_card(manifest, repo_id=None):
    return rendering.dataset_card(Manifest.from_dict(manifest), repo_id)


@pytest.fixture
def provenance():
    return json.loads((CARDS / "model" / "ssgr_config.json").read_text())


@pytest.fixture
def manifest():
    return json.loads((CARDS / "dataset" / "manifest.json").read_text())


def structure(card):
    """Headings, tables, lists, links, pictures and raw HTML of a card, as a parser of Markdown sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(body(card))
    inline = [child.type for token in tokens for child in token.children or ()]
    raw = [child.content for token in tokens for child in token.children or () if child.type == "html_inline"]
    blocks = [token.type for token in tokens if token.type != "inline"]
    return blocks, inline.count("link_open"), inline.count("image"), set(raw) - {"<code>", "</code>"}


def body(card):
    return card.split("\n---\n", 1)[1]


def cells(card, heading):
    """Rows of the first table below a heading, as text."""
    rows = card.split(f"\n## {heading}\n")[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]


def snippets(card, language):
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


# What the checked-in cards hold


@pytest.mark.parametrize(
    ("folder", "render", "source"), [("model", model_card, "ssgr_config.json"), ("dataset", dataset_card, "manifest.json")]
)
def test_the_cards_in_docs_are_current(folder, render, source):
    """If this fails, the templates have changed: run `python benchmarks/cards.py`."""
    rendered = render(json.loads((CARDS / folder / source).read_text()))
    assert rendered == (CARDS / folder / "README.md").read_text()


def test_metadata_of_a_model(provenance):
    assert ModelCard(model_card(provenance)).data.to_dict().keys() == {
        "license",
        "library_name",
        "pipeline_tag",
        "tags",
        "metrics",
        "model-index",
    }
    provenance |= {
        "base_model": "org/base.model-7B",
        "base_commit": COMMIT,
        "inherited": {"license": "other", "license_name": "odd", "license_link": "https://a.b", "language": ["en", "no"]},
    }
    provenance["pruning"] |= {"pattern": "2:4", "sparsity": None}
    provenance["calibration"]["hub"] = {"id": "me/set", "commit": COMMIT}
    data = ModelCard(model_card(provenance)).data
    assert (data.base_model, data.base_model_relation) == ("org/base.model-7B", "finetune")
    assert (data.license, data.license_name, data.license_link, data.language) == ("other", "odd", "https://a.b", ["en", "no"])
    assert (data.library_name, data.pipeline_tag, data.datasets) == ("transformers", "text-generation", ["me/set"])
    assert data.tags == ["pruned", "sparse", "ssgr", "sparsegpt", "2:4"]
    [result] = data.eval_results
    sparse = provenance["evaluation"][1]
    assert (result.metric_type, result.metric_value) == ("accuracy", sparse["accuracy"])
    assert (result.dataset_type, result.dataset_split) == ("tiny-reasoner", "test")
    assert result.metric_args == {"standard_error": sparse["accuracy_se"], "problems": 100, "samples": 100}
    card = model_card(provenance)
    assert f"https://huggingface.co/org/base.model-7B/tree/{COMMIT}" in card
    assert f"https://huggingface.co/datasets/me/set/tree/{COMMIT}" in card


def test_evaluation_is_shown_dense_first_with_n_and_error(provenance):
    provenance["evaluation"].reverse()
    dense, sparse = cells(model_card(provenance), "Evaluation")[2:]
    assert (dense[1], sparse[1]) == ("`dense`", "`sparse`")
    row = provenance["evaluation"][0]
    assert sparse[2:] == [
        f"{100 * row['accuracy']:.1f} % +- {100 * row['accuracy_se']:.1f} %",
        "100 x 1",
        f"{row['mean_tokens']:.0f}",
        f"{100 * row['truncated']:.1f} %",
        f"{100 * row['looping']:.1f} %",
    ]


def test_all_right_and_all_wrong_are_shown_with_an_interval(provenance):
    """Where earlier versions measured, which kept none, without an error of 0 that would be wrong."""
    provenance["evaluation"][1] |= {"accuracy": 0.0, "accuracy_se": 0.0, "accuracy_ci95": [0.0, 0.0378]}
    card = model_card(provenance)
    assert cells(card, "Evaluation")[3][2] == "0.0 % (0.0 % to 3.8 %)"
    [result] = ModelCard(card).data.eval_results
    assert result.metric_args == {"ci95": [0.0, 0.0378], "problems": 100, "samples": 100}
    del provenance["evaluation"][1]["accuracy_ci95"]
    assert cells(model_card(provenance), "Evaluation")[3][2] == "0.0 %"


def test_accuracy_by_kind_is_shown_dense_beside_sparse(provenance):
    assert "By kind" not in model_card(provenance)
    for row, shift in zip(provenance["evaluation"], (0, 0.3), strict=True):
        row["kinds"] = {
            HOSTILE: {"problems": 60, "accuracy": 0.9 - shift, "accuracy_se": 0.02, "accuracy_ci95": [0.5, 1.0]},
            "walk": {"problems": 1, "accuracy": 1 - shift, "accuracy_se": None, "accuracy_ci95": [0.0, 1.0]},
        }
        row |= {"worst_kind": HOSTILE, "worst_kind_accuracy": 0.9 - shift, "worst_kind_accuracy_se": 0.02}
    del provenance["evaluation"][0]["kinds"]["walk"]
    card = model_card(provenance)
    rows = [line for line in card.split("### By kind of problem")[1].split("##")[0].splitlines() if line.startswith("|")]
    assert len(rows) == 4 and rows[2].endswith("| 60 | 90.0 % +- 2.0 % | 60.0 % +- 2.0 % |")
    assert rows[3] == "| `tiny-reasoner` (`test`) | `walk` | 1 | - | 70.0 % (0.0 % to 100.0 %) |"
    assert card.count("The worst kind of `tiny-reasoner`, for the ") == 2 and "low by chance" in card
    harmless = copy.deepcopy(provenance)
    for row in harmless["evaluation"]:
        row["kinds"] = {("harmless" if name == HOSTILE else name): of for name, of in row["kinds"].items()}
        row["worst_kind"] = "harmless"
    assert structure(card) == structure(model_card(harmless))
    assert Provenance.from_dict(provenance).to_dict() == provenance


def test_a_data_set_says_what_it_holds_of_every_kind(manifest):
    assert "By kind" not in dataset_card(manifest)
    numbers = {"problems": 1200, "correct": 34, "pass_rate": 0.25, "pool_share": 0.125, "selected_share": 0.0}
    kinds = {HOSTILE: numbers, "sum": numbers | {"pass_rate": None, "selected_share": 1.0}}
    card = dataset_card(manifest | {"kinds": kinds})
    section = card.split("### By kind of problem")[1].split("##")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows[3] == "| `sum` | 1,200 | 34 | - | 12.5 % | 100.0 % |" and len(rows) == 4
    assert rows[2].endswith("| 1,200 | 34 | 25.0 % | 12.5 % | 0.0 % |")
    assert structure(card) == structure(dataset_card(manifest | {"kinds": {"harmless": numbers, "sum": kinds["sum"]}}))
    again = {"reselected_from": {"calibration": manifest["calibration"], "content_hash": "h"}, "kinds": kinds}
    assert Manifest.from_dict(manifest | again).to_dict()["kinds"] == kinds


def test_nothing_is_stated_that_was_not_measured(provenance):
    provenance["evaluation"][1] |= {"accuracy_se": math.nan}
    assert "nan" not in model_card(provenance)
    assert "standard_error" not in model_card(provenance)
    for name in ("evaluation", "inherited", "calibration"):
        del provenance[name]
    card = model_card(provenance)
    assert ModelCard(card).data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
    assert "was not evaluated" in card
    assert "came without a manifest" in card
    assert "## Reproduce" not in card
    assert "None" not in card


def test_sparsity_by_module_adds_up(provenance):
    provenance["sparsity"]["layers"] += [
        {"name": f"model.layers.0.mlp.experts.up_proj.{e}", "shape": [2, 4], "zeros": 4, "method": "magnitude"} for e in (0, 11)
    ]
    card = model_card(provenance)
    rows = {row[0].strip("`"): row[1:] for row in cells(card, "Sparsity")[2:]}
    assert list(rows)[:3] == ["q_proj", "k_proj", "v_proj"]
    layers = provenance["sparsity"]["layers"]
    mine = [layer for layer in layers if "up_proj" in layer["name"]]
    zeros, weights = sum(layer["zeros"] for layer in mine), sum(layer["shape"][0] * layer["shape"][1] for layer in mine)
    assert rows["up_proj"] == [str(len(mine)), f"{weights:,}", f"{zeros:,}", f"{100 * zeros / weights:.2f} %"]
    assert "2 matrices of experts that hardly any token reached were pruned by magnitude" in card
    assert "could not be used" not in card


def test_matrices_whose_hessian_resisted_are_named(provenance):
    names = []
    for layer in provenance["sparsity"]["layers"][:2]:
        layer |= {"method": "magnitude", "damping": 0.5}
        names.append(layer["name"])
    card = model_card(provenance)
    told = f"could not be used, matrices were pruned by magnitude (2): `{names[0]}`, `{names[1]}`.\n`ssgr_config.json` holds"
    assert told in card
    assert "hardly any token reached" not in card


@pytest.mark.parametrize(
    ("pattern", "gains", "others"),
    [
        (None, {"Core ML", "MACKO", "OpenVINO"}, {"DeepSparse", "llama.cpp"}),
        ("2:4", {"PyTorch", "SlideSparse", "Core ML on newer CPUs"}, {"vLLM", "TensorRT-LLM"}),
        ("1:4", {"PyTorch", "SlideSparse"}, {"vLLM"}),
        ("4:8", {"Core ML on newer CPUs", "MACKO"}, {"DeepSparse"}),
    ],
)
def test_card_tells_what_runtimes_make_of_the_pattern(provenance, pattern, gains, others):
    if pattern:
        provenance["pruning"] |= {"pattern": pattern, "sparsity": None}
    section = model_card(provenance).partition("## Size and speed")[2].partition("\n## ")[0]
    assert "as large as the dense model's" in section
    gaining, _, rest = section.partition("Who does not:")
    for names, part in ((gains, gaining), (others, rest)):
        told = re.findall(r"^- ([\w. -]+?)(?: \(|:).* \(\[source\]\(https://\S+\), checked 20\d\d-\d\d-\d\d\)$", part, re.M)
        assert set(told) >= names
    assert ("PyTorch" in section) == (pattern in ("2:4", "1:4"))


def test_metadata_of_a_data_set(manifest):
    data = DatasetCard(dataset_card(manifest)).data.to_dict()
    assert data.keys() == {"size_categories", "task_categories", "pretty_name", "tags", "configs"}
    assert data["configs"] == [
        {
            "config_name": "calibration",
            "data_files": [{"split": "train", "path": "calibration/train.parquet"}],
            "default": True,
        },
        {"config_name": "rollouts", "data_files": [{"split": "train", "path": "rollouts/train.parquet"}]},
    ]
    manifest["problems"]["read_from"] = [f"openai/gsm8k:main@{COMMIT}"]
    card = dataset_card(manifest)
    data = DatasetCard(card).data
    assert (data.license, data.language) == ("mit", ["en"])
    assert f"https://huggingface.co/datasets/openai/gsm8k/tree/{COMMIT}" in card
    manifest["problems"]["read_from"].append(f"org/unknown@{COMMIT}")
    assert DatasetCard(dataset_card(manifest)).data.license is None


@pytest.mark.parametrize(("rows", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (123456, "100K<n<1M")])
def test_size_of_a_data_set(manifest, rows, category):
    manifest["counts"] |= {"sequences": 1, "rollouts": rows - 1}
    assert DatasetCard(dataset_card(manifest)).data.size_categories == [category]


def test_the_table_of_columns_is_the_schema(manifest):
    columns = []
    for configuration, names, _ in cells(dataset_card(manifest), "Columns")[2:]:
        if configuration:
            columns.append([])
        columns[-1] += re.findall(r"`(\w+)`", names)
    assert columns == [list(CALIBRATION_FEATURES), list(ROLLOUT_FEATURES)]


STRATEGIES = {  # what the sequences of each are
    **{strategy: {"traces"} for strategy in ("ssgr", "self", "rac", "resp", "obc")},
    **{"mix": {"traces", "text"}, "prompts": {"questions"}, "text": {"text"}},
}


@pytest.mark.parametrize("again", [False, True], ids=["calibrated", "selected again"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_has_a_card(provenance, manifest, strategy, again):
    """A set that was selected again keeps its rollouts, also where its sequences are none of them."""
    holds = STRATEGIES[strategy]
    if again:
        manifest["reselected_from"] = {"calibration": copy.deepcopy(manifest["calibration"]), "content_hash": "f00"}
    elif "traces" not in holds:
        manifest["counts"] = {"sequences": 3, "tokens": 40}
        del manifest["batch_size"], manifest["engine"]
        if strategy == "text":
            del manifest["problems"]
    manifest["calibration"]["strategy"] = strategy
    if "text" in holds:
        manifest["text"] = "allenai/c4:en"
    card = dataset_card(manifest)
    assert f"Strategy `{strategy}`" in card
    assert ("rollouts" in card) == ("traces" in holds or again)
    assert ("selected among them" in card) == ("At most" in card) == ("traces" in holds)
    assert ("selected again from rollouts" in card) == (again and "traces" in holds)
    assert ("among windows of general text" in card) == (strategy == "mix")
    assert ("general text:" in card.lower()) == ("text" in holds)
    licence, personal = (re.search(rf"\*\*{name}\.\*\* (.*)", card)[1] for name in ("Licence", "Personal data"))
    assert ("text" in licence) == ("text" in personal) == ("text" in holds)
    assert ("problems" in personal) == (again or holds != {"text"})
    assert ("written by" in licence) == ("a model can write names" in personal) == ("rollouts" in manifest["counts"])
    assert "None" not in card

    card = model_card(provenance | {"calibration": manifest})
    said = re.search(r"decided on [\d,]+ tokens of (.*), see", card)[1]
    words = {"traces": "the model's own traces", "text": "general text", "questions": "the problems' questions"}
    assert said == " and ".join(words[part] for part in ("traces", "text", "questions") if part in holds)
    assert ("They were selected among" in card) == (holds == {"traces"})
    assert ("The traces among them were selected among" in card) == ("windows of general text" in card) == (strategy == "mix")


def test_traces_of_another_model_are_not_called_its_own(provenance):
    provenance["calibration"]["model"] = "org/another"
    assert "tokens of traces, see" in model_card(provenance)


def test_the_licence_of_problems_is_not_that_of_general_text(manifest):
    manifest["problems"]["read_from"] = [f"openai/gsm8k:main@{COMMIT}"]
    manifest["calibration"]["strategy"] = "mix"
    data = DatasetCard(dataset_card(manifest)).data  # made in Python, from text that has no name
    assert (data.license, data.language) == (None, None)


def test_what_was_excluded_is_said(manifest):
    manifest["problems"]["excluded"] = {"sets": ["HuggingFaceH4/MATH-500"], "exact": 17, "ngram": 1234}
    card = dataset_card(manifest)
    assert "17 problems that are, and 1,234 that share" in card
    assert "Nothing was compared with evaluation sets" not in card
    assert "--exclude HuggingFaceH4/MATH-500" in card


# What the cards tell people to run


def arguments(command, kind):
    """Parse a command as bash and the command line would."""
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True).stdout
    parser = ArgumentParser()
    kind.parse_args(parser)
    return parser.parse_args(shown.split("\0")[3:-1])


def commands(card):
    return [line for part in snippets(card, "bash") for line in part.replace("\\\n", " ").splitlines()]


def test_the_commands_ask_for_the_same_settings(provenance, manifest):
    changed = {"pass_rate": [0.1, 0.9], "adaptive": True, "num_sequences": 7, "num_tokens": 900, "seed": 3, "temperature": 0.5}
    manifest["calibration"] |= changed
    manifest |= {"model": "org/model", "model_commit": COMMIT, "instruction": "Think.\nIt's 'hard': \\boxed{} \t!"}
    provenance |= {"calibration": manifest, "base_model": "org/model", "base_commit": COMMIT}
    provenance["pruning"] |= {"true_sequential": False, "allocation": "owl", "sparsity": 0.3, "damping": 0.02}
    provenance["pruning"]["refine"] = ["swaps", "blocks"]
    calibrate, prune = commands(model_card(provenance))
    assert commands(dataset_card(manifest)) == [calibrate]
    args = arguments(calibrate, CalibrateCommand)
    assert calibration_config(args) == CalibrationConfig.from_dict(manifest["calibration"])
    assert (args.model, args.problems, args.num_problems) == (f"org/model@{COMMIT}", ["tiny-reasoner"], 32)
    assert args.instruction == manifest["instruction"]
    args = arguments(prune, PruneCommand)
    assert pruning_config(args).to_dict() == provenance["pruning"]
    assert (args.model, str(args.calibration)) == (f"org/model@{COMMIT}", "calibration")
    assert "refined by `swaps` ([arXiv 2512.10922](" in model_card(provenance)


def test_how_the_model_was_addressed_is_on_the_card_and_asked_for_again(provenance, manifest):
    variables = {"enable_thinking": True, "budget": 3, "effort": "very high", "word": "true", "name": "True"}
    asked = {"template_kwargs": variables, "system": "Think\nin `[[`.", "thinking": ["[[", "]]"]}
    manifest["prompting"] = asked
    card = dataset_card(manifest)
    assert prompting_config(arguments(commands(card)[0], CalibrateCommand)).recorded == asked
    assert "Chat template with `enable_thinking=true`, `budget=3`, " in card and "thinking between `[[` and `]]`." in card
    manifest["prompting"] = {"thinking": ["think"]}
    assert "--thinking" not in commands(dataset_card(manifest))[0]
    provenance["evaluation"][0]["prompting"] = {"template_kwargs": {"enable_thinking": True}}
    assert "Chat template with `enable_thinking=true`." in model_card(provenance)


def test_several_problem_sets_are_named_and_asked_for_again(manifest, monkeypatch):
    monkeypatch.setattr("optimum_ssgr.config.STRATEGIES", ("cover", *STRATEGIES))
    gsm8k = {"source": "openai/gsm8k", "split": "train", "num_problems": 20, "share": 0.25, "instruction": "Think, it's x=1."}
    gsm8k |= {"read_from": [f"openai/gsm8k:main@{COMMIT}"]}
    own = {"source": "/home/someone/secret/own.jsonl", "split": None, "read_from": [], "kind_column": "k", "instruction": BOXED}
    made = {"source": "reasoning-gym:chain_sum(min_terms=2,max_terms=4),gcd", "split": None, "read_from": [], "instruction": ""}
    manifest["problems"] = {"sets": [gsm8k, own, made], "read_from": gsm8k["read_from"]}
    manifest["instruction"] = None
    manifest["calibration"] |= {"strategy": "cover", "kind_shares": [["gsm8k", 0.25]]}
    card = dataset_card(manifest)
    args = arguments(commands(card)[0], CalibrateCommand)
    assert calibration_config(args) == CalibrationConfig.from_dict(manifest["calibration"])
    assert problem_sets(args) == [
        ProblemSet(
            "openai/gsm8k", ProblemOptions(split="train", revision=COMMIT, limit=20, instruction=gsm8k["instruction"]), 0.25
        ),
        ProblemSet("own.jsonl", ProblemOptions(kind_column="k")),
        ProblemSet(made["source"], ProblemOptions(instruction="")),
    ]
    assert "secret" not in card
    listed = card[card.index("## Sources") : card.index("## Columns")]
    assert f"[`openai/gsm8k`](https://huggingface.co/datasets/openai/gsm8k/tree/{COMMIT})" in listed
    assert "Problem set `openai/gsm8k`, 25.0 % of the tokens, split `train`; to every question was added: " in listed
    assert "Problem set `own.jsonl`; to every question was added: " in listed
    # What the command line cannot ask for has no command.
    manifest["calibration"]["kind_shares"] = [["gsm8k", 0.5]]
    manifest["reselected_from"] = {"calibration": manifest["calibration"] | {"kind_shares": []}, "content_hash": "f00"}
    assert commands(dataset_card(manifest)) == []


def test_the_card_of_sequences_alone_shows_no_rollouts(manifest):
    card = dataset_card(manifest | {"rollouts_hash": None})
    assert DatasetCard(card).data["configs"] == [
        {"config_name": "calibration", "data_files": [{"split": "train", "path": "calibration/train.parquet"}], "default": True}
    ]
    assert "histograms.png" not in card and '"rollouts"' not in card
    assert "The responses are not part of this set." in card


def test_a_set_that_is_kept_beside_the_weights_is_pointed_to(provenance):
    assert "beside the weights" not in model_card(provenance)
    card = model_card(provenance | {"calibration_folder": "calibration"})
    assert "They are in the folder `calibration` beside the weights" in card


def test_a_set_on_the_hub_is_named_with_its_commit(provenance):
    provenance["calibration"]["hub"] = {"id": "me/set", "commit": COMMIT}
    [prune] = commands(model_card(provenance))
    assert str(arguments(prune, PruneCommand).calibration) == f"me/set@{COMMIT}"


def test_recovery_is_told_and_asked_for_again(provenance):
    settings = RecoveryConfig(epochs=1.5, learning_rate=1e-4, batch_size=8, gradient_accumulation=2, num_traces=90, seed=4)
    recovery = Recovery(
        checkpoint="/home/me/sparse",
        commit=None,
        settings=settings.to_dict(),
        traces_of="org/model",
        rollouts_hash=provenance["calibration"]["rollouts_hash"],
        hub=None,
        traces=90,
        problems=70,
        tokens=12345,
        steps=17,
        versions={},
        teacher="org/model",
        teacher_commit=COMMIT,
        excluded={"sets": ["HuggingFaceH4/MATH-500"], "exact": 3, "ngram": 1},
        held_out={"traces": 9, "trace_nll": 0.25, "trace_nll_rise": -0.5},
    )
    provenance["recovery"] = recovery.to_dict()
    card = model_card(provenance)
    told = card.partition("## Recovery")[2].partition("\n## ")[0]
    assert "90 right traces (12,345 tokens of responses)" in told and "70 problems, in 17 steps" in told
    assert "taught the scores of the dense model" in told and "went from 0.750 to 0.250 nats" in told
    assert "`HuggingFaceH4/MATH-500` were left out: 3 in whole, 1 in part" in told
    *_, last = commands(card)
    args = arguments(last, RecoverCommand)
    assert recovery_config(args) == settings
    assert (args.checkpoint, str(args.output), args.calibration) == ("sparse", "recovered", "calibration")
    assert (args.teacher, args.exclude) == (f"org/model@{COMMIT}", ["HuggingFaceH4/MATH-500"])
    provenance["recovery"]["rollouts_hash"] = "f00"
    assert arguments(commands(model_card(provenance))[-1], RecoverCommand).calibration == "path/or/id/of/the/traces"


def test_a_set_selected_by_damage_is_made_by_the_pruning_that_measured_it(provenance, manifest):
    pruning = PruningConfig(method="alps", sparsity=0.7).to_dict()
    manifest["calibration"] |= {"strategy": "cover", "damage": True, "num_tokens": 900, "num_sequences": None}
    manifest["damage"] = {"pruning": pruning, "calibration": "f00"}
    calibrate, prune = commands(dataset_card(manifest))
    first = calibration_config(arguments(calibrate, CalibrateCommand))
    assert (first.strategy, first.damage) == ("cover", False)
    args = arguments(prune, PruneCommand)
    assert pruning_config(args).to_dict() == pruning
    assert (str(args.calibration), args.damage) == ("rollouts", True)
    assert calibration_config(args, first) == CalibrationConfig.from_dict(manifest["calibration"])
    provenance |= {"calibration": manifest, "pruning": pruning | {"true_sequential": True}}
    assert commands(model_card(provenance)) == [calibrate, prune]
    provenance["pruning"] |= {"sparsity": 0.5}
    *before, last = commands(model_card(provenance))
    assert before == [calibrate, prune] and "--calibration sparse/calibration" in last and "--damage" not in last


def test_a_set_selected_again_takes_two_commands(manifest):
    first = copy.deepcopy(manifest["calibration"])
    manifest["reselected_from"] = {"calibration": first, "content_hash": "f00"}
    manifest["calibration"] |= {"strategy": "mix", "num_tokens": None, "num_sequences": 5, "seed": 9}
    manifest["text"] = "/home/someone/secret/text.txt"
    calibrate, select = commands(dataset_card(manifest))
    assert calibration_config(arguments(calibrate, CalibrateCommand)) == CalibrationConfig.from_dict(first)
    args = arguments(select, SelectCommand)
    assert calibration_config(args, CalibrationConfig.from_dict(first)) == CalibrationConfig.from_dict(manifest["calibration"])
    assert args.text == "text.txt"
    assert "secret" not in dataset_card(manifest)


def test_each_command_names_its_own_text(manifest):
    """A mixture was selected from the rollouts of another mixture, and `ssgr` from those."""
    first = manifest["calibration"] | {"strategy": "mix"}
    manifest |= {"reselected_from": {"calibration": first, "content_hash": "f00", "text": "first.txt"}, "text": "last.txt"}
    again = manifest | {"calibration": manifest["calibration"] | {"strategy": "mix", "num_sequences": 5}}
    assert [re.findall(r"--text (\S+)", command) for command in commands(dataset_card(again))] == [["first.txt"], ["last.txt"]]
    del manifest["text"]
    calibrate, select = commands(dataset_card(manifest))
    assert "--text first.txt" in calibrate and "--text" not in select


def test_what_was_made_in_python_has_no_command(provenance, manifest):
    del manifest["problems"]["source"]
    assert "## Reproduce" not in dataset_card(manifest)
    assert "## Reproduce" not in model_card(provenance | {"calibration": manifest})
    provenance["pruning"] |= {"method": "magnitude"}
    assert len(commands(model_card(provenance | {"calibration": None}))) == 1


def test_no_folder_of_the_makers_machine_is_told(provenance, manifest):
    for record, render in ((manifest, dataset_card), (provenance, model_card)):
        text = json.dumps(record).replace('"tiny-reasoner"', '"/home/someone/secret/thing"')
        card = render(json.loads(text))
        assert "thing" in card
        assert "secret" not in card


@pytest.mark.slow
def test_the_code_runs(reasoner, tmp_path):
    """Calibrate and prune, then run what the two cards say, as it stands there, in a fresh process."""
    model, tokenizer = reasoner
    config = CalibrationConfig(strategy="self", num_sequences=2, samples_per_problem=1, max_new_tokens=200, temperature=0.0)
    pruner = SSGRPruner(copy.deepcopy(model), tokenizer)
    built = pruner.build_calibration(load_problems("tiny-reasoner", limit=8), config, output_dir=tmp_path / "set")
    pruner.prune(built, PruningConfig(method="wanda", sparsity=0.3))
    pruner.save_pretrained(tmp_path / "model")
    code = []
    for folder in ("set", "model"):
        card = (tmp_path / folder / "README.md").read_text()
        placeholder = PLACEHOLDER.format("dataset" if folder == "set" else "model")
        code += [part.replace(placeholder, str(tmp_path / folder)) for part in snippets(card, "python")]
    assert len(code) == 3
    code.append("assert response.numel() and sequences.num_rows == 2 and rollouts.num_rows == 8")
    with started(exec, "\n".join(code), {}, cwd=tmp_path) as running:
        assert running.wait() == 0, running.err.read_text()
    assert (tmp_path / "sparse" / "model.safetensors").exists()
    assert load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))["train"].num_rows == 2


def test_a_licence_is_inherited_with_its_model(tmp_path):
    assert inherited_metadata("tiny/none", COMMIT) == {}
    assert inherited_metadata(str(tmp_path)) == {}
    card = tmp_path / "README.md"
    card.write_text("---\nlanguage: no\ntags: [x]\nlicense: other\nlicense_name: odd\nlicense_link: {a: b}\n---\n# M\n")
    assert inherited_metadata(str(tmp_path)) == {"license": "other", "license_name": "odd", "language": "no"}
    for broken in ("---\n: [\n---\n", "", "---\n- a\n---\n"):
        card.write_text(broken)
        assert inherited_metadata(str(tmp_path)) == {}
    card.write_bytes(b"\xff\xfe\x00")
    assert inherited_metadata(str(tmp_path)) == {}


# What others chose


def hostile(record, value, keep=()):
    """Put a value in the place of every text, but for those that decide what a card holds."""
    if isinstance(record, dict):
        return {name: item if name in keep else hostile(item, value, keep) for name, item in record.items()}
    if isinstance(record, list):
        return [hostile(item, value, keep) for item in record]
    return value if isinstance(record, str) else record


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [
        HOSTILE,
        "x\nlicense: mit",
        "---\ntags: [evil]\n---",
        "a/b\n---\n# h",
        "| x | y |\n|---|---|",
        "\\|`|",
        "```\n# out of the block\n```",
        "<img src=x onerror=y>",
        "{{ config }}{% raw %}",
        "\u2028# line\x85# line\x00",
        "$'\\'; touch x",
        "![i](http://x)",
        "é日本 _a_ ~~b~~",
    ],
)
def test_hostile_values_change_nothing(provenance, manifest, value):
    provenance["evaluation"][0] |= {"read_from": "org/set@" + COMMIT, "text": "t", "text_perplexity": 9.0}
    provenance["inherited"] |= {"license_name": "n", "license_link": "l", "language": ["en"]}
    provenance["calibration"] |= {"hub": {"id": "a", "commit": "b"}, "instruction": "i"}
    manifest |= {
        "instruction": "i",
        "reselected_from": {"calibration": manifest["calibration"], "content_hash": "h"},
        "text": "t",
    }
    manifest["problems"]["excluded"] = {"sets": ["a", "b"], "exact": 1, "ngram": 2}
    keep = ("pruning", "calibration", "method", "model", "name")
    harmless, harmful = (
        hostile(provenance, text, keep)
        | {
            "calibration": hostile(provenance["calibration"], text, ("calibration",)),
            "evaluation": [
                hostile(row, text, ("model", "sampling")) | {"model": row["model"]} for row in provenance["evaluation"]
            ],
            "sparsity": provenance["sparsity"]
            | {"layers": [layer | {"name": f"layers.{text}"} for layer in provenance["sparsity"]["layers"]]},
        }
        for text in ("harmless", value)
    )
    assert structure(model_card(harmful)) == structure(model_card(harmless))
    data = ModelCard(model_card(harmful)).data.to_dict()
    meant = ModelCard(model_card(harmless)).data.to_dict()
    assert data.keys() == meant.keys()
    assert (data["license"], data["license_name"], data["language"]) == (value, value, [value])
    assert (data["tags"], "base_model" in data, "datasets" in data) == (meant["tags"], False, False)
    assert merge_card(model_card(harmful), model_card(harmful)) == model_card(harmful)
    assert merge_card(model_card(harmful), model_card(harmless)) == model_card(harmless)

    harmless, harmful = (hostile(manifest, text, ("calibration",)) | {"versions": {text: text}} for text in ("harmless", value))
    assert structure(dataset_card(harmful)) == structure(dataset_card(harmless))
    data, meant = (DatasetCard(dataset_card(record)).data.to_dict() for record in (harmful, harmless))
    assert data.keys() == meant.keys()
    assert {name: item for name, item in data.items() if name != "pretty_name"} == {
        name: item for name, item in meant.items() if name != "pretty_name"
    }
    assert merge_card(dataset_card(harmful), dataset_card(harmless)) == dataset_card(harmless)


def test_a_hostile_id_is_text_in_the_code(manifest):
    value = '"); import os  # \n"""'
    card = dataset_card(manifest | {"model": value}, repo_id=value)
    for part in snippets(card, "python"):
        strings = [node.value for node in ast.walk(ast.parse(part)) if isinstance(node, ast.Constant)]
        assert value in strings


def test_values_are_shown_as_they_are(provenance):
    """Whatever is escaped reads the same once it is rendered."""
    value = "a|b `c` <d> &amp; \\| *e* _f_ ~g~ {{h}}"
    provenance["evaluation"][0]["source"] = provenance["evaluation"][1]["source"] = value
    page = MarkdownIt("commonmark").enable("table").render(body(model_card(provenance)))
    shown = re.search(r"<td><code>(.*?)</code>", page)[1]
    assert html.unescape(shown) == value


# What people wrote


@pytest.fixture
def old(provenance):
    return model_card(provenance)


@pytest.fixture
def new(provenance):
    provenance = copy.deepcopy(provenance)
    provenance["versions"]["torch"] = "99.0"
    provenance["pruning"] |= {"pattern": "2:4", "sparsity": None}
    del provenance["evaluation"]
    return model_card(provenance)


def test_without_an_old_card_the_new_one_is_written(new):
    for nothing in (None, "", " \n"):
        assert merge_card(nothing, new) == new


def test_an_untouched_card_is_replaced(old, new):
    """Also its numbers: the new checkpoint was not evaluated, so none may be left."""
    assert merge_card(old, new) == new
    assert merge_card(new, new) == new
    assert merge_card(old, old) == old


def test_what_stands_around_our_part_is_kept(old, new):
    before, after = (
        "\n# My title\n\nSome words.\n\n",
        "\n## More\n\n| a |\n|---|\n| 1 |\n\n---\n\nThe end, no newline",
    )
    head, text = old.split("\n---\n", 1)
    merged = merge_card(f"{head}\n---\n{before}{text.strip()}{after}", new)
    head, text = new.split("\n---\n", 1)
    assert merged == f"{head}\n---\n{before}{text.strip()}{after}"
    assert merge_card(merged, new) == merged


def test_metadata_that_is_not_ours_is_kept(old, new):
    theirs = (
        "language: no\nthumbnail: https://a.b/c.png\ninference: false\nreleased: 2026-01-02\n"
        "extra_gated_prompt: |-\n  Say: 'yes'\n  --- or no\n"
    )
    edited = old.replace("---\n", f"---\n{theirs}", 1).replace("tags:\n", "tags:\n- math\n- 1:4\n")
    data = ModelCard(merge_card(edited, new)).data.to_dict()
    expected = ModelCard(new).data.to_dict()
    assert (data["language"], data["thumbnail"], data["inference"]) == ("no", "https://a.b/c.png", False)
    assert data["extra_gated_prompt"] == "Say: 'yes'\n--- or no"
    assert data["released"] == "2026-01-02"
    assert data["tags"] == [*expected["tags"], "math"]
    assert {name: data[name] for name in expected if name != "tags"} == {
        name: item for name, item in expected.items() if name != "tags"
    }
    assert "model-index" not in data
    assert merge_card(merge_card(edited, new), new) == merge_card(edited, new)


def test_metadata_that_we_state_is_what_we_state(old, new):
    edited = old.replace("license: apache-2.0", "license: mit").replace("pipeline_tag: text-generation", "pipeline_tag: x")
    assert edited != old
    assert merge_card(edited, new) == new


def test_results_that_a_user_added_are_kept(new):
    theirs = "---\nmodel-index:\n- name: m\n  results: []\ntags: solo\nlicense: mit\n---\nText\n"
    merged = merge_card(theirs, new)
    assert "model-index" in merged.split("\n---\n")[0]
    assert merge_card(merged, new) == merged
    assert "- solo\n" in merged


def test_a_foreign_card_is_kept_whole_below(new):
    theirs = "# Made by hand\n\nWords.\n\n## Part\n\n- a\n"
    for card in (theirs, f"---\nfoo: bar\n---\n{theirs}", f"\ufeff---\nfoo: bar\n---\n\n{theirs}"):
        merged = merge_card(card, new)
        assert merged.endswith(f"\n\n{theirs}")
        assert body(merged).startswith(body(new).rstrip("\n"))
        assert ("foo: bar" in merged) == ("foo" in card)
        assert merge_card(merged, new) == merged
        assert merge_card(merged, new).count("# Made by hand") == 1


def test_line_ends_of_windows(old, new):
    theirs = old.replace("<!-- optimum-ssgr begins", "Mine.\n\n<!-- optimum-ssgr begins").replace("\n", "\r\n")
    merged = merge_card(theirs, new)
    assert merged == new.replace("<!-- optimum-ssgr begins", "Mine.\n\n<!-- optimum-ssgr begins")
    assert merge_card(old.replace("\n", "\r\n"), new) == new


@pytest.mark.parametrize("lost", ["begin", "end", "both", "order", "twice"])
def test_marks_that_were_edited_away(old, new, lost):
    """Nothing that may be a user's is lost, and the next card goes in its place again."""
    begin = re.search("<!-- optimum-ssgr begins.*?-->", old)[0]
    end = "<!-- optimum-ssgr ends -->"
    edited = old + "\nMine.\n"
    if lost in ("begin", "both"):
        edited = edited.replace(begin, "")
    if lost in ("end", "both"):
        edited = edited.replace(end, "")
    if lost == "order":
        edited = edited.replace(begin, "\0").replace(end, begin).replace("\0", end)
    if lost == "twice":
        edited += old.split("\n---\n", 1)[1]
    merged = merge_card(edited, new)
    assert body(merged).startswith(body(new).rstrip("\n"))
    assert "\nMine.\n" in merged
    assert "solved" in merged
    assert (merged.count("<!-- optimum-ssgr begins"), merged.count(end)) == (1, 1)
    assert merge_card(merged, new) == merged
    assert body(merge_card(merged, old)).startswith(body(old).rstrip("\n"))


@pytest.mark.parametrize(
    "broken", ["---\na: [\n---\nText\n", "---\n- a\n---\nText\n", "---\na: !!python/object:os.x {}\n---\n"]
)
def test_metadata_that_cannot_be_read_is_not_thrown_away(new, broken):
    with pytest.raises(DataError, match="is not valid YAML; mend or remove it"):
        merge_card(broken, new)


def test_where_both_cards_were_edited_the_folders_counts_and_the_others_commit_is_named(tmp_path, provenance, caplog):
    (tmp_path / "ssgr_config.json").write_text(json.dumps(provenance))
    untouched = model_card(provenance, "me/model")
    mine, theirs, older = (text + "\nHere.\n" for text in (untouched, untouched + "\nThere.\n", model_card(provenance)))
    for local, there, expected in (
        (untouched, theirs, theirs),
        (mine, untouched, mine),
        (mine, None, mine),
        (mine, older, mine),  # nothing is lost
        (mine, theirs, mine),
    ):
        (tmp_path / "README.md").write_text(local)
        assert COMMIT not in caplog.text
        assert card_for(tmp_path, "me/model")(there, COMMIT) == expected
    [warning] = caplog.messages
    assert "the folder's counts" in warning and f"commit {COMMIT}" in warning


def test_a_card_that_is_not_text_is_not_thrown_away(tmp_path, provenance):
    (tmp_path / "ssgr_config.json").write_text(json.dumps(provenance))
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8 text; mend or remove it"):
        card_for(tmp_path, "me/model")
