"""Make the cards of `docs/cards` from a small run on the embedded reasoner: `python benchmarks/cards.py`."""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from optimum_ssgr import PruningConfig, SamplingConfig, SSGRPruner
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner import NAME


CARDS = Path(__file__).parents[1] / "docs" / "cards"
CALIBRATE = (
    f"ssgr calibrate calibration -m {NAME} --problems {NAME} --num-problems 32 --samples-per-problem 8 --max-new-tokens 400 "
    "--num-tokens 3000"
)
GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=400)
PROBLEMS = 100


def evaluate(pruner: SSGRPruner, model: str) -> dict:
    """Evaluate on problems of the test split, for a row of the card."""
    problems = load_problems(NAME, split="test", limit=PROBLEMS)
    about = {"model": model, "source": NAME, "split": "test", "sampling": GREEDY.to_dict()}
    return about | pruner.evaluate(problems, GREEDY, batch_size=128)


def main() -> None:
    """Calibrate, prune, evaluate and save, and keep the cards and what they were rendered from."""
    with TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name("optimum-cli"), *CALIBRATE.split()]
        subprocess.run(command, cwd=folder, check=True)
        pruner = SSGRPruner.from_pretrained(NAME)
        dense = evaluate(pruner, "dense")
        pruner.prune(Path(folder) / "calibration", PruningConfig(method="sparsegpt", sparsity=0.5))
        pruner.save_pretrained(Path(folder) / "sparse", evaluation=[dense, evaluate(pruner, "sparse")])
        shutil.rmtree(CARDS, ignore_errors=True)
        for source, target, names in (
            ("sparse", "model", ("README.md", "ssgr_config.json")),
            ("calibration", "dataset", ("README.md", "manifest.json", "histograms.png")),
        ):
            (CARDS / target).mkdir(parents=True)
            for name in names:
                shutil.copy(Path(folder) / source / name, CARDS / target)


if __name__ == "__main__":
    main()
