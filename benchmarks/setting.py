"""What the benchmarks on the embedded reasoner share: sizes, and a calibration set by seed."""

import dataclasses

from optimum_ssgr import CalibrationConfig, SamplingConfig, SSGRPruner, load_problems
from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.reasoner import NAME


CALIBRATION_PROBLEMS = 640
CALIBRATION = CalibrationConfig(
    strategy="ssgr", num_sequences=None, num_tokens=12000, samples_per_problem=8, max_new_tokens=400, text_length=160
)
EVALUATION = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=400)
BATCH_SIZE = 128


def calibrate(dense: SSGRPruner, seed: int) -> CalibrationSet:
    """Make the set of a seed from the dense model's own traces (`ssgr`)."""
    problems = load_problems(NAME, split="train", limit=CALIBRATION_PROBLEMS, seed=seed)
    return dense.build_calibration(problems, dataclasses.replace(CALIBRATION, seed=seed), batch_size=BATCH_SIZE)
