import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MambaConfig, Phi3Config, Qwen3Config

from optimum_ssgr.config import SamplingConfig
from optimum_ssgr.errors import ConfigError, ModelError
from optimum_ssgr.likelihood import response_nll
from optimum_ssgr.pruning.capture import TokenSequence, make_batches
from optimum_ssgr.rollouts.cache import PreallocatedKVLayer, check_batchable
from optimum_ssgr.rollouts.engine import Request, request_seed
from optimum_ssgr.rollouts.local import LocalEngine, check_scores, sample_tokens
from optimum_ssgr.rollouts.prompts import check_lengths
from optimum_ssgr.tokens import check_context

from ..models import CONFIGS, SMALL, random_model, slow_but


ENDINGS = frozenset(range(2, 8))  # several, so that random models end their responses at many lengths


def requests(count=11, samples=1):
    generator = torch.Generator().manual_seed(5)
    made = []
    for number in range(count):
        length = int(torch.randint(1, 14, (), generator=generator))
        prompt = tuple(torch.randint(8, 64, (length,), generator=generator).tolist())
        made += [Request(str(number), s, prompt, request_seed(0, str(number), s)) for s in range(samples)]
    return made


def by_request(rollouts):
    return {(rollout.problem_id, rollout.sample): rollout for rollout in rollouts}


@pytest.mark.parametrize("name", slow_but(CONFIGS, ["llama", "gemma3, sliding"]))
def test_greedy_equals_generate_one_by_one(name):
    model = random_model(name)
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=20)
    found = by_request(LocalEngine(model, sampling, batch_size=4, eos_token_ids=ENDINGS).generate(requests()))
    lengths = set()
    for request in requests():
        ids = torch.tensor([request.prompt_ids])
        options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": list(ENDINGS), "pad_token_id": 0}
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()
        rollout = found[request.problem_id, 0]
        assert list(rollout.response_ids) == expected
        assert rollout.finished == (expected[-1] in ENDINGS)
        assert rollout.prompt_ids == request.prompt_ids
        lengths.add(len(expected))
    assert len(lengths) > 1 or name != "llama"  # rows left and joined at different times


@pytest.mark.slow
def test_randomness_belongs_to_the_request():
    """Neither the batch size nor the order nor the other requests change what a request draws."""
    model = random_model("llama")
    sampling = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=20)
    everything = requests(samples=3)
    alone = by_request(LocalEngine(model, sampling, 1, ENDINGS).generate(everything))
    together = by_request(LocalEngine(model, sampling, 7, ENDINGS).generate(reversed(everything)))
    assert alone == together
    few = by_request(LocalEngine(model, sampling, 7, ENDINGS).generate(everything[4:6]))
    assert all(alone[key] == rollout for key, rollout in few.items())
    assert len({rollout.response_ids for rollout in alone.values()}) > 11  # samples of one problem differ


def test_tokens_are_drawn_with_the_models_probabilities():
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0]).expand(10000, 4)
    evenly = (torch.arange(10000, dtype=torch.float64) + 0.5) / 10000
    for temperature in (0.5, 1.0):
        drawn = sample_tokens(logits, evenly, temperature, 1.0)
        expected = (logits[0] / temperature).softmax(0)
        torch.testing.assert_close(drawn.bincount(minlength=4) / 10000, expected, rtol=0, atol=2e-4)


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1000, 4)
    evenly = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for top_p, kept in ((0.4, 1), (0.6, 2), (0.79, 2), (0.9, 3), (0.99, 4)):
        counts = sample_tokens(logits, evenly, 1.0, top_p).bincount(minlength=4)
        assert (counts > 0).tolist() == [True] * kept + [False] * (4 - kept)
        expected = torch.tensor([0.5, 0.3, 0.15, 0.05][:kept])
        torch.testing.assert_close(counts[:kept] / 1000, expected / expected.sum(), rtol=0, atol=2e-3)


@pytest.mark.slow
def test_top_p_of_a_large_vocabulary_is_that_of_all_of_it_sorted():
    """Peaked and flat distributions, and low precision, where many tokens are equally probable."""
    generator = torch.Generator().manual_seed(2)
    for scale in (0.1, 2.0, 5.0):
        logits = (torch.randn(50, 3000, generator=generator) * scale).bfloat16()
        uniforms = torch.rand(50, generator=generator, dtype=torch.float64)
        for row, token in enumerate(sample_tokens(logits, uniforms, 1.0, 0.9).tolist()):
            probabilities = logits[row].float().softmax(0).double()
            order = sorted(range(3000), key=lambda i: -probabilities[i].item())
            cumulative = probabilities[order].cumsum(0)
            nucleus = int((cumulative < 0.9).sum()) + 1
            place = int((cumulative <= uniforms[row] * cumulative[nucleus - 1]).sum())
            assert token == order[place]


def test_temperature_zero_is_greedy():
    logits = torch.tensor([[0.1, 0.9, 0.5]])
    assert sample_tokens(logits, torch.tensor([0.999], dtype=torch.float64), 0.0, 1.0).tolist() == [1]


@pytest.mark.slow
def test_rows_that_ended_are_given_up_once_nobody_waits(monkeypatch):
    model, grown = random_model("llama"), []
    grow = PreallocatedKVLayer._grow
    monkeypatch.setattr("optimum_ssgr.rollouts.cache.SPARE_COLUMNS", 4)
    monkeypatch.setattr(PreallocatedKVLayer, "_grow", lambda layer, width: (grown.append(layer.max_rows), grow(layer, width)))
    sampling = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=40)
    alone = by_request(LocalEngine(model, sampling, 1, ENDINGS).generate(requests()))
    grown.clear()
    assert by_request(LocalEngine(model, sampling, 6, ENDINGS).generate(requests())) == alone
    assert grown == sorted(grown, reverse=True)
    assert (grown[0], grown[-1] < 6) == (6, True)


def test_too_little_memory_is_one_sentence_after_everything_finished():
    model = random_model("llama")
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=20)
    engine = LocalEngine(model, sampling, 4, ENDINGS)
    whole = by_request(engine.generate(requests()))

    def allocate(module, arguments, options):  # as CUDA's allocator fails
        if options["attention_mask"].shape[1] > 24:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.register_forward_pre_hook(allocate, with_kwargs=True)
    found = []
    with pytest.raises(ModelError, match=r"4 responses at a time take more memory .*--batch-size") as caught:
        for rollout in engine.generate(requests()):
            found.append(rollout)
    assert found and all(whole[rollout.problem_id, 0] == rollout for rollout in found)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_the_context_is_refused_before_generating():
    engine = LocalEngine(random_model("llama"), SamplingConfig(max_new_tokens=60), eos_token_ids=ENDINGS)
    with pytest.raises(ConfigError, match="set max_new_tokens to 54 or less"):
        next(engine.generate([Request("a", 0, (9,) * 10, 0)]))
    with pytest.raises(ConfigError, match="the longest prompt has 64 tokens but the model's context holds 64"):
        next(engine.generate([Request("a", 0, (9,) * 64, 0)]))


def test_a_model_with_a_recurrent_state_is_refused():
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4, eos_token_id=2)
    engine = LocalEngine(AutoModelForCausalLM.from_config(config).eval(), SamplingConfig(max_new_tokens=4))
    with pytest.raises(ModelError, match="MambaForCausalLM keeps a state"):
        next(engine.generate(requests()))


RECURRENT = ["qwen3_next", "qwen3_5", "falcon_h1", "bamba", "granitemoehybrid"]
RECURRENT += ["nemotron_h", "jamba", "minimax", "recurrent_gemma"]


@pytest.mark.parametrize("name", [*RECURRENT, "lfm2"])
def test_hybrids_are_refused_by_their_config(name):
    given = {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2} if name == "lfm2" else {}
    with pytest.raises(ModelError, match=r"some/model keeps a state .* generate with a server instead \(--engine"):
        check_batchable(AutoConfig.for_model(name, **given), "some/model")


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gemma3n", "gpt_oss", "deepseek_v3", "llama4", "phi3", "qwen3_vl"])
def test_attention_of_every_kind_is_served(name):
    check_batchable(AutoConfig.for_model(name), "some/model")


def longrope(switch=16):
    """A model whose rotary factors depend on whether a sequence is longer than the switch."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 8.0, 13.0]}
    rotary = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": switch, **factors}
    torch.manual_seed(0)
    config = Phi3Config(**SMALL, rope_parameters=rotary, original_max_position_embeddings=switch)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.15)
    return model


def test_with_longrope_no_response_depends_on_the_lengths_around_it():
    """Some prompts are beyond the switch, some responses cross it, and some never do."""
    model, generator = longrope(), torch.Generator().manual_seed(3)
    asked = [
        Request(str(n), 0, tuple(torch.randint(8, 64, (n,), generator=generator).tolist()), 0)
        for n in (2, 5, 9, 12, 15, 16, 17, 20, 30)
    ]
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=10)
    found = by_request(LocalEngine(model, sampling, batch_size=4, eos_token_ids=ENDINGS).generate(asked))
    for request in asked:
        ids = torch.tensor([request.prompt_ids])
        options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": list(ENDINGS), "pad_token_id": 0}
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()
        assert list(found[request.problem_id, 0].response_ids) == expected, len(request.prompt_ids)
    lengths = {len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in found.values()}
    assert min(lengths) <= 16 < max(lengths)


def test_with_longrope_likelihoods_and_calibration_keep_the_lengths_apart():
    model = longrope()
    pairs = [((9, 10), tuple(range(11, 11 + n))) for n in (5, 13, 14, 15, 30)]
    together = response_nll(model, pairs)
    assert together == pytest.approx([response_nll(model, [pair])[0] for pair in pairs], rel=1e-5)
    sequences = [TokenSequence(range(n)) for n in (5, 16, 17, 30, 3)]
    assert [[len(one.ids) for one in batch] for batch in make_batches(sequences, switch=16)] == [[17, 30], [3, 5, 16]]


def test_lengths_that_yarn_reaches_are_honoured():
    rotary = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32768}
    config = Qwen3Config(max_position_embeddings=40960, rope_parameters=rotary)
    check_lengths(config, [[0] * 1000], 65536)
    check_context(config, 131072, "a trace")
    with pytest.raises(ConfigError, match="the model's context holds 131072"):
        check_context(config, 131073, "a trace")
    with pytest.raises(ConfigError, match="the model's context holds 40960"):
        check_context(Qwen3Config(max_position_embeddings=40960), 65536, "a trace")


def test_a_model_that_cannot_end_is_refused():
    model = random_model("llama")
    model.generation_config.eos_token_id = None
    with pytest.raises(ModelError, match="names an end-of-sequence token, so no response would end"):
        LocalEngine(model, SamplingConfig())


@pytest.mark.parametrize("temperature, top_p", [(0.0, 1.0), (1.0, 1.0), (1.0, 0.9)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_stop_the_run_after_everything_finished(temperature, top_p, value):
    """In the middle of one response of several, as where numbers of 16 bits overflow."""
    model = random_model("llama")
    model.config._name_or_path = "org/broken"
    engine = LocalEngine(model, SamplingConfig(temperature=temperature, top_p=top_p, max_new_tokens=30), 4, ENDINGS)
    whole = by_request(engine.generate(requests()))

    def overflow(module, arguments, options, output):
        if options["attention_mask"].shape[1] > 20:
            output.logits[-1, -1, 5] = value
        return output

    model.register_forward_hook(overflow, with_kwargs=True)
    found = []
    with pytest.raises(ModelError, match=r"scores of org/broken for the next token are not numbers .*another dtype"):
        for rollout in engine.generate(requests()):
            found.append(rollout)
    assert all(whole[rollout.problem_id, 0] == rollout for rollout in found)


def test_tokens_that_a_model_rules_out_are_fine():
    logits = torch.tensor([[0.0, float("-inf"), 1.0]])
    check_scores(logits, random_model("llama"))
    with pytest.raises(ModelError):
        check_scores(torch.full((1, 3), float("-inf")), random_model("llama"))
