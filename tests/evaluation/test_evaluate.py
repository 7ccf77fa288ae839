import copy
import math
import shutil

import pytest
import torch
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, parse_eval_result_entries
from safetensors.torch import load_file, save_file

from optimum_ssgr import SamplingConfig, load_problems
from optimum_ssgr.checkpoints.load import load_skeleton
from optimum_ssgr.errors import ConfigError, DataError
from optimum_ssgr.evaluation.benchmarks import BENCHMARKS, find_benchmark, lighteval_command
from optimum_ssgr.evaluation.evaluate import evaluate
from optimum_ssgr.evaluation.perplexity import perplexity, windows_of
from optimum_ssgr.evaluation.results import card_metadata, leaderboard_files, result_row
from optimum_ssgr.problems.sources import SOURCES
from optimum_ssgr.reasoner import WEIGHTS
from optimum_ssgr.rollouts.store import rollout_fingerprint


def repeats(model, token):
    """Make the model write one token for ever: its layers add nothing, and the token's embedding outshines the others."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.get_input_embeddings().weight.fill_(1)
        model.get_input_embeddings().weight[token] = 2
        model.model.norm.weight.fill_(1)
    return model


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_a_model_that_repeats_itself(reasoner, temperature):
    model, tokenizer = reasoner
    token = tokenizer.convert_tokens_to_ids("a")
    sampling = SamplingConfig(temperature=temperature, max_new_tokens=80)
    graded = evaluate(repeats(model, token), tokenizer, load_problems("tiny-reasoner", limit=3), sampling, samples=2)
    assert {item.rollout.response_ids for item in graded} == {(token,) * 80}
    row = result_row("stub", "tiny-reasoner", "test", graded)
    shares = {name: row[name] for name in ("accuracy", "truncated", "looping", "missing_think_end")}
    assert shares == {"accuracy": 0, "truncated": 1, "looping": 1, "missing_think_end": 1}
    assert (row["n"], row["samples"], row["responses"], row["p95_tokens"]) == (3, 2, 6, 80)
    assert [(k, of["value"], of["se"]) for k, of in row["pass_at_k"].items()] == [("1", 0, 0), ("2", 0, 0)]
    assert row["accuracy_ci95"][1] > 0.6  # 3 problems are few


def test_a_fingerprint_tells_prunings_apart(reasoner):
    model, tokenizer = reasoner
    pruned = copy.deepcopy(model)
    pruned.model.layers[3].mlp.up_proj.weight.data[0, 0] = 0
    prints = [rollout_fingerprint(of, tokenizer, SamplingConfig()) for of in (model, model, pruned)]
    assert prints[0] == prints[1]
    assert {key for key in prints[0] if prints[0][key] != prints[2][key]} == {"weights"}


def test_a_fingerprint_tells_prunings_apart_that_servers_are_given(reasoner, tmp_path):
    """Also where one took the folder of the other: the weights are not loaded here."""
    shutil.copytree(WEIGHTS, tmp_path / "model")
    prints = []
    for value in (None, None, 0.0):
        if value is not None:
            weights = load_file(tmp_path / "model" / "model.safetensors")
            weights["model.layers.3.mlp.up_proj.weight"][0, 0] = value
            save_file(weights, tmp_path / "model" / "model.safetensors")
        skeleton = load_skeleton(str(tmp_path / "model"))
        prints.append(rollout_fingerprint(skeleton, reasoner[1], SamplingConfig(), "vllm"))
    assert prints[0] == prints[1]
    assert {key for key in prints[0] if prints[0][key] != prints[2][key]} == {"weights"}


def test_a_fingerprint_tells_what_decides_the_bits(reasoner):
    model, tokenizer = reasoner
    rounded = copy.deepcopy(model).to(torch.bfloat16)

    def differ(*changed, of=model):
        given, other = (
            rollout_fingerprint(*call) for call in ((model, tokenizer, SamplingConfig()), (of, tokenizer, *changed))
        )
        return {key for key in {*given, *other} if given.get(key) != other.get(key)}

    sampling = SamplingConfig()
    assert differ(sampling) == set()
    assert differ(sampling, "transformers", 8) == {"batch_size"}
    assert differ(SamplingConfig(seed=1)) == {"sampling"}
    assert {"dtype"} <= differ(sampling, of=rounded) <= {"dtype", "weights"}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert rollout_fingerprint(model, tokenizer, sampling)["threads"] == threads + 1
    finally:
        torch.set_num_threads(threads)
    # Servers batch as they please, on whatever they run on: how many are asked at a time decides nothing that is promised.
    servers = [
        rollout_fingerprint(model, tokenizer, sampling, f"http://{host}/v1", size) for host, size in (("a", 4), ("b", 8))
    ]
    assert servers[0] == servers[1]
    assert "engine" in differ(sampling, "http://a/v1")


ROW = {"model": "me/sparse", "n": 1319, "samples": 4, "accuracy": 0.83014, "accuracy_se": 0.0151, "split": "test"}


def test_results_for_a_card_name_the_known_data_set(tmp_path):
    local = tmp_path / "own.jsonl"
    local.touch()
    rows = [ROW | {"problems": str(local)}, ROW | {"problems": "openai/gsm8k"}]
    card = ModelCard(f"---\n{card_metadata('me/sparse', rows, {'openai/gsm8k': 'e53f048'})}---\n")
    (result,) = card.data.eval_results
    assert (card.data.model_name, result.dataset_type, result.dataset_config) == ("sparse", "openai/gsm8k", "main")
    assert (result.dataset_split, result.dataset_revision, result.metric_type) == ("test", "e53f048", "accuracy")
    assert result.metric_value == 0.83014
    assert result.metric_args == {"standard_error": 0.0151, "problems": 1319, "samples": 4}
    all_right = rows[1] | {"accuracy": 1.0, "accuracy_se": 0.0, "accuracy_ci95": [0.9971, 1.0]}
    (result,) = ModelCard(f"---\n{card_metadata('me/sparse', [all_right], {})}---\n").data.eval_results
    assert result.metric_args == {"ci95": [0.9971, 1.0], "problems": 1319, "samples": 4}


def test_results_for_leaderboards_are_in_percent_and_of_registered_benchmarks_alone():
    sets = ("openai/gsm8k", "Idavidrein/gpqa", "HuggingFaceH4/MATH-500", "own.jsonl")
    rows = [ROW | {"problems": name} for name in sets]
    files = leaderboard_files(rows, SamplingConfig(), {"openai/gsm8k": "e53f048"})
    read = {name: parse_eval_result_entries(yaml.safe_load(text)) for name, text in files.items()}
    notes = "pass@1, mean of 4 samples, standard error 1.51, temperature 0.6, top-p 0.95, at most 32768 tokens"
    assert read == {
        "gsm8k.yaml": [EvalResultEntry("openai/gsm8k", "gsm8k", 83.01, dataset_revision="e53f048", notes=notes)],
        "gpqa.yaml": [EvalResultEntry("Idavidrein/gpqa", "diamond", 83.01, notes=notes)],
    }
    none = rows[0] | {"accuracy": 0.0, "accuracy_se": 0.0, "accuracy_ci95": [0.0, 0.0029]}
    (text,) = leaderboard_files([none], SamplingConfig(), {}).values()
    assert "95 % interval 0.00 to 0.29" in text and "standard error" not in text
    assert "greedy" in leaderboard_files(rows, SamplingConfig(temperature=0), {})["gpqa.yaml"]


def test_presets_are_known_sets_with_an_instruction():
    known = {source.id: source for source in SOURCES}
    for preset in BENCHMARKS.values():
        assert known[preset.problems].instruction
        assert find_benchmark(preset.problems.lower()) is preset


def test_cross_check_asks_the_same():
    sets = ["HuggingFaceH4/MATH-500", "openai/gsm8k", "yentinglin/aime_2025"]
    command = lighteval_command("me/model", sets, SamplingConfig(), "bfloat16")
    assert '"math_500|0,aime25_avg|0"' in command
    assert "generation_parameters={max_new_tokens:32768,temperature:0.6,top_p:0.95}" in command
    assert lighteval_command("me/model", ["openai/gsm8k"], SamplingConfig()) is None


def test_perplexity_against_every_token_by_itself(reasoner):
    model, tokenizer = reasoner
    windows = windows_of(tokenizer, ["The list is copied.", "It returns the number of items in the list. " * 9], 24, 5)
    assert windows.shape == (5, 24)
    assert set(windows[:, 0].tolist()) == {tokenizer.bos_token_id}
    text = tokenizer.decode(windows[:, 1:].flatten())
    assert text.startswith("The list is copied.\nIt returns the number")
    with torch.no_grad():
        scores = model(windows).logits.log_softmax(dim=-1)
    losses = [-scores[row, place, windows[row, place + 1]].item() for row in range(5) for place in range(23)]
    assert perplexity(model, windows) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    with pytest.raises(ConfigError, match="a window of text has 1025 tokens but the model's context holds 1024"):
        perplexity(model, torch.zeros(1, 1025, dtype=torch.long))
    with pytest.raises(DataError, match="less than one window of 23"):
        windows_of(tokenizer, ["short"], 24)
