import json
from argparse import ArgumentParser

import pytest

from optimum_ssgr.commands import configs, flags
from optimum_ssgr.config import RECIPES, STRATEGIES, CalibrationConfig, EngineConfig, PruningConfig, SamplingConfig
from optimum_ssgr.errors import ConfigError


@pytest.mark.parametrize(
    "config",
    [
        CalibrationConfig(num_tokens=100, pass_rate=(0.1, 0.5)),
        PruningConfig(pattern="2:4"),
        PruningConfig(method="wanda", sparsity=0.7),
        PruningConfig(true_sequential=False),
        PruningConfig(refine=("swaps", "blocks")),
        SamplingConfig(seed=3),
    ],
)
def test_round_trip(tmp_path, config):
    config.save_pretrained(tmp_path)
    assert type(config).from_pretrained(tmp_path) == config
    assert type(config).from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PruningConfig(sparsity=1.2), "at least 0 and below 1, not 1.2"),
        (lambda: PruningConfig(sparsity=1.0), "below 1"),
        (lambda: PruningConfig(sparsity=-0.1), "at least 0"),
        (lambda: PruningConfig(sparsity=float("nan")), "at least 0"),
        (lambda: PruningConfig(method="magic"), "unknown method 'magic'; choose one of magnitude, wanda, sparsegpt"),
        (lambda: PruningConfig(pattern="4:2"), "N:M with 0 < N < M"),
        (lambda: PruningConfig(pattern="2-4"), "for example 2:4, not '2-4'"),
        (lambda: PruningConfig(pattern="2:4", sparsity=0.5), "not both"),
        (lambda: PruningConfig(damping=0), "damping"),
        (lambda: PruningConfig(refine=("swap",)), "unknown refinement 'swap'; choose among swaps, blocks"),
        (lambda: PruningConfig(refine="swaps"), r"refine must be a list of refinements, such as \['swaps'\]"),
        (lambda: PruningConfig(true_sequential="staged"), "true_sequential must be true or false, not 'staged'"),
        (lambda: CalibrationConfig(strategy="best"), "unknown strategy 'best'; choose one of cover"),
        (lambda: CalibrationConfig(num_sequences=None), "no size"),
        (lambda: CalibrationConfig(num_sequences=0), "at least 1"),
        (lambda: CalibrationConfig(pass_rate=(0.8, 0.2)), "low to high"),
        (lambda: CalibrationConfig(length_window=(0, 120)), "percentiles between 0 and 100"),
        (lambda: CalibrationConfig(samples_per_problem=0), "samples_per_problem must be at least 1"),
        (lambda: CalibrationConfig(strategy="obc", max_per_problem=1), "obc takes pairs .* set max_per_problem to 2 or more"),
        (lambda: CalibrationConfig(temperature=-1), "temperature"),
        (lambda: SamplingConfig(top_p=0), "top_p"),
        (lambda: SamplingConfig(max_new_tokens=0), "max_new_tokens"),
        (lambda: SamplingConfig.from_dict({"heat": 1}), "unknown settings in SamplingConfig: heat"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(ConfigError, match=r"no pruning_config\.json"):
        PruningConfig.from_pretrained(tmp_path)
    (tmp_path / "pruning_config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        PruningConfig.from_pretrained(tmp_path)


def test_refinements_are_done_in_one_order_and_need_calibration():
    assert PruningConfig(refine=["blocks", "swaps"]) == PruningConfig(refine=("swaps", "blocks"))
    assert [PruningConfig(method="magnitude", refine=of).needs_calibration for of in ((), ("swaps",))] == [False, True]


def test_target_sparsity():
    assert PruningConfig().target_sparsity == 0.5
    assert PruningConfig(pattern="1:4").target_sparsity == 0.75
    assert PruningConfig(pattern="1:4").sparsity is None


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_settings_that_pass_their_checks(name):
    config = CalibrationConfig.from_recipe(name)
    assert config.strategy == name
    assert CalibrationConfig.from_dict(config.to_dict()) == config


def test_recipes_hold_what_papers_publish():
    assert CalibrationConfig.from_recipe("ssgr") == CalibrationConfig(strategy="ssgr")
    rac = CalibrationConfig.from_recipe("rac")
    assert (rac.temperature, rac.num_tokens, rac.num_sequences, rac.max_new_tokens) == (0.6, 1_000_000, None, 8192)
    assert CalibrationConfig.from_recipe("obc").num_sequences == 2 * 128
    with pytest.raises(ConfigError, match="unknown recipe 'c4'; choose one of ssgr, rac, resp, obc"):
        CalibrationConfig.from_recipe("c4")


def test_flags_win_over_a_recipe():
    parser = ArgumentParser()
    flags.add_generation(parser)
    flags.add_selection(parser)
    args = parser.parse_args(["--recipe", "rac", "--temperature", "0.7", "--num-sequences", "8"])
    config = configs.calibration_config(args)
    assert (config.strategy, config.temperature, config.num_sequences, config.num_tokens) == ("rac", 0.7, 8, None)


def test_a_streamed_model_takes_two_passes_unless_told_otherwise():
    assert [PruningConfig().resolve(streamed).true_sequential for streamed in (False, True)] == [True, False]
    for chosen in (False, True):
        config = PruningConfig(true_sequential=chosen)
        assert config.resolve(False) == config.resolve(True) == config


def test_shares_of_kinds_are_for_cover_alone_and_travel_as_json(monkeypatch):
    with pytest.raises(ConfigError, match="shares of the tokens by kind are met by the strategy cover, not by self"):
        CalibrationConfig(strategy="self", kind_shares=(("sum", 0.5),))
    monkeypatch.setattr("optimum_ssgr.config.STRATEGIES", ("cover", *STRATEGIES))
    config = CalibrationConfig(strategy="cover", kind_shares=(("sum", 0.25), ("walk", 0.75)))
    assert CalibrationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for shares, mistake in [
        ((("sum", 0.5), ("sum", 0.2)), "names a kind twice"),
        ((("sum", 0.0),), "the share of sum must be above 0 and at most 1, not 0.0"),
        ((("sum", 1.5),), "the share of sum must be above 0"),
        ((("sum", 0.6), ("walk", 0.6)), "are 1.2 together, more than 1"),
    ]:
        with pytest.raises(ConfigError, match=mistake):
            CalibrationConfig(strategy="cover", kind_shares=shares)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"command": "/opt/vllm"}, "a command and flags are for an engine that is started here, vllm or sglang"),
        ({"name": "http://a/v1", "arguments": "--dtype auto"}, "a command and flags are for an engine that is started here"),
        ({"request_seeds": False}, "requests go without seeds to servers only"),
        ({"name": "vllm", "arguments": "--dtype 'auto"}, "the flags for vllm cannot be split"),
    ],
)
def test_what_an_engine_cannot_be_given_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        EngineConfig(**settings)
