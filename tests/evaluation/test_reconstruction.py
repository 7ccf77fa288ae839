import copy

import pytest
import torch

from optimum_ssgr.evaluation.reconstruction import hidden_states, reference_sequences, relative_errors
from optimum_ssgr.records import GradedRollout, Problem, Rollout, Verdict


def response(name, tokens, correct):
    rollout = Rollout(name, 0, (1, 2), tuple(range(3, 3 + tokens)), True)
    return GradedRollout(Problem(name, "q", "a"), rollout, Verdict(None, correct, True), "")


def test_reference_is_right_and_within_its_tokens():
    graded = [response("a", 50, False), response("b", 30, True), response("c", 80, True), response("d", 20, True)]
    assert [len(ids) for ids in reference_sequences(graded, 60)] == [32, 22]
    assert [len(ids) for ids in reference_sequences(graded, 1)] == [32]


def test_errors_against_the_model_cut_open(reasoner):
    model, _ = reasoner
    sequences = [[1, 5, 9, 33, 40], [1, 7, 2, 8]]
    dense = [hidden_states(model, ids) for ids in sequences]
    assert dense[0].shape == (4, 5, 192)
    assert relative_errors(model, sequences, dense) == [0, 0, 0, 0]
    pruned = copy.deepcopy(model)
    pruned.model.layers[2].mlp.down_proj.weight.data.zero_()
    errors = relative_errors(pruned, sequences, dense)
    assert errors[:2] == [0, 0]
    seen = []
    for of in (model, pruned):
        handle = of.model.layers[2].register_forward_hook(lambda *call: seen.append(call[2]))
        with torch.no_grad():
            for ids in sequences:
                of(torch.tensor([ids]))
        handle.remove()
    outputs = [out[0] if isinstance(out, tuple) else out for out in seen]
    off = sum((after - before).square().sum().item() for before, after in zip(outputs[:2], outputs[2:], strict=True))
    assert errors[2] == pytest.approx(off / sum(out.square().sum().item() for out in outputs[:2]), rel=1e-5)
    assert errors[3] > 0
