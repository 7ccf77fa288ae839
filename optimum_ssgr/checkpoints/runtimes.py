"""Which runtimes can use a sparsity pattern, as of 2026, and under which conditions.

Where the sentences come from:

- PyTorch: `torch/sparse/semi_structured.py` of PyTorch 2.13 (a prototype for 2-D CUDA tensors; in 16 bits, sides are multiples
  of 16 and 16 with cuSPARSELt, of 32 and 64 with CUTLASS).
- cuSPARSELt: https://docs.nvidia.com/cuda/cusparselt (compute capability 8.0 and newer; 2:4 in 8 and 16 bits).
- TensorRT: https://developer.nvidia.com/blog/accelerating-inference-with-sparsity-using-ampere-and-tensorrt and
  https://docs.nvidia.com/deeplearning/tensorrt/11.1.0/inference-library/data-formats-tensors.html.
- Where 2:4 pays: https://arxiv.org/abs/2603.05232 (in compute-bound work; other N:M patterns run densely) and
  https://forums.developer.nvidia.com/t/340931 (12 % slower than dense when decoding one sequence).
- vLLM: https://github.com/vllm-project/vllm/pull/36799 (2:4 kernels removed, March 2026) and
  https://github.com/vllm-project/llm-compressor/issues/2267 (marlin24 dropped). LLM Compressor:
  https://github.com/vllm-project/llm-compressor/pull/2452 (sparse formats removed).
- Scattered zeros on GPUs: the TensorRT post above, and https://icml.cc/virtual/2026/poster/63039 (other kernels are slow at
  30-90 % sparsity; a research kernel that gains).
- DeepSparse: https://github.com/neuralmagic/deepsparse (development ceased on June 2, 2025).
- OpenVINO: https://github.com/openvinotoolkit/openvino, CPU device, "Sparse weights decompression" and its limitations.
"""

from collections.abc import Collection

from .inspect import TensorSparsity, common_pattern


NO_GAIN = "No runtime in wide use runs this pattern faster than the dense model."
SAME_SIZE = "The files are as large as the dense model's, because zeros are stored like all other weights."
DENSE_BELOW = 0.01  # share of zeros; rounding leaves a few in models that nobody pruned
EXPECTATIONS = {
    "2:4": (
        "NVIDIA GPUs from Ampere on have hardware for 2:4, used only where the weights are packed for it: in PyTorch by "
        "torch.sparse.to_sparse_semi_structured (a prototype; for 2-D weights in float16, bfloat16 or int8 whose sides are "
        "multiples of 16 with cuSPARSELt, of more with CUTLASS or int8), and in TensorRT where the engine is built with sparse "
        "weights allowed.",
        "It pays with long prompts and large batches, and can be slower than dense where one sequence is generated at a time: "
        "measure it.",
        "vLLM and LLM Compressor removed the sparse formats for 2:4 in 2026, so vLLM runs this checkpoint at the dense model's "
        "speed.",
    ),
    "N:M": (NO_GAIN, "In 8 and 16 bits GPUs have hardware for 2:4 alone."),
    "unstructured": (
        NO_GAIN,
        "On GPUs only research kernels gain from scattered zeros; on CPUs DeepSparse did, which ended in 2025.",
        "What comes nearest is OpenVINO's sparse weights decompression: it is off by default, and needs weights quantized to 8 "
        "bits with a high share of zeros, both sides multiples of 64, and an Intel CPU with AMX.",
    ),
    "dense": ("There are no zeros that a runtime could skip.",),
}


def what_to_expect(matrices: Collection[TensorSparsity]) -> str:
    """Say in plain sentences which runtimes can run these matrices faster than dense ones, and how large the files are.

    Args:
        matrices: Weight matrices of the blocks, at least one.
    """
    count = len(matrices)
    pattern = common_pattern(matrices)
    semi_structured = sum("2:4" in matrix.patterns for matrix in matrices)
    patterned = sum(matrix.pattern is not None for matrix in matrices)
    if semi_structured == count:
        kind, head = "2:4", f"All {count} matrices are {pattern}{'' if pattern == '2:4' else ', which is also 2:4'}."
    elif semi_structured:
        kind, head = "2:4", f"The pattern is mixed: {semi_structured} of {count} matrices are 2:4, and only those can gain."
    elif pattern:
        kind, head = "N:M", f"All {count} matrices are {pattern}."
    elif patterned:
        kind, head = "N:M", f"The pattern is mixed: {patterned} of {count} matrices are N:M."
    elif sum(matrix.zeros for matrix in matrices) < DENSE_BELOW * sum(matrix.weights for matrix in matrices):
        kind, head = "dense", f"All {count} matrices are dense."
    else:
        kind, head = "unstructured", "The zeros are unstructured."
    return " ".join([head, *EXPECTATIONS[kind], *(() if kind == "dense" else (SAME_SIZE,))])
