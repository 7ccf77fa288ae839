"""The embedded tiny reasoner: a real causal language model that reasons step by step about graded problems."""

from pathlib import Path


NAME = "tiny-reasoner"
"""Stands for the embedded model, and for its problems, wherever a Hub id or a path may stand."""

WEIGHTS = Path(__file__).parent / "weights"
