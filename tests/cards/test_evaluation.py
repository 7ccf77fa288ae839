"""Results on a card: only those of the checkpoint's own weights, dense beside sparse, replaced when measured again."""

import json
import shutil
from functools import partial

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from optimum_ssgr.cards.evaluation import attach_evaluation, evaluation_rows
from optimum_ssgr.checkpoints.identity import hash_weights
from optimum_ssgr.errors import DataError
from tests.cards.test_render import CARDS, COMMIT, cells


def measured(model, problems="org/set", split="test", accuracy=0.5):
    row = {"model": model, "problems": problems, "split": split, "n": 10, "samples": 2, "responses": 20, "accuracy": accuracy}
    lengths = {"mean_tokens": 90.0, "median_tokens": 80.0, "p95_tokens": 200.0}
    return row | lengths | {"accuracy_se": 0.1, "truncated": 0.05, "missing_think_end": None, "looping": 0.0}


def write_results(results, models, *rows):
    """Write what `ssgr evaluate` would have written, and return its folder."""
    results.mkdir(exist_ok=True)
    problems = {row["problems"]: {"read_from": [f"{row['problems']}@{COMMIT}"], "instruction": ""} for row in rows}
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 1000, "seed": 0}
    record = {"sampling": sampling, "models": models, "problems": problems, "rows": rows}
    (results / "results.json").write_text(json.dumps(record))
    return results


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint that was pruned from `tiny-reasoner`, not evaluated yet."""
    folder = tmp_path / "sparse"
    shutil.copytree(CARDS / "model", folder)
    provenance = json.loads((folder / "ssgr_config.json").read_text())
    del provenance["evaluation"]
    (folder / "ssgr_config.json").write_text(json.dumps(provenance))
    save_file({"w": torch.arange(4.0)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def evaluated(checkpoint):
    return partial(write_results, checkpoint.parent / "results")


def test_rows_of_the_checkpoint_and_of_the_model_it_was_made_from(checkpoint, evaluated):
    """By its weights, whatever it was called; those of a third model are left out."""
    models = {
        "tiny-reasoner": {"commit": None, "weights": {"model.safetensors": "0" * 64}},
        "another": {"commit": None, "weights": {"model.safetensors": "1" * 64}},
        "old/place": {"commit": None, "weights": hash_weights(checkpoint)},
    }
    results = evaluated(models, measured("another"), measured("old/place", accuracy=0.25), measured("tiny-reasoner"))
    attach_evaluation(checkpoint, evaluation_rows(results, checkpoint))
    card = (checkpoint / "README.md").read_text()
    assert "another" not in card and "old/place" not in card
    assert card.index("`dense` | 50.0 % +- 10.0 % | 10 x 2 |") < card.index("`sparse` | 25.0 % +- 10.0 % | 10 x 2 |")
    assert "Temperature 0.6, top-p 0.95, at most 1,000 new tokens." in card
    [result] = ModelCard(card).data.eval_results
    assert (result.dataset_type, result.dataset_revision, result.metric_value) == ("org/set", COMMIT, 0.25)
    assert result.metric_args == {"standard_error": 0.1, "problems": 10, "samples": 20}


def test_the_perplexity_on_general_text_where_it_was_measured(checkpoint, evaluated):
    """Dense beside sparse; an evaluation without it says nothing of it, and keeps what was measured with other problems."""
    models = {
        "tiny-reasoner": {"commit": None, "weights": {"model.safetensors": "0" * 64}},
        "sparse": {"commit": None, "weights": hash_weights(checkpoint)},
    }
    attach_evaluation(checkpoint, evaluation_rows(evaluated(models, measured("sparse", "org/other")), checkpoint))
    assert "perplexity" not in (checkpoint / "README.md").read_text()
    rows = [measured(name) | {"text_perplexity": value} for name, value in (("sparse", 23.456), ("tiny-reasoner", 11.321))]
    results = evaluated(models, *rows)
    path = results / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text": "/home/someone/secret/text.txt"}))
    attach_evaluation(checkpoint, evaluation_rows(results, checkpoint))
    card = (checkpoint / "README.md").read_text()
    names, _, other, dense, sparse = cells(card, "Evaluation")
    assert [row[-1] for row in (names, other, dense, sparse)] == ["perplexity", "-", "11.3", "23.5"]
    assert {len(row) for row in (names, other, dense, sparse)} == {8} and (dense[1], sparse[1]) == ("`dense`", "`sparse`")
    assert '"perplexity" is that on general text, `text.txt`.\n' in card and "secret" not in card


def test_what_was_measured_by_kind_comes_along(checkpoint, evaluated):
    models = {"sparse": {"commit": None, "weights": hash_weights(checkpoint)}}
    numbers = {"problems": 5, "accuracy": 0.5, "accuracy_se": 0.1, "accuracy_ci95": [0.3, 0.7]}
    by_kind = {"kinds": {"sum": numbers, "walk": numbers | {"accuracy": 0.4}}, "worst_kind": "walk"}
    by_kind |= {"worst_kind_accuracy": 0.4, "worst_kind_accuracy_se": 0.1}
    [row] = evaluation_rows(evaluated(models, measured("sparse") | by_kind), checkpoint)
    assert (row.kinds, row.worst_kind, row.worst_kind_accuracy) == (by_kind["kinds"], "walk", 0.4)
    attach_evaluation(checkpoint, [row])
    assert "is `walk` with 40.0 % +- 10.0 %." in (checkpoint / "README.md").read_text()


def test_what_is_measured_again_takes_the_place_of_what_was(checkpoint, evaluated):
    models = {"sparse": {"commit": None, "weights": hash_weights(checkpoint)}}
    (checkpoint / "README.md").write_text((checkpoint / "README.md").read_text() + "\nMine.\n")
    for row in (measured("sparse"), measured("sparse", "org/other"), measured("sparse", accuracy=0.75)):
        attach_evaluation(checkpoint, evaluation_rows(evaluated(models, row), checkpoint))
    card = (checkpoint / "README.md").read_text()
    assert [result.metric_value for result in ModelCard(card).data.eval_results] == [0.5, 0.75]
    assert "Mine." in card
    attach_evaluation(checkpoint, evaluation_rows(evaluated(models, row), checkpoint))
    assert (checkpoint / "README.md").read_text() == card


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"commit": None, "weights": {"model.safetensors": "0" * 64}}, "with other weights than those in"),
        ({"commit": None, "weights": None}, "with other weights than those in"),
        ({"commit": None, "weights": {}}, "with other weights than those in"),
        ("sparse", "damaged or from another version"),
    ],
)
def test_results_of_something_else_are_refused(checkpoint, evaluated, known, words):
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    with pytest.raises(DataError, match=words):
        evaluation_rows(evaluated({"sparse": known}, measured("sparse")), checkpoint)
    assert {path: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_the_dense_model_alone_says_nothing_of_the_checkpoint(checkpoint, evaluated):
    models = {"tiny-reasoner": {"commit": None, "weights": {"model.safetensors": "0" * 64}}}
    with pytest.raises(DataError, match="an evaluation of tiny-reasoner with other weights"):
        evaluation_rows(evaluated(models, measured("tiny-reasoner")), checkpoint)


def test_folders_that_are_something_else(checkpoint, tmp_path):
    with pytest.raises(DataError, match=r"holds no results\.json; name the folder that `ssgr evaluate --output` wrote"):
        evaluation_rows(tmp_path, checkpoint)
    with pytest.raises(DataError, match="an evaluation belongs to a checkpoint"):
        evaluation_rows(tmp_path, CARDS / "dataset")
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"results\.json is damaged"):
        evaluation_rows(tmp_path, checkpoint)
