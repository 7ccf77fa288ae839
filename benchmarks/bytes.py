"""What zeros save in storage and on the way: `python benchmarks/bytes.py [FOLDER ...]`.

Compresses the weights of checkpoints by general means, file by file, and prints sizes relative to the raw ones. Without a
folder, it prunes the embedded reasoner in bfloat16 and compares dense, 50 %, 2:4 and 70 %. zstd and ZipNN are left out where
they are not installed (`pip install zstandard zipnn`). "zeros" is the share in the linear layers of the blocks; "mask" is what
a bit mask and the other weights would take, which no container that transformers loads has.
"""

import argparse
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import hf_xet

from optimum_ssgr import PruningConfig, SSGRPruner
from optimum_ssgr.checkpoints.inspect import block_matrices, checkpoint_files, count_layers, inspect_checkpoint
from optimum_ssgr.checkpoints.tensor_files import read_header
from optimum_ssgr.reasoner import NAME


SPARSITIES = {"50 %": {"sparsity": 0.5}, "2:4": {"pattern": "2:4"}, "70 %": {"sparsity": 0.7}}


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    """Return the means that are installed, by name."""
    found: dict[str, Callable[[bytes], bytes]] = {"zip (zlib 6)": lambda data: zlib.compress(data, 6)}
    try:
        import zstandard

        found["zstd 3"] = zstandard.ZstdCompressor(level=3).compress
    except ImportError:
        pass
    try:
        from zipnn import ZipNN
    except ImportError:
        return found

    def zipnn(data: bytes) -> bytes:
        packed = ZipNN(input_format="byte", bytearray_dtype="bfloat16").compress(bytearray(data))  # which it changes
        assert bytes(ZipNN(input_format="byte", bytearray_dtype="bfloat16").decompress(packed)) == data
        return packed

    return found | {"ZipNN": zipnn}


def sent_size(folder: Path) -> int:
    """Return the bytes that the Hub's client stores of a checkpoint: it cuts files into chunks and compresses each."""
    with TemporaryDirectory() as store:
        with hf_xet.XetSession().new_upload_commit(
            endpoint=f"local://{store}", token="none", token_expiry_unix_secs=2**33
        ) as commit:
            for path in checkpoint_files(folder):
                commit.start_upload_file(str(path))
        blocks = Path(store).glob("**/xorbs/xorbs/default.*")
        return sum(path.stat().st_size for path in blocks if path.suffix != ".tagset")


def masked_size(folder: Path) -> int:
    """Return the bytes of a checkpoint whose block matrices are stored as a bit mask and the weights that are not zero."""
    stored = {name: tensor for path in checkpoint_files(folder) for name, tensor in read_header(path)[0].items()}
    size = sum(tensor.size for tensor in stored.values())
    for matrix in block_matrices(list(inspect_checkpoint(folder)), count_layers(folder)):
        size += matrix.weights // 8 - matrix.zeros * stored[matrix.name].size // matrix.weights
    return size


def measure(name: str, folder: Path) -> str:
    """Return a row of the table."""
    matrices = block_matrices(list(inspect_checkpoint(folder)), count_layers(folder))
    zeros = sum(matrix.zeros for matrix in matrices) / sum(matrix.weights for matrix in matrices)
    files = [path.read_bytes() for path in checkpoint_files(folder)]
    raw = sum(map(len, files))
    cells = [sum(len(compress(data)) for data in files) / raw for compress in compressors().values()]
    shares = " | ".join(f"{cell:.3f}" for cell in [*cells, sent_size(folder) / raw, masked_size(folder) / raw])
    return f"| {name} | {zeros:.1%} | {raw / 1e6:.2f} MB | {shares} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="checkpoints with safetensors (default: the embedded model's)")
    parser.add_argument("--dtype", default="bfloat16", help="type of the embedded model's weights (default: %(default)s)")
    args = parser.parse_args()
    names = [*compressors(), "Xet", "mask"]
    print("| checkpoint | zeros | raw | " + " | ".join(names) + " |\n" + "|---" * (3 + len(names)) + "|")
    for folder in args.folders:
        print(measure(folder.name, folder), flush=True)
    if args.folders:
        return
    with TemporaryDirectory() as name:
        dense = SSGRPruner.from_pretrained(NAME, dtype=args.dtype)
        dense.model.save_pretrained(Path(name) / "dense")
        print(measure("dense", Path(name) / "dense"), flush=True)
        for target, settings in SPARSITIES.items():
            pruner = SSGRPruner.from_pretrained(NAME, dtype=args.dtype)
            pruner.prune(config=PruningConfig(method="magnitude", **settings))
            folder = Path(name) / target.replace(":", "-").replace(" %", "")
            pruner.save_pretrained(folder)
            print(measure(target, folder), flush=True)


if __name__ == "__main__":
    main()
