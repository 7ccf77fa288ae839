"""Prune a model to 2:4, recover it on its own right traces, and quantize it to 8 bits, with the zeros kept by both.

Quantizing takes torchao (`pip install torchao`), which rounds to the nearest of evenly spaced values: zero stays zero.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, TorchAoConfig

from optimum_ssgr import CalibrationConfig, PruningConfig, RecoveryConfig, SSGRPruner, load_problems, recover


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="tiny-reasoner", help="Hub id or folder (default: the embedded model)")
model_id = parser.parse_args().model


def zeros_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return where the weights of the decoder blocks' linear layers are zero, by name."""
    weights = {name: weight for name, weight in model.named_parameters() if name.endswith("proj.weight")}
    return {name: getattr(weight, "qdata", weight) == 0 for name, weight in weights.items()}


def size_of(folder: Path) -> float:
    """Return the megabytes that the weights in a folder take."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6


with TemporaryDirectory() as name:
    folder = Path(name)
    pruner = SSGRPruner.from_pretrained(model_id)
    # The budget is small, so that this takes seconds.
    config = CalibrationConfig(strategy="self", samples_per_problem=2, max_new_tokens=300, num_sequences=None, num_tokens=2000)
    calibration = pruner.build_calibration(load_problems("tiny-reasoner", limit=24), config)
    pruner.prune(calibration, PruningConfig(method="wanda", pattern="2:4"))
    pruner.save_pretrained(folder / "sparse")

    # A model of billions of parameters takes a learning rate of 1e-5 to 5e-5.
    report = recover(str(folder / "sparse"), calibration, folder / "recovered", RecoveryConfig(epochs=1, learning_rate=1e-3))
    print(report)

    to_8_bits = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    quantized = AutoModelForCausalLM.from_pretrained(folder / "recovered", quantization_config=to_8_bits)
    quantized.save_pretrained(folder / "quantized")  # safetensors, which transformers loads where torchao is installed

    before = zeros_of(AutoModelForCausalLM.from_pretrained(folder / "recovered"))
    after = zeros_of(AutoModelForCausalLM.from_pretrained(folder / "quantized"))
    lost = sum(int((before[name] & ~after[name]).sum()) for name in before)
    counts = [sum(int(zeros.sum()) for zeros in found.values()) for found in (before, after)]
    print(f"{counts[0]:,} zeros before and {counts[1]:,} after quantizing, {lost} lost")
    print(f"{size_of(folder / 'recovered'):.2f} MB before and {size_of(folder / 'quantized'):.2f} MB after")

    ids = torch.tensor([[1, 2, 3]])
    print(f"generates {quantized.generate(ids, max_new_tokens=3, do_sample=False).shape[1] - 3} tokens")
