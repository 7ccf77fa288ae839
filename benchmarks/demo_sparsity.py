"""Choose the demo's sparsity on the development split: `python benchmarks/demo_sparsity.py`.

Prints accuracy by sparsity, method and strategy on problems that the demo's evaluation never uses. The demo takes the
sparsity at which the two calibrations differ most (with SparseGPT) while the better one still solves at least half of what the
dense model solves.
"""

import argparse
import tempfile
from pathlib import Path

from optimum_ssgr.commands import demo
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.problems.load import load_problems


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--sparsities", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.6])
parser.add_argument("--num-problems", type=int, default=300)
arguments = parser.parse_args()

problems = load_problems("tiny-reasoner", split="dev", limit=arguments.num_problems)
for sparsity in arguments.sparsities:
    configs = {method: PruningConfig(method=method, sparsity=sparsity) for method in demo.METHODS}
    with tempfile.TemporaryDirectory() as folder:
        report = demo.run(problems, configs, Path(folder) / "checkpoints")
    print(f"\nsparsity {sparsity}, {len(problems)} dev problems, {len(demo.SEEDS)} calibration seeds")
    print(demo.as_text(report), flush=True)
