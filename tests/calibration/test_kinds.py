"""Kinds that nobody named, found by clustering."""

import numpy as np
import torch

from optimum_ssgr.calibration.kinds import DIMENSIONS, embed_prompts, find_clusters, name_kinds
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner.tasks import FAMILIES
from optimum_ssgr.records import GradedRollout, Rollout, Verdict
from optimum_ssgr.rollouts.prompts import encode_prompts


def blobs(sizes, seed=0):
    rng = np.random.default_rng(seed)
    centres = 10 * rng.standard_normal((len(sizes), DIMENSIONS))
    points = np.vstack([centre + rng.standard_normal((size, DIMENSIONS)) for centre, size in zip(centres, sizes, strict=True)])
    return points, np.repeat(np.arange(len(sizes)), sizes)


def test_clusters_that_lie_apart_are_found_and_numbered_by_size():
    points, truth = blobs([40, 90, 20, 60, 30])
    labels = np.array(find_clusters(points, seed=0))
    assert [set(labels[truth == blob]) for blob in (1, 3, 0, 4, 2)] == [{0}, {1}, {2}, {3}, {4}]
    assert find_clusters(points, seed=0) == labels.tolist()


def test_a_few_outliers_are_no_kind_of_their_own():
    points, truth = blobs([100, 100, 100, 100, 3])
    labels = np.array(find_clusters(points, seed=0))
    assert len(set(labels)) == 4
    assert all(len(set(labels[truth == blob])) == 1 for blob in range(4))


def test_points_that_are_all_alike_are_one_kind():
    assert find_clusters(np.ones((12, DIMENSIONS)), seed=0) == [0] * 12


def test_the_states_of_a_prompt_do_not_depend_on_the_others(reasoner):
    model, tokenizer = reasoner
    prompts = list(encode_prompts(tokenizer, load_problems("tiny-reasoner", limit=6)).values())
    together = embed_prompts(model, prompts, seed=3)
    states = model.model(torch.tensor([prompts[2]]), output_hidden_states=True).hidden_states[:-1][::4]
    means = [of_block[0].detach().float().mean(0) for of_block in states]
    features = torch.cat([mean / mean.norm() for mean in means]).double().numpy()
    projection = np.random.default_rng(3).standard_normal((len(features), DIMENSIONS)) / 8
    np.testing.assert_allclose(together[2], features @ projection, rtol=1e-4, atol=1e-6)


def test_questions_of_the_embedded_reasoner_are_told_apart_as_its_families_are(reasoner):
    """Every cluster but for a few questions is of one family."""
    model, tokenizer = reasoner
    problems = load_problems("tiny-reasoner", limit=120)
    prompts = encode_prompts(tokenizer, problems)
    nameless = [
        GradedRollout(problem.__class__(**{**vars(problem), "kind": None}), made, Verdict(None, True, True), "")
        for problem in problems
        for made in [Rollout(problem.id, 0, prompts[problem.id], (1,), True)]
    ]
    named = name_kinds(nameless, model, seed=0)
    families = {problem.id: problem.kind for problem in problems}
    members = {}
    for item in named:
        members.setdefault(item.problem.kind, []).append(families[item.problem.id])
    assert sum(max(map(found.count, FAMILIES)) for found in members.values()) >= 0.95 * len(problems)
    again = name_kinds(named, model, seed=1)  # what has a kind keeps it
    assert again == named
