import dataclasses
import math
import random
import statistics

import pytest

from optimum_ssgr.calibration import strategies
from optimum_ssgr.calibration.strategies import Sources, select_prompts, select_text
from optimum_ssgr.calibration.windows import compute_length_bounds, compute_pass_rates, cut_to_budget, meets_budget
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import DataError
from optimum_ssgr.records import CalibrationSequence, GradedRollout, Problem, Rollout, Verdict


def select(items, config):
    return strategies.select(Sources(items), config)


def rollout(problem_id, sample, correct, length):
    response = tuple(range(1000 * sample, 1000 * sample + length))
    made = Rollout(problem_id, sample, (7, 8, 9), response, finished=True)
    return GradedRollout(Problem(problem_id, "q", "a"), made, Verdict("a", correct, True), "text")


def graded(solved_by_problem, lengths=(10, 20, 30, 40)):
    """Problems with a rollout for each of the lengths, of which the first `solved` are correct."""
    return [
        rollout(problem_id, sample, sample < solved, length)
        for problem_id, solved in solved_by_problem.items()
        for sample, length in enumerate(lengths)
    ]


def test_pass_rate_is_the_share_of_correct_rollouts():
    assert compute_pass_rates(graded({"a": 0, "b": 1, "c": 4})) == {"a": 0, "b": 0.25, "c": 1}


def timed_out(problem_id, sample, length):
    item = rollout(problem_id, sample, False, length)
    return dataclasses.replace(item, verdict=dataclasses.replace(item.verdict, timed_out=True))


def test_what_timed_out_is_neither_right_nor_wrong():
    items = [*graded({"a": 1, "b": 2}), timed_out("a", 4, 90), timed_out("b", 4, 90), timed_out("c", 0, 90)]
    assert compute_pass_rates(items) == {"a": 0.25, "b": 0.5}
    pairs = select(items, CalibrationConfig(strategy="obc", num_sequences=4))
    assert sorted((pair.problem_id, len(pair.response_ids)) for pair in pairs) == [("a", 10), ("a", 40), ("b", 10), ("b", 40)]


def test_length_bounds_are_percentiles():
    assert compute_length_bounds([rollout("a", 0, True, length) for length in range(101)], (25, 75)) == (25, 75)


def test_ssgr_takes_correct_challenging_moderate_traces_and_nothing_else():
    """Against the definition applied one by one to random rollouts."""
    rng = random.Random(0)
    items = [rollout(f"p{n % 40}", n // 40, rng.random() < (n % 40) / 40, rng.randrange(5, 200)) for n in range(40 * 8)]
    config = CalibrationConfig(strategy="ssgr", num_sequences=30, max_per_problem=8)
    chosen = select(items, config)
    rates = compute_pass_rates(items)
    challenging = [item for item in items if item.verdict.correct and 0.2 <= rates[item.problem.id] <= 0.8]
    low, high = statistics.quantiles([len(item.rollout.response_ids) for item in challenging], n=4, method="inclusive")[::2]
    qualifying = {
        (item.problem.id, item.rollout.sample) for item in challenging if low <= len(item.rollout.response_ids) <= high
    }
    assert len(qualifying) > 30
    assert len(chosen) == 30 == len({(sequence.problem_id, sequence.sample) for sequence in chosen})
    assert {(sequence.problem_id, sequence.sample) for sequence in chosen} < qualifying
    assert {sequence.selected_by for sequence in chosen} == {"ssgr"}


def test_selection_does_not_depend_on_the_order_of_rollouts():
    items = graded({f"p{n}": n % 5 for n in range(30)})
    for strategy in ("ssgr", "self", "rac"):
        config = CalibrationConfig(strategy=strategy, num_sequences=20, seed=3)
        expected = select(items, config)
        for seed in range(3):
            assert select(random.Random(seed).sample(items, len(items)), config) == expected
        other = select(items, CalibrationConfig(strategy=strategy, num_sequences=20, seed=4))
        assert other != expected


def test_windows_widen_step_by_step_and_say_so():
    items = graded({"easy": 4, "hard": 1, "middle": 2})
    config = CalibrationConfig(
        strategy="ssgr", num_sequences=7, pass_rate=(0.4, 0.6), length_window=(0, 100), max_per_problem=4
    )
    chosen = select(items, config)
    # Correct lengths: easy 10 20 30 40, hard 10, middle 10 20, and the last two bound what is moderate.
    assert [sequence.selected_by for sequence in chosen] == [
        *["ssgr"] * 2,
        *["ssgr: any pass rate below 1"],
        *["ssgr: any pass rate"] * 2,
        *["ssgr: any pass rate and length"] * 2,
    ]
    assert [sequence.problem_id for sequence in chosen] == ["middle"] * 2 + ["hard"] + ["easy"] * 4
    assert len({(sequence.problem_id, sequence.sample) for sequence in chosen}) == 7  # none twice


def test_no_more_than_asked_for_from_one_problem():
    items = graded({"a": 4, "b": 4})
    assert len(select(items, CalibrationConfig(strategy="self", max_per_problem=1))) == 2
    assert len(select(items, CalibrationConfig(strategy="self", max_per_problem=3))) == 6


def test_self_takes_correct_traces_and_rac_takes_all():
    items = graded({"a": 2, "b": 0})
    of_self = select(items, CalibrationConfig(strategy="self", max_per_problem=4))
    of_rac = select(items, CalibrationConfig(strategy="rac", max_per_problem=4))
    assert {(s.problem_id, s.sample) for s in of_self} == {("a", 0), ("a", 1)}
    assert len(of_rac) == 8


@pytest.mark.parametrize("strategy", ["ssgr", "self"])
def test_no_correct_rollout_is_refused(strategy):
    with pytest.raises(DataError, match="not one rollout is correct"):
        select(graded({"a": 0}), CalibrationConfig(strategy=strategy))


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 30, 57])
def test_token_budget_is_met_exactly(num_tokens):
    items = graded({"a": 4, "b": 4})
    chosen = select(items, CalibrationConfig(strategy="self", num_sequences=None, num_tokens=num_tokens))
    assert sum(len(sequence.input_ids) for sequence in chosen) == num_tokens
    originals = {(item.problem.id, item.rollout.sample): item.rollout for item in items}
    for sequence in chosen:
        original = originals[sequence.problem_id, sequence.sample]
        whole = original.prompt_ids + original.response_ids
        assert whole[: len(sequence.input_ids)] == sequence.input_ids
        assert sequence is chosen[-1] or sequence.input_ids == whole  # only the last one may be cut


def test_whichever_budget_is_met_first_ends_the_selection():
    sequences = [CalibrationSequence((), (0,) * 10, "self") for _ in range(5)]
    assert len(cut_to_budget(sequences, 2, 1000)) == 2
    assert len(cut_to_budget(sequences, 5, 25)) == 3
    assert len(cut_to_budget(sequences, None, None)) == 5


def test_prompts_are_prompts_alone():
    chosen = list(select_prompts(Sources(prompts={"a": (1, 2), "b": (3,)}), CalibrationConfig(strategy="prompts")))
    assert {sequence.input_ids for sequence in chosen} == {(1, 2), (3,)}


def test_text_is_cut_into_windows_that_do_not_overlap():
    config = CalibrationConfig(strategy="text", text_length=10)
    windows = list(select_text(Sources(text_ids=range(100), opening=(500,)), config))
    assert all(len(window.input_ids) == 10 and window.input_ids[0] == 500 for window in windows)
    seen = [token for window in windows for token in window.input_ids[1:]]
    assert sorted(seen) == list(range(99))
    assert [w.input_ids for w in windows] != sorted(w.input_ids for w in windows)


def test_resp_is_rac_with_weightless_prompts():
    items = graded({"a": 2, "b": 0})
    of_rac = select(items, CalibrationConfig(strategy="rac"))
    of_resp = select(items, CalibrationConfig(strategy="resp"))
    assert [s.input_ids for s in of_resp] == [s.input_ids for s in of_rac]
    assert all(s.token_weights == (0.0,) * 3 + (1.0,) * len(s.response_ids) for s in of_resp)


def test_obc_pairs_the_median_right_with_the_longest_wrong():
    # Lengths 10 20 30 40, the first are correct: a has 3 right, b only right ones, c only wrong ones, d 2 right.
    items = graded({"a": 3, "b": 4, "c": 0, "d": 2})
    chosen = select(items, CalibrationConfig(strategy="obc"))
    pairs = {s.problem_id: [] for s in chosen}
    for sequence in chosen:
        pairs[sequence.problem_id].append(sequence)
    assert {name: [len(s.response_ids) for s in pair] for name, pair in pairs.items()} == {"a": [20, 40], "d": [10, 40]}
    for right, wrong in pairs.values():
        assert set(right.token_weights[:3]) == set(wrong.token_weights[:3]) == {0.0}
        assert sum(right.token_weights) == pytest.approx(sum(wrong.token_weights))
        assert sum(right.token_weights) == pytest.approx((len(right.response_ids) + len(wrong.response_ids)) / 2)
    with pytest.raises(DataError, match="no problem has both right and wrong rollouts"):
        select(graded({"b": 4, "c": 0}), CalibrationConfig(strategy="obc"))


@pytest.mark.parametrize("budget", [{"num_tokens": n} for n in (70, 75, 139, 140, 141, 300)] + [{"num_sequences": 3}], ids=str)
def test_obc_keeps_a_pair_whole_or_leaves_it_out(budget):
    """Pairs are of 3 + 10 and 3 + 40 or of 3 + 20 and 3 + 40 tokens: 56 or 66 in all."""
    items = graded({f"p{n}": 2 + n % 2 for n in range(6)})
    config = CalibrationConfig(strategy="obc", **{"num_sequences": None, **budget})
    chosen = select(items, config)
    pairs = list(zip(chosen[::2], chosen[1::2], strict=True))
    assert all(right.problem_id == wrong.problem_id for right, wrong in pairs)
    rollouts = {(item.problem.id, item.rollout.sample): item.rollout for item in items}
    for sequence in chosen:
        whole = rollouts[sequence.problem_id, sequence.sample]
        assert sequence.input_ids == whole.prompt_ids + whole.response_ids
    for right, wrong in pairs:
        assert sum(right.token_weights) == pytest.approx(sum(wrong.token_weights))
    if "num_sequences" in budget:
        assert len(chosen) == 2
    else:  # no pair that was left out would have fitted
        left = config.num_tokens - sum(len(sequence.input_ids) for sequence in chosen)
        taken = {sequence.problem_id for sequence in chosen}
        sizes = {f"p{n}": 66 if n % 2 else 56 for n in range(6)}
        assert 0 <= left < min([sizes[name] for name in sizes.keys() - taken], default=math.inf)
    assert meets_budget([len(sequence.input_ids) for sequence in chosen], config)


def test_obc_says_so_when_no_pair_fits_or_pairs_run_out():
    items = graded({"a": 2, "b": 3})
    with pytest.raises(DataError, match="no pair of the strategy obc fits into the budget"):
        select(items, CalibrationConfig(strategy="obc", num_sequences=None, num_tokens=30))
    config = CalibrationConfig(strategy="obc", num_sequences=None, num_tokens=1000)
    assert not meets_budget([len(sequence.input_ids) for sequence in select(items, config)], config)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_mix_keeps_its_share_of_text(share):
    items = graded({f"p{n}": 2 for n in range(60)})
    sources = Sources(items, text_ids=range(3000), opening=(5,))
    config = CalibrationConfig(strategy="mix", num_sequences=None, num_tokens=1000, text_length=20, text_share=share)
    chosen = strategies.select(sources, config)
    assert sum(len(sequence.input_ids) for sequence in chosen) == 1000
    tokens = sum(len(sequence.input_ids) for sequence in chosen if sequence.selected_by == "text")
    assert abs(tokens - share * 1000) <= 43  # no more than the longest sequence
    traces = [sequence for sequence in chosen if sequence.selected_by == "ssgr"]
    alone = strategies.select(sources, CalibrationConfig(strategy="ssgr", num_sequences=len(traces)))
    assert [trace.input_ids for trace in traces[:-1]] == [trace.input_ids for trace in alone[:-1]]


def test_a_cut_sequence_has_its_weights_cut():
    items = graded({"a": 2, "b": 1})
    chosen = select(items, CalibrationConfig(strategy="resp", num_sequences=None, num_tokens=30))
    assert [len(s.token_weights) for s in chosen] == [len(s.input_ids) for s in chosen]
    assert sum(len(s.input_ids) for s in chosen) == 30


@pytest.mark.parametrize("strategy", ["rac", "resp", "prompts"])
def test_nothing_to_select_from_is_said(strategy):
    with pytest.raises(DataError, match=f"the strategy {strategy} has nothing to select from"):
        select([], CalibrationConfig(strategy=strategy))
