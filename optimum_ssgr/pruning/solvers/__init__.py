"""Pruning algorithms as pure functions: a weight matrix and statistics of its inputs give the pruned weights."""
