"""Choose the demo's sparsity on the development split: `python benchmarks/demo_sparsity.py`.

Prints accuracy by sparsity, method and strategy on problems that the demo's evaluation never uses. The demo takes the
sparsity at which the two calibrations differ most (with SparseGPT) while the better one still solves at least half of what the
dense model solves.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from optimum_ssgr import run_study
from optimum_ssgr.study.demo import demo_config
from optimum_ssgr.study.report import summarize_report


def main() -> None:
    """Run the demo's study on the dev split at several sparsities."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.6])
    parser.add_argument("--num-problems", type=int, default=300)
    args = parser.parse_args()
    config = demo_config(split="dev", num_problems=args.num_problems)
    config = dataclasses.replace(config, sparsities=tuple(args.sparsities), keep_checkpoints=False)
    with tempfile.TemporaryDirectory() as folder:
        report = run_study(config, Path(folder) / "study", processes=2)
    print(f"{args.num_problems} dev problems, {config.seeds} calibration seeds")
    print(summarize_report(report))


if __name__ == "__main__":
    main()
