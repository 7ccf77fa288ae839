import json
import re
from html import unescape
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from optimum_ssgr.chat.compared_models import ComparedModel, describe_model
from optimum_ssgr.chat.results import render_accuracy, render_funnel, render_heat_map, render_kinds, render_links


def cells_of(html):
    return [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)]


@pytest.mark.slow
def test_a_pruned_checkpoint_says_who_it_is(models):
    dense, text, cover = map(describe_model, models)
    assert (dense.title, dense.sparsity, dense.provenance) == ("Dense", 0.0, {})
    assert "generic text" in text.title and "own traces of every kind" in cover.title
    assert "SparseGPT, 50%" in cover.details and cover.base_model == "tiny-reasoner"


def test_a_damaged_provenance_counts_as_dense(tmp_path):
    for content in ("{", "[]", '{"pruning": 3}', '{"pruning": {"method": "x"}, "sparsity": {"sparsity_of_prunable": "y"}}'):
        (tmp_path / "ssgr_config.json").write_text(content)
        assert describe_model(str(tmp_path)).title == "Dense"


@pytest.mark.slow
def test_the_heat_map_is_what_the_weights_say(models):
    html = render_heat_map(describe_model(models[2]))
    weights = load_file(Path(models[2]) / "model.safetensors")
    rows = dict(re.findall(r'<th scope="row">([^<]+)</th>(.*?)</tr>', html))
    assert len(rows) == 7
    for kind, row in rows.items():
        shown = [float(value) for value in re.findall(r">([\d.]+)<", row)]
        counted = [100 * (weights[f"model.layers.{block}.{kind}.weight"] == 0).float().mean() for block in range(4)]
        assert torch.allclose(torch.tensor(shown), torch.tensor(counted), atol=0.06)


@pytest.mark.slow
def test_the_funnel_is_that_of_the_manifest(models):
    counts = describe_model(models[2]).calibration["counts"]
    shown = [int(cell.replace(",", "")) for cell in cells_of(render_funnel(describe_model(models[2])))[2::3]]
    stages = ("problems", "rollouts", "finished", "correct", "sequences")
    assert shown == [counts[stage] for stage in stages]


def test_reports_of_demo_and_study_are_shown(tmp_path):
    numbers = {"problems": 400, "accuracy": 0.9, "accuracy_se": 0.01, "mean_tokens": 85.0, "truncated": 0.02}
    row = numbers | {"method": "wanda", "strategy": "ssgr", "sparsity": 0.5}
    (tmp_path / "report.json").write_text(json.dumps({"dense": numbers, "rows": [row]}))
    assert cells_of(render_accuracy(tmp_path))[5:] == ["Wanda, 50%", "own traces (SSGR)", "90.0% ± 1.0%", "85", "2.0%"]
    solved_none = row | {"accuracy": 0.0, "accuracy_se": 0.0, "accuracy_ci95": [0.0, 0.0096]}
    (tmp_path / "report.json").write_text(json.dumps({"dense": numbers, "rows": [solved_none]}))
    assert "0.0% (0.0% to 1.0%)" in cells_of(render_accuracy(tmp_path))
    study = numbers | {"method": "wanda", "calibration": "text", "sparsity": 0.5, "problems": "<b>set</b>"}
    (tmp_path / "report.json").write_text(json.dumps({"dense": {"sets": {"<b>set</b>": numbers}}, "rows": [study]}))
    assert "<b>" not in render_accuracy(tmp_path) and "<b>set</b>" in unescape(render_accuracy(tmp_path))


def test_a_report_by_kind_shows_the_worst_one_beside_the_mean(tmp_path):
    kinds = {
        "<i>sum</i>": {"problems": 300, "accuracy": 0.95, "accuracy_se": 0.01, "accuracy_ci95": [0.9, 1.0]},
        "walk": {"problems": 100, "accuracy": 0.6, "accuracy_se": 0.05, "accuracy_ci95": [0.5, 0.7]},
    }
    numbers = {"problems": 400, "accuracy": 0.9, "accuracy_se": 0.01, "mean_tokens": 85.0, "truncated": 0.02}
    numbers |= {"kinds": kinds, "worst_kind": "walk", "worst_kind_accuracy": 0.6, "worst_kind_accuracy_se": 0.05}
    row = numbers | {"method": "wanda", "calibration": "self", "sparsity": 0.5}
    row["kinds"] = kinds | {"walk": kinds["walk"] | {"accuracy": 0.2, "accuracy_se": None}}
    (tmp_path / "report.json").write_text(json.dumps({"dense": numbers, "rows": [row]}))
    html = render_accuracy(tmp_path)
    cells = cells_of(html)
    assert cells[:6] == ["dense", "", "90.0% ± 1.0%", "walk 60.0% ± 5.0%", "85", "2.0%"]
    assert cells[9] == "walk 20.0% (50.0% to 70.0%)"
    assert cells[12:] == [
        *("dense", "", "95.0% ± 1.0%", "60.0% ± 5.0%"),
        *("Wanda, 50%", "own correct traces", "95.0% ± 1.0%", "20.0% (50.0% to 70.0%)"),
    ]
    assert "<th scope='col'>&lt;i&gt;sum&lt;/i&gt; (300)</th>" in html


def test_kinds_of_the_calibration_problems():
    kinds = {
        "<i>sum</i>": {"problems": 3, "correct": 4, "pass_rate": 0.5, "pool_share": 0.25, "selected_share": 0.0},
        "walk": {"problems": 1, "correct": 9, "pass_rate": None, "pool_share": 0.75, "selected_share": 1.0},
    }
    html = render_kinds(ComparedModel("m", provenance={"calibration": {"kinds": kinds}}))
    assert cells_of(html) == ["&lt;i&gt;sum&lt;/i&gt;", "50%", "25.0%", "0.0%", "walk", "-", "75.0%", "100.0%"]
    assert render_kinds(ComparedModel("m")) == ""


def test_no_report_and_a_damaged_one_show_nothing(tmp_path):
    assert render_accuracy(None) == render_accuracy(tmp_path) == ""
    for content in ("{", "[]", '{"rows": [{}]}', '{"rows": [{"problems": 1}], "dense": {}}'):
        (tmp_path / "report.json").write_text(content)
        assert render_accuracy(tmp_path) == ""


def test_links_lead_to_the_hub_and_names_are_escaped():
    calibrated = {"calibration": {"problems": {"source": "openai/gsm8k:main"}}}
    html = render_links([ComparedModel("org/model"), ComparedModel("<script>", provenance=calibrated)])
    assert 'href="https://huggingface.co/org/model"' in html
    assert 'href="https://huggingface.co/datasets/openai/gsm8k"' in html
    assert "<script>" not in html
