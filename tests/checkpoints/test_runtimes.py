import re
from datetime import date
from itertools import combinations, product
from math import lcm
from pathlib import Path

import pytest

from optimum_ssgr.checkpoints.inspect import PATTERNS, TensorSparsity
from optimum_ssgr.checkpoints.runtimes import IN_VAIN, NO_ZEROS, SAME_SIZE, implied_patterns, known_runtimes, what_to_expect


def matrices(*kinds):
    """Matrices of 100 weights, each given by its zeros and the patterns it keeps to."""
    return [TensorSparsity(f"model.layers.{i}.weight", (10, 10), zeros, patterns) for i, (zeros, patterns) in enumerate(kinds)]


def named(paragraphs):
    """The runtimes that are named, each with whether it gains."""
    gaining = paragraphs.index(IN_VAIN) if IN_VAIN in paragraphs else len(paragraphs)
    found = enumerate(re.match(r"- ([\w. -]+?)(?: \(|:)", text) for text in paragraphs)
    return {match[1]: place < gaining for place, match in found if match}


DENSE, SCATTERED, HALF = (0, ()), (50, ()), (50, ("2:4", "4:8", "3:4", "6:8"))


@pytest.mark.parametrize("runtime", known_runtimes(), ids=lambda runtime: runtime.name)
def test_every_claim_has_a_source_and_the_day_it_was_looked_up(runtime):
    assert re.fullmatch(r"https://[\w.-]+/\S+", runtime.source)
    assert date(2026, 11, 1) <= date.fromisoformat(runtime.checked) <= date.today()
    assert runtime.name and runtime.conditions.endswith(".")
    assert set(runtime.patterns) <= {"unstructured", *(f"{n}:{m}" for n, m in PATTERNS)}
    assert 0 <= runtime.least_zeros < 1
    assert runtime.gain is None or runtime.gain


def test_the_page_names_all_that_gain():
    page = (Path(__file__).parents[2] / "docs" / "what-to-expect.md").read_text()
    assert [runtime.name for runtime in known_runtimes() if runtime.gain and runtime.name not in page] == []


@pytest.mark.parametrize(
    "kinds, head, gain, no_gain",
    [
        ([HALF, HALF], "All 2 matrices are 2:4.", {"PyTorch", "SlideSparse", "Core ML"}, {"vLLM", "TensorRT-LLM"}),
        ([(75, ("1:4", "2:4", "6:8"))], "All 1 matrices are 1:4, which is also 2:4.", {"PyTorch", "MACKO"}, {"vLLM"}),
        ([(25, ("6:8",)), (25, ("3:4", "6:8"))], "All 2 matrices are 6:8.", {"SlideSparse", "MACKO"}, set()),
        ([(50, ("4:8",))] * 3, "All 3 matrices are 4:8.", {"Core ML on newer CPUs", "OpenVINO"}, {"DeepSparse"}),
        ([SCATTERED, SCATTERED], "The zeros are unstructured.", {"Core ML", "MACKO", "OpenVINO"}, {"llama.cpp"}),
        ([HALF, SCATTERED], "The pattern is mixed: of 2 matrices 1 are 2:4.", {"PyTorch", "MACKO"}, {"vLLM"}),
    ],
)
def test_names_who_gains_from_a_pattern_and_who_does_not(kinds, head, gain, no_gain):
    first, *rest = what_to_expect(matrices(*kinds))
    assert first.startswith(head) and first.endswith(SAME_SIZE)
    found = named(rest)
    assert {name for name, gains in found.items() if gains} >= gain
    assert {name for name, gains in found.items() if not gains} >= no_gain


@pytest.mark.parametrize(
    "kinds, missing",
    [
        ([SCATTERED], {"PyTorch", "SlideSparse", "Core ML on newer CPUs", "vLLM"}),
        ([(25, ("6:8",))], {"PyTorch", "Core ML on newer CPUs", "vLLM"}),
        ([(25, ("3:4",))], {"PyTorch", "Core ML on newer CPUs"}),  # Apple's 3:4 is another pattern
        ([(10, ())], {"MACKO", "PyTorch"}),
    ],
)
def test_nothing_is_said_of_who_looks_for_something_else(kinds, missing):
    assert missing.isdisjoint(named(what_to_expect(matrices(*kinds))))


def test_dense_promises_nothing():
    assert what_to_expect(matrices(DENSE, (1, ()), DENSE)) == [f"All 3 matrices are dense. {NO_ZEROS}"]


def fullest(kept, size, window):
    """The most weights kept in a group of `window`, over all masks of a stretch that both sizes divide."""
    masks = [sum(1 << place for place in chosen) for chosen in combinations(range(size), kept)]
    stretch, found = lcm(size, window), 0
    for groups in product(masks, repeat=stretch // size):
        row = sum(mask << number * size for number, mask in enumerate(groups))
        found = max(found, *((row >> start & (1 << window) - 1).bit_count() for start in range(0, stretch, window)))
    return found


@pytest.mark.parametrize("kept, size", [(1, 4), (2, 4), (3, 4), (1, 2), (2, 3), (2, 5), (6, 8)])
def test_patterns_within_patterns(kept, size):
    implied = implied_patterns(kept, size)
    for n, m in ((1, 4), (2, 4), (3, 4), (2, 8), (4, 8), (6, 8)):
        if size in (2, 4, 8) or m == 4:  # the others have too many masks
            assert (f"{n}:{m}" in implied) == (fullest(kept, size, m) <= n)
