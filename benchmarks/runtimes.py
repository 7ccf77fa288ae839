"""What zeros gain on a CPU when one token is decoded: `python benchmarks/runtimes.py`.

Times the seven linear layers of a decoder block on one token, in float32 and on one thread, with dense weights, 50 %, 2:4 and
90 % zeros, in PyTorch as it is, in PyTorch's sparse format (CSR), and in OpenVINO and ONNX Runtime where they are installed
(`pip install openvino onnx onnxruntime`). A cell is the speed relative to dense weights in plain PyTorch, from the least of
the times of all rounds; in a round everything is run once, in turn. OpenVINO is told the share of zeros from which it is to
make use of them, which it does on CPUs with AMX and for weights and activations of 8 bits.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from optimum_ssgr.pruning.patterns import NofM, Unstructured
from optimum_ssgr.pruning.solvers.magnitude import magnitude


TARGETS = {"dense": None, "50 %": Unstructured(0.5), "2:4": NofM(2, 4), "90 %": Unstructured(0.9)}
Weights = dict[str, torch.Tensor]
Run = Callable[[], object]


def make_weights(hidden: int, intermediate: int, pattern: NofM | Unstructured | None) -> Weights:
    """Make the seven matrices of a block of Qwen2's kind, with a sixth of the heads for keys and values."""
    shapes = {"q": (hidden, hidden), "k": (hidden // 6, hidden), "v": (hidden // 6, hidden), "o": (hidden, hidden)}
    shapes |= {"gate": (intermediate, hidden), "up": (intermediate, hidden), "down": (hidden, intermediate)}
    generator = torch.Generator().manual_seed(0)
    dense = {name: torch.randn(*shape, generator=generator) / shape[1] ** 0.5 for name, shape in shapes.items()}
    return {name: weight if pattern is None else magnitude(weight, pattern) for name, weight in dense.items()}


def inputs_of(weights: Weights) -> dict[str, torch.Tensor]:
    """Make one token's input for every matrix, the same for those that share it."""
    generator = torch.Generator().manual_seed(1)
    wide, narrow = (torch.randn(1, weights[name].shape[1], generator=generator) for name in ("down", "q"))
    return {name: wide if name == "down" else narrow for name in weights}


def in_torch(weights: Weights) -> Run:
    """Multiply as PyTorch does."""
    inputs = inputs_of(weights)
    return lambda: [torch.nn.functional.linear(inputs[name], weight) for name, weight in weights.items()]


def in_csr(weights: Weights) -> Run:
    """Multiply in PyTorch's compressed sparse rows."""
    inputs = {name: value[0] for name, value in inputs_of(weights).items()}
    packed = {name: weight.to_sparse_csr() for name, weight in weights.items()}
    return lambda: [weight @ inputs[name] for name, weight in packed.items()]


def in_openvino(weights: Weights) -> Run:
    """Multiply in OpenVINO, with sparse weights allowed."""
    import openvino
    from openvino import opset13

    inputs = {name: value.numpy() for name, value in inputs_of(weights).items()}
    given = [opset13.parameter(list(inputs[name].shape), np.float32, name) for name in ("q", "down")]
    products = [
        opset13.matmul(given[name == "down"], opset13.constant(weight.numpy()), False, True) for name, weight in weights.items()
    ]
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.4}
    compiled = openvino.Core().compile_model(openvino.Model(products, given), "CPU", settings)
    request, values = compiled.create_infer_request(), [inputs["q"], inputs["down"]]
    return lambda: request.infer(values)


def in_onnxruntime(weights: Weights) -> Run:
    """Multiply in ONNX Runtime."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    inputs = inputs_of(weights)
    given = {"narrow": inputs["q"].numpy(), "wide": inputs["down"].numpy()}
    nodes = [helper.make_node("MatMul", ["wide" if name == "down" else "narrow", name], [f"{name}_out"]) for name in weights]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in given.items()]
    results = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None) for name in weights]
    held = [numpy_helper.from_array(np.ascontiguousarray(weight.T.numpy()), name) for name, weight in weights.items()]
    graph = helper.make_graph(nodes, "block", values, results, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda: session.run(None, given)


RUNTIMES = {"PyTorch": in_torch, "PyTorch CSR": in_csr, "OpenVINO": in_openvino, "ONNX Runtime": in_onnxruntime}


def main() -> None:
    """Print one row per runtime."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--intermediate", type=int, default=8960)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[tuple[str, str], Run] = {}
    for target, pattern in TARGETS.items():
        weights = make_weights(args.hidden, args.intermediate, pattern)
        for runtime, make in RUNTIMES.items():
            try:
                runs[runtime, target] = make(weights)
            except ImportError as error:
                print(f"{runtime} is left out: {error}")
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    with torch.inference_mode():
        for _ in range(args.rounds + 1):
            for key, run in runs.items():
                began = time.perf_counter()
                run()
                times[key].append(time.perf_counter() - began)
    least = {key: min(of_key[1:]) for key, of_key in times.items()}
    unit = least["PyTorch", "dense"]
    amx = "amx_int8" in Path("/proc/cpuinfo").read_text()
    print(f"dense in PyTorch: {1000 * unit:.1f} ms a token; this CPU has {'AMX' if amx else 'no AMX'}")
    print(f"| runtime | {' | '.join(TARGETS)} |\n{'|---' * (len(TARGETS) + 1)}|")
    for runtime in dict.fromkeys(runtime for runtime, _ in runs):
        print(f"| {runtime} | {' | '.join(f'{unit / least[runtime, target]:.2f}' for target in TARGETS)} |")


if __name__ == "__main__":
    main()
