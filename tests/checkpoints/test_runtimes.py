import pytest

from optimum_ssgr.checkpoints.inspect import TensorSparsity
from optimum_ssgr.checkpoints.runtimes import NO_GAIN, SAME_SIZE, what_to_expect


SEMI_STRUCTURED = ("to_sparse_semi_structured", "TensorRT", "vLLM")


def matrices(*kinds):
    """Matrices of 100 weights, each given by its zeros and the patterns it keeps to."""
    return [TensorSparsity(f"model.layers.{i}.weight", (10, 10), zeros, patterns) for i, (zeros, patterns) in enumerate(kinds)]


DENSE, SCATTERED, HALF = (0, ()), (50, ()), (50, ("2:4", "4:8"))


@pytest.mark.parametrize("kinds", [[HALF, HALF], [(75, ("1:4", "2:8", "2:4")), HALF]])
def test_semi_structured_names_its_runtimes_and_their_conditions(kinds):
    text = what_to_expect(matrices(*kinds))
    assert text.startswith("All 2 matrices are 2:4.")
    assert all(word in text for word in (*SEMI_STRUCTURED, "float16", "multiples", "measure it", SAME_SIZE))
    assert NO_GAIN not in text


@pytest.mark.parametrize("pattern", ["1:4", "2:8"])
def test_tighter_patterns_are_semi_structured_too(pattern):
    text = what_to_expect(matrices((75, (pattern, "2:4"))))
    assert text.startswith(f"All 1 matrices are {pattern}, which is also 2:4.")
    assert "to_sparse_semi_structured" in text


@pytest.mark.parametrize(
    "kinds, head",
    [
        ([SCATTERED, SCATTERED], "The zeros are unstructured."),
        ([SCATTERED, DENSE], "The zeros are unstructured."),
        ([(50, ("4:8",)), (50, ("4:8", "8:16"))], "All 2 matrices are 4:8."),
        ([(50, ("4:8",)), SCATTERED], "The pattern is mixed: 1 of 2 matrices are N:M."),
    ],
)
def test_says_plainly_when_nothing_gains(kinds, head):
    text = what_to_expect(matrices(*kinds))
    assert text.startswith(head)
    assert "No runtime in wide use runs this pattern faster than the dense model." in text
    assert SAME_SIZE in text
    assert not any(word in text for word in SEMI_STRUCTURED)


@pytest.mark.parametrize("other", [DENSE, SCATTERED, (50, ("4:8",))])
def test_mixed_is_not_called_semi_structured(other):
    text = what_to_expect(matrices(HALF, other, HALF))
    assert text.startswith("The pattern is mixed: 2 of 3 matrices are 2:4, and only those can gain.")


def test_dense_promises_nothing():
    text = what_to_expect(matrices(DENSE, (1, ()), DENSE))
    assert text == "All 3 matrices are dense. There are no zeros that a runtime could skip."
