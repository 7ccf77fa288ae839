"""Select several calibration sets from the same rollouts: generating takes long, selecting does not."""

import argparse

from optimum_ssgr import CalibrationConfig, SSGRPruner, load_problems


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="tiny-reasoner", help="Hub id or folder (default: the embedded model)")
model_id = parser.parse_args().model

sampling = {"samples_per_problem": 4, "max_new_tokens": 300}
budget = {"num_sequences": None, "num_tokens": 2000}
pruner = SSGRPruner.from_pretrained(model_id)
# With journal_dir=..., finished rollouts would be kept on disk and found again by the next call.
rollouts = pruner.generate_rollouts(load_problems("tiny-reasoner", limit=32), CalibrationConfig(**sampling))
print(f"{len(rollouts)} rollouts, {sum(item.verdict.correct for item in rollouts)} of them right")

for strategy in ("cover", "ssgr", "self"):
    chosen = pruner.select_calibration(rollouts, CalibrationConfig(strategy=strategy, **sampling, **budget))
    rates = [row["pass_rate"] for row in chosen.dataset]
    print(
        f"{strategy:<5} {len(chosen.dataset):>3} sequences, {sum(chosen.dataset['num_tokens'])} tokens, "
        f"mean pass rate of their problems {sum(rates) / len(rates):.2f}"
    )
