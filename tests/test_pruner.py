"""The whole way on the embedded reasoner: generate, verify, select, prune, save, reload, evaluate."""

import copy
import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from transformers import GenerationConfig

from optimum_ssgr import CalibrationConfig, CalibrationSet, PruningConfig, SamplingConfig, SSGRPruner
from optimum_ssgr.errors import ConfigError, DataError, ModelError, NumericalError
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.problems.sources import BOXED
from optimum_ssgr.pruning.blocks import find_blocks, find_matrices
from optimum_ssgr.pruning.solvers.magnitude import magnitude
from optimum_ssgr.pruning.solvers.sparsegpt import factorize, sparsegpt
from optimum_ssgr.pruning.solvers.wanda import wanda

from .models import random_model
from .problems.local_copy import write_gsm8k
from .pruning.naive import naive_magnitude, naive_sparsegpt, naive_wanda, reconstruction_error
from .pruning.test_solvers import PATTERNS, assert_close_where_agreeing, named, statistics


CONFIG = CalibrationConfig(num_sequences=None, num_tokens=2000, samples_per_problem=4, max_new_tokens=300, pass_rate=(0.2, 0.9))


@pytest.fixture(scope="module")
def rollouts(reasoner):
    return SSGRPruner(*reasoner).generate_rollouts(load_problems("tiny-reasoner", limit=48, seed=5), CONFIG, batch_size=192)


@pytest.fixture(scope="module")
def calibration(reasoner, rollouts):
    return SSGRPruner(*reasoner).build_calibration(config=CONFIG, rollouts=rollouts)


@pytest.fixture
def pruner(reasoner):
    model, tokenizer = reasoner
    return SSGRPruner(copy.deepcopy(model), tokenizer)


@pytest.mark.slow
def test_rollouts_spread_over_difficulty(rollouts):
    solved = {}
    for item in rollouts:
        solved.setdefault(item.problem.id, []).append(item.verdict.correct)
    assert {len(found) for found in solved.values()} == {4}
    assert sum(0 < sum(found) < 4 for found in solved.values()) >= 10
    assert all(item.rollout.finished or not item.verdict.correct for item in rollouts)


@pytest.mark.slow
def test_calibration_tokens_are_the_generated_ones(pruner, rollouts, calibration):
    """What goes into the model is byte for byte what it wrote, although the chat template would drop the thinking."""
    fed = []
    pruner.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: fed.extend(args[0].tolist()))
    pruner.prune(calibration, PruningConfig(method="wanda", sparsity=0.5))
    generated = {(item.problem.id, item.rollout.sample): item for item in rollouts}
    rows = list(calibration.dataset)
    for row in rows:
        item = generated[row["problem_id"], row["sample"]]
        whole = list(item.rollout.prompt_ids + item.rollout.response_ids)
        ids = row["prompt_ids"] + row["response_ids"]
        assert ids == whole or row is rows[-1]
        assert any(line[: len(ids)] == ids for line in fed)
        conversation = [
            {"role": "user", "content": item.problem.question},
            {"role": "assistant", "content": "<think>\n" + item.text.removesuffix("<|end|>")},
        ]
        rendered = pruner.tokenizer.apply_chat_template(conversation, return_dict=False)
        assert len(rendered) < len(whole)  # the trap is there


@pytest.fixture(scope="module")
def real_layers(reasoner, calibration):
    """The reasoner's own first and last linear layers, with the inputs that its own traces give them."""
    model, _ = reasoner
    blocks, layers = find_blocks(model), []
    for name, key in (("model.layers.0", "self_attn.q_proj"), ("model.layers.3", "mlp.down_proj")):
        matrix, seen = find_matrices(name, blocks[name])[f"{key}.weight"], []
        hook = matrix.module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0][0]))
        with torch.no_grad():
            for sequence in calibration.sequences:
                model(torch.tensor([sequence]))
        hook.remove()
        layers.append((matrix.weight()[:32].clone(), torch.cat(seen)))
    return layers


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_naive_parity_on_real_layers(real_layers, pattern):
    for weight, inputs in real_layers:
        gathered = statistics(inputs)
        theirs, mask = naive_magnitude(weight, **named(pattern))
        assert torch.equal(magnitude(weight, pattern).double(), theirs)
        theirs, mask = naive_wanda(weight, inputs, **named(pattern))
        assert_close_where_agreeing(wanda(weight, gathered.squared_norms, pattern), theirs, mask)
        theirs, mask, _ = naive_sparsegpt(weight, inputs, **named(pattern))
        [ours] = sparsegpt([weight], *factorize(gathered.hessian, 0.01), pattern)
        assert_close_where_agreeing(ours, theirs, mask)
        assert reconstruction_error(weight, ours, inputs) == pytest.approx(
            reconstruction_error(weight, theirs, inputs), rel=1e-3
        )


@pytest.mark.slow
def test_a_saved_model_loads_in_a_fresh_process(pruner, calibration, tmp_path):
    report = pruner.prune(calibration, PruningConfig(pattern="2:4"))
    pruner.save_pretrained(tmp_path / "out")
    code = (
        "import sys, json, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "zeros = sum(int((p == 0).sum()) for n, p in model.named_parameters() if '_proj' in n)\n"
        "ids = tokenizer.apply_chat_template([{'role': 'user', 'content': 'Count the digit 3.\\na 3'}],"
        " add_generation_prompt=True, return_tensors='pt', return_dict=True)\n"
        "out = model.generate(**ids, max_new_tokens=8, do_sample=False)\n"
        "tied = model.lm_head.weight is model.model.embed_tokens.weight\n"
        "print(json.dumps([zeros, out[0].tolist(), tied, 'optimum_ssgr' in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, check=True)
    zeros, generated, tied, ours = json.loads(done.stdout.splitlines()[-1])
    assert (zeros, tied, ours) == (report.zeros, True, False)
    ids = torch.tensor([generated[:-8]])
    expected = pruner.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert generated == expected[0].tolist()
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "ssgr_config.json", "README.md", "chat_template.jinja", "generation_config.json"} <= files
    assert not any(name.endswith((".bin", ".pt")) for name in files)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.slow
def test_provenance_and_card(pruner, calibration, tmp_path):
    report = pruner.prune(calibration, PruningConfig(method="wanda", sparsity=0.6))
    pruner.save_pretrained(tmp_path / "out")
    provenance = json.loads((tmp_path / "out" / "ssgr_config.json").read_text())
    assert provenance["base_model"] == "tiny-reasoner"
    assert provenance["pruning"] == PruningConfig(method="wanda", sparsity=0.6, true_sequential=True).to_dict()
    assert provenance["calibration"] == calibration.manifest.to_dict()
    assert provenance["sparsity"]["zeros"] == report.zeros
    assert len(provenance["sparsity"]["layers"]) == 28
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n")
    assert f"{report.zeros:,} of the {report.prunable:,} weights" in card
    assert calibration.manifest.content_hash in card


@pytest.mark.slow
def test_same_seed_same_files(reasoner, tmp_path):
    config = dataclasses.replace(CONFIG, num_tokens=500)
    for name in ("first", "second"):
        model, tokenizer = reasoner
        pruner = SSGRPruner(copy.deepcopy(model), tokenizer)
        problems = load_problems("tiny-reasoner", limit=8, seed=5)
        calibration = pruner.build_calibration(problems, config, output_dir=tmp_path / name / "calibration")
        pruner.prune(calibration, PruningConfig(sparsity=0.5))
        pruner.save_pretrained(tmp_path / name / "model")
    files = [path for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes(), path.name


@pytest.mark.slow
def test_evaluation_of_dense_and_destroyed(pruner):
    problems = load_problems("tiny-reasoner", split="dev", limit=30)
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=300)
    dense = pruner.evaluate(problems, sampling, batch_size=30)
    pruner.prune(config=PruningConfig(method="magnitude", sparsity=0.95))
    destroyed = pruner.evaluate(problems, sampling, batch_size=30)
    assert dense["accuracy"] > 0.7 > 0.1 > destroyed["accuracy"]
    assert (dense["problems"], dense["samples"]) == (30, 30)
    assert destroyed["missing_think_end"] > dense["missing_think_end"]


def test_the_name_of_a_known_data_set_brings_its_instruction(pruner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_gsm8k(tmp_path)

    name, problems, config = "openai/gsm8k", load_problems("openai/gsm8k"), CalibrationConfig(strategy="prompts")
    named = pruner.build_calibration(name, config)
    assert named.manifest.instruction == BOXED
    assert all(BOXED in pruner.tokenizer.decode(ids) for ids in named.sequences)
    assert named.sequences == pruner.build_calibration(problems, config, instruction=BOXED).sequences
    bare = pruner.build_calibration(name, config, instruction="")
    assert bare.manifest.instruction == ""
    assert bare.sequences == pruner.build_calibration(problems, config).sequences != named.sequences

    sampled = CalibrationConfig(strategy="rac", samples_per_problem=1, max_new_tokens=4)
    rollouts = pruner.generate_rollouts(name, sampled)
    assert sorted(list(item.rollout.prompt_ids) for item in rollouts) == sorted(named.sequences)
    assert pruner.build_calibration(name, sampled, rollouts=rollouts).manifest.instruction == BOXED
    assert "instruction" not in pruner.build_calibration(config=sampled, rollouts=rollouts).manifest.to_dict()  # nobody said it

    fed = []
    pruner.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: fed.extend(args[0].tolist()))
    pruner.evaluate(name, SamplingConfig(max_new_tokens=4))
    asked = [pruner.tokenizer.decode(ids) for ids in fed[:2]]
    assert all("of test." in text and BOXED in text for text in asked)


@pytest.mark.slow
def test_building_is_generating_and_then_selecting(pruner, tmp_path):
    problems = load_problems("tiny-reasoner", limit=4)
    config = CalibrationConfig(strategy="rac", samples_per_problem=1, max_new_tokens=4)
    metadata = {"problems": {"source": "mine"}, "note": "by hand"}
    rollouts = pruner.generate_rollouts(problems, config)
    selected = pruner.select_calibration(
        rollouts, config, problems=problems, metadata=metadata, output_dir=tmp_path / "selected"
    )
    pruner.build_calibration(problems, config, metadata=metadata, output_dir=tmp_path / "built")
    names = {path.relative_to(tmp_path / "built") for path in (tmp_path / "built").rglob("*.*")}
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "built" / name).read_bytes() == (tmp_path / "selected" / name).read_bytes(), name
    manifest = json.loads((tmp_path / "built" / "manifest.json").read_text())
    assert (manifest["problems"], manifest["note"], manifest["instruction"]) == ({"source": "mine"}, "by hand", "")
    assert sorted(selected.sequences) == sorted(list(r.rollout.prompt_ids + r.rollout.response_ids) for r in rollouts)


def test_what_a_strategy_lacks_is_said_before_anything_is_generated(pruner):
    pruner.model.get_input_embeddings().register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    problems = load_problems("tiny-reasoner", limit=4)
    with pytest.raises(ConfigError, match="the strategy cover needs rollouts; generate them first"):
        pruner.select_calibration(problems=problems)
    for strategy in ("ssgr", "prompts"):
        with pytest.raises(ConfigError, match=f"the strategy {strategy} needs problems"):
            pruner.build_calibration(config=CalibrationConfig(strategy=strategy))
    for text, words in ((None, "needs general text"), (["a few words"], "less than one window")):
        with pytest.raises(DataError, match=words):
            pruner.build_calibration(problems, CalibrationConfig(strategy="mix", text_length=64), text=text)


@pytest.mark.slow
def test_calibration_from_disk_and_from_a_plain_data_set(reasoner, calibration, tmp_path):
    calibration.save_to_disk(tmp_path / "set")
    plain = Dataset.from_dict({"input_ids": calibration.sequences})
    weights = []
    for source in (calibration, tmp_path / "set", plain):
        model = copy.deepcopy(reasoner[0])
        SSGRPruner(model, reasoner[1]).prune(source, PruningConfig(sparsity=0.5))
        weights.append(model.model.layers[3].mlp.down_proj.weight)
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_another_models_calibration_set_is_refused(pruner, calibration):
    manifest = dataclasses.replace(calibration.manifest, tokenizer_hash="0", model="other/model")
    foreign = dataclasses.replace(calibration, manifest=manifest)
    with pytest.raises(DataError, match="made with the tokenizer of other/model"):
        pruner.prune(foreign, PruningConfig())
    with pytest.raises(DataError, match="no column input_ids"):
        pruner.prune(Dataset.from_dict({"text": ["a"]}), PruningConfig())


@pytest.mark.parametrize("layout", [None, "torch"])
def test_padding_of_a_data_set_is_not_calibrated_on(reasoner, layout):
    rows, weights = [[5, 6, 7, 8] * 10, [9, 5, 7] * 10, [6, 8] * 10], [[1.0] * 40, [0.5] * 30, [2.0] * 20]
    padded = {
        "input_ids": [rows[0], rows[1] + [0] * 10, [0] * 20 + rows[2]],
        "token_weights": [weights[0], weights[1] + [1.0] * 10, [1.0] * 20 + weights[2]],
        "attention_mask": [[1] * 40, [1] * 30 + [0] * 10, [0] * 20 + [1] * 20],
    }
    found = []
    for columns in ({"input_ids": rows, "token_weights": weights}, padded):
        pruner = SSGRPruner(copy.deepcopy(reasoner[0]), reasoner[1])
        pruner.prune(Dataset.from_dict(columns).with_format(layout), PruningConfig())
        found.append(pruner.model.state_dict())
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
    with pytest.raises(DataError, match="attention_mask of the calibration data set differ in length"):
        SSGRPruner(*reasoner).prune(Dataset.from_dict(padded | {"attention_mask": [[1]] * 3}), PruningConfig())


def test_a_pruned_model_is_not_pruned_again_as_if_it_were_dense(pruner, tmp_path):
    pruner.prune(config=PruningConfig(method="magnitude", sparsity=0.3))
    with pytest.raises(ModelError, match="this model is pruned already; load it again"):
        pruner.prune(config=PruningConfig(method="magnitude", sparsity=0.6))
    pruner.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "ssgr_config.json").read_text())["pruning"]["sparsity"] == 0.3


def test_a_model_that_failed_half_way_is_neither_saved_nor_pruned_again(pruner, tmp_path):
    pruner.model.model.layers[1].post_attention_layernorm.weight.data[0] = torch.inf
    data = Dataset.from_dict({"input_ids": [list(range(5, 60))]})
    with pytest.raises(NumericalError):
        pruner.prune(data, PruningConfig())
    assert not pruner.model.model.layers[0].mlp.up_proj.weight.all()
    with pytest.raises(ModelError, match="a part of it may be pruned; load it again"):
        pruner.prune(data, PruningConfig())
    with pytest.raises(ConfigError, match="prune the model before saving it"):
        pruner.save_pretrained(tmp_path / "out")


def test_what_was_refused_before_any_work_can_be_mended(pruner):
    with pytest.raises(ConfigError, match="needs a calibration set"):
        pruner.prune(None, PruningConfig())
    pruner.prune(config=PruningConfig(method="magnitude"))


def test_a_streamed_model_is_dense_again_and_keeps_no_older_provenance(tmp_path):
    pruner = SSGRPruner.from_pretrained("tiny-reasoner", streaming=True)
    pruner.prune(config=PruningConfig(method="magnitude", sparsity=0.3), journal_dir=tmp_path / "first")
    data = Dataset.from_dict({"input_ids": [list(range(5, 60))], "token_weights": [[-1.0] * 55]})
    with pytest.raises(DataError, match="0 or more"):
        pruner.prune(data, PruningConfig(), journal_dir=tmp_path / "second")
    with pytest.raises(ConfigError, match="prune the model before saving it"):
        pruner.save_pretrained(tmp_path / "out")
    report = pruner.prune(config=PruningConfig(method="magnitude", sparsity=0.1), journal_dir=tmp_path / "third")
    assert report.sparsity == pytest.approx(0.1, abs=0.01)


def test_a_streamed_model_does_not_generate():
    pruner = SSGRPruner.from_pretrained("tiny-reasoner", streaming=True)
    problems = [{"problem": "Count.", "answer": "1"}]
    for generate in (
        lambda: pruner.evaluate(problems),
        lambda: pruner.generate_rollouts(problems, CONFIG),
        lambda: pruner.build_calibration(problems, CONFIG),
    ):
        with pytest.raises(ConfigError, match="a streamed model does not generate"):
            generate()


def test_generation_settings_that_cannot_be_saved_are_refused_before_any_work(pruner, tmp_path):
    pruner.model.generation_config = GenerationConfig(do_sample=False, temperature=0.6)
    with pytest.raises(ConfigError, match=r"generation_config cannot be saved; change it: .*temperature"):
        pruner.prune(config=PruningConfig(method="magnitude"))
    pruner.model.generation_config.temperature = None
    pruner.prune(config=PruningConfig(method="magnitude"))
    pruner.model.generation_config.temperature = 0.6
    with pytest.raises(ConfigError, match="generation_config cannot be saved"):
        pruner.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_steps_are_refused(pruner, tmp_path):
    with pytest.raises(ConfigError, match="prune the model before saving it"):
        pruner.save_pretrained(tmp_path / "out")
    with pytest.raises(ConfigError, match="sparsegpt needs a calibration set"):
        pruner.prune(None, PruningConfig())
    with pytest.raises(ConfigError, match="the strategy cover needs problems"):
        pruner.build_calibration()
    with pytest.raises(DataError, match="needs general text"):
        pruner.build_calibration(config=CalibrationConfig(strategy="text", text_length=100))


def test_a_tokenizer_without_chat_template_is_refused(reasoner):
    tokenizer = copy.deepcopy(reasoner[1])
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        SSGRPruner(reasoner[0], tokenizer).generate_rollouts([{"problem": "q", "answer": "a"}], CONFIG)


def test_models_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ModelError, match="cannot load the model"):
        SSGRPruner.from_pretrained(str(tmp_path))
    random_model("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save({}, tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="cannot load the model"):
        SSGRPruner.from_pretrained(str(tmp_path))


@pytest.mark.slow
def test_the_set_a_model_was_pruned_with_is_kept_beside_it(pruner, calibration, tmp_path):
    with pytest.raises(ConfigError, match="prune the model before saving it"):
        pruner.save_pretrained(tmp_path / "sparse", calibration=calibration)
    smaller = dataclasses.replace(CONFIG, num_tokens=500)
    other = pruner.select_calibration(calibration.graded_rollouts(), smaller)
    pruner.prune(calibration, PruningConfig(method="wanda"))
    with pytest.raises(ConfigError, match="was not pruned with this calibration set"):
        pruner.save_pretrained(tmp_path / "sparse", calibration=other)
    pruner.save_pretrained(tmp_path / "sparse", calibration=calibration)
    written = json.loads((tmp_path / "sparse" / "ssgr_config.json").read_text())
    kept = CalibrationSet.load(tmp_path / "sparse" / written["calibration_folder"])
    assert (kept.sequences, kept.rollouts.to_list()) == (calibration.sequences, calibration.rollouts.to_list())
    assert written["calibration"]["content_hash"] == kept.manifest.content_hash
    assert "in the folder `calibration` beside the weights" in (tmp_path / "sparse" / "README.md").read_text()
    again = SSGRPruner.from_pretrained(str(tmp_path / "sparse"))  # transformers does not mind the folder
    assert all(torch.equal(tensor, again.model.state_dict()[key]) for key, tensor in pruner.model.state_dict().items())
    pruner.save_pretrained(tmp_path / "alone")
    assert "calibration_folder" not in json.loads((tmp_path / "alone" / "ssgr_config.json").read_text())
    assert not (tmp_path / "alone" / "calibration").exists()
