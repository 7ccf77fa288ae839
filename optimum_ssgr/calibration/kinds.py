"""Kinds of problems where nobody has named them: clusters of what the model makes of the questions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..records import GradedRollout


EVERY_NTH_BLOCK = 4
DIMENSIONS = 64
FEWEST, MOST = 4, 16
"""Clusters that are tried."""
SMALLEST = 0.02
"""Share of the problems below which a cluster joins its nearest."""
ITERATIONS = 100
JUDGED = 2000
"""Problems, drawn by the seed, on which numbers of clusters are compared: that takes the square of their number."""


def name_kinds(rollouts: Sequence[GradedRollout], model: PreTrainedModel, seed: int) -> list[GradedRollout]:
    """Give problems without a kind one: that of the cluster which their prompt falls into.

    Args:
        rollouts: Rollouts of the model, with their prompts.
        model: The model, in memory.
        seed: Seed of the projection and of the clusters.

    Returns:
        The rollouts in their order; those whose problem has a kind are as they were.
    """
    prompts = {item.problem.id: item.rollout.prompt_ids for item in rollouts if item.problem.kind is None}
    if not prompts:
        return list(rollouts)
    names = sorted(prompts)
    clusters = find_clusters(embed_prompts(model, [prompts[name] for name in names], seed), seed)
    kinds = {name: f"cluster {cluster + 1}" for name, cluster in zip(names, clusters, strict=True)}
    return [replace(item, problem=replace(item.problem, kind=item.problem.kind or kinds[item.problem.id])) for item in rollouts]


@torch.inference_mode()
def embed_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]], seed: int) -> np.ndarray:
    """Describe prompts by the inputs of every fourth block, as in COLA (arXiv 2510.10618).

    Args:
        model: The model, in memory.
        prompts: Token ids.
        seed: Seed of the random projection.

    Returns:
        float64 [prompts, 64]: the mean over the tokens of each block's input, scaled to length 1, side by side, projected.
    """
    model.eval()
    device = model.get_input_embeddings().weight.device
    rows = []
    for ids in tqdm(prompts, desc="read questions", unit="problem"):
        states = model.base_model(torch.tensor([list(ids)], device=device), output_hidden_states=True, use_cache=False)
        inputs = states.hidden_states[:-1][::EVERY_NTH_BLOCK]
        means = [of_block[0].float().mean(0).cpu() for of_block in inputs]
        rows.append(torch.cat([mean / mean.norm().clamp(min=1e-12) for mean in means]).numpy())
    features = np.stack(rows).astype(np.float64)
    projection = np.random.default_rng(seed).standard_normal((features.shape[1], DIMENSIONS)) / np.sqrt(DIMENSIONS)
    return features @ projection


def find_clusters(points: np.ndarray, seed: int) -> list[int]:
    """Cluster points by k-means, with as many clusters as give the best silhouette (Rousseeuw, 1987).

    Args:
        points: float [points, dimensions].
        seed: Seed of the first centres.

    Returns:
        Cluster of each point, numbered by their sizes, the largest 0.
    """
    rng = np.random.default_rng(seed)
    judged = rng.permutation(len(points))[:JUDGED]
    best: tuple[float, np.ndarray] = (-np.inf, np.zeros(len(points), int))
    for count in range(FEWEST, min(MOST, len(np.unique(points, axis=0)) - 1) + 1):
        labels = _merge_small(points, _k_means(points, count, rng))
        score = _silhouette(points[judged], labels[judged])
        best = max(best, (score, labels), key=lambda found: found[0])
    labels = best[1]
    names, sizes = np.unique(labels, return_counts=True)
    order: Mapping[int, int] = {name: place for place, name in enumerate(names[np.argsort(-sizes, kind="stable")])}
    return [order[label] for label in labels]


def _k_means(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's iterations from centres that are drawn far apart (k-means++, Arthur and Vassilvitskii, 2007)."""
    centres = points[[rng.integers(len(points))]]
    while len(centres) < count:
        squared = _squared_distances(points, centres).min(1)
        chances = squared / squared.sum() if squared.sum() else None
        centres = np.vstack([centres, points[rng.choice(len(points), p=chances)]])
    labels = np.full(len(points), -1)
    for _ in range(ITERATIONS):
        nearest = _squared_distances(points, centres).argmin(1)
        if np.array_equal(nearest, labels):
            break
        labels = nearest
        centres = np.stack(
            [points[labels == label].mean(0) if (labels == label).any() else centres[label] for label in range(count)]
        )
    return labels


def _merge_small(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Let every cluster that is too small join the one whose centre is nearest, the smallest first."""
    labels = labels.copy()
    while True:
        names, sizes = np.unique(labels, return_counts=True)
        if len(names) == 1 or sizes.min() >= SMALLEST * len(points):
            return labels
        centres = np.stack([points[labels == name].mean(0) for name in names])
        smallest = sizes.argmin()
        distances = _squared_distances(centres[[smallest]], centres)[0]
        distances[smallest] = np.inf
        labels[labels == names[smallest]] = names[distances.argmin()]


def _silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """How much nearer points are, on average, to their own cluster than to the next one; -1 to 1."""
    names = np.unique(labels)
    if len(names) < 2:
        return -1.0
    distances = np.sqrt(_squared_distances(points, points))
    sums = np.stack([distances[:, labels == name].sum(1) for name in names], 1)
    sizes = np.array([(labels == name).sum() for name in names])
    own = np.searchsorted(names, labels)
    places = np.arange(len(points))
    inside = sums[places, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[places, own] = np.inf
    outside = means.min(1)
    scores = (outside - inside) / np.maximum(np.maximum(inside, outside), 1e-12)
    return float(np.where(sizes[own] > 1, scores, 0.0).mean())


def _squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    products = (points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * points @ centres.T
    return np.maximum(products, 0.0)
