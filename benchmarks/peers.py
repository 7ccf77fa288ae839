"""Compare time and peak memory of pruning with llm-compressor and the original SparseGPT and Wanda.

    python benchmarks/peers.py --sparsegpt-repo ~/sparsegpt --wanda-repo ~/wanda --llmcompressor-python ~/llmc/bin/python

All contenders prune the same random-weight Qwen2 with the same calibration tokens on the same number of threads, to 50 % zeros
anywhere and to 2:4. Every run is a process of its own, and the contenders take turns, in another order in each repeat, so that
a disturbance of the machine meets all of them. Contenders whose path is not given are left out; nothing is downloaded. How to
install them is in `benchmarks/README.md`, what exactly is run in `benchmarks/peers/`.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from peers.setting import Setting, Task, prepare


METHODS = ("sparsegpt", "wanda")
PATTERNS = ("50%", "2:4")
VARIANTS = ("two passes", "one pass", "streamed")
MIB = 2**20
Record = dict[str, Any]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmcompressor-python", type=Path, help="Python of the environment that llm-compressor is in")
    parser.add_argument("--sparsegpt-repo", type=Path, help="clone of github.com/IST-DASLab/sparsegpt")
    parser.add_argument("--wanda-repo", type=Path, help="clone of github.com/locuslab/wanda")
    parser.add_argument("--llmcompressor-batch", type=int, default=1, help="llm-compressor's batch size (default %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=PATTERNS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--records", type=Path, help="also write every run's measurements to this file, one JSON a line")
    for field in dataclasses.fields(Setting):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default)
    return parser.parse_args()


def list_tasks(arguments: argparse.Namespace, folder: Path) -> list[list[tuple[str, Task]]]:
    """Return for every method and pattern the contenders' runs, each with the Python that runs it."""
    groups = []
    for method in arguments.methods:
        for pattern in arguments.patterns:
            common = (method, pattern, str(folder), str(folder / "result.json"), arguments.threads)
            tasks = [(sys.executable, Task("ours", *common, variant=variant)) for variant in VARIANTS]
            if repo := getattr(arguments, f"{method}_repo"):
                tasks.append((sys.executable, Task(method, *common, repo=str(repo.resolve()))))
            if python := arguments.llmcompressor_python:
                task = Task("llm-compressor", *common, batch=arguments.llmcompressor_batch)
                tasks.append((str(python.absolute()), task))  # not resolved: a venv's python is a link
            groups.append(tasks)
    return groups


def run(python: str, task: Task) -> Record:
    """Run one contender in a process of its own and return what it measured.

    Raises:
        RuntimeError: The worker failed; its output is in the message.
    """
    threads = {name: str(task.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    path = os.pathsep.join([str(Path(__file__).parent.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **threads, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [python, "-m", "peers.worker", json.dumps(dataclasses.asdict(task))]
    Path(task.result).unlink(missing_ok=True)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{label(dataclasses.asdict(task))} failed:\n{done.stdout[-4000:]}")
    return json.loads(Path(task.result).read_text())


def label(record: Record) -> str:
    """Name a contender as the table does."""
    if record["contender"] == "llm-compressor":
        return "llm-compressor"
    return f"ours {record['variant']}".strip() if record["contender"] == "ours" else f"original {record['contender']}"


def spread(values: list[float], digits: int) -> str:
    """Median with the least and the greatest value."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def as_table(records: list[Record]) -> str:
    """Lay the measurements out as Markdown; ratios are medians of the ratios within each repeat."""
    groups: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        groups.setdefault((record["method"], record["pattern"]), {}).setdefault(label(record), []).append(record)
    ours = [name for name in dict.fromkeys(map(label, records)) if name.startswith("ours")]
    ratios = [(field, name) for field in ("seconds", "added") for name in ours]
    headings = ["method", "pattern", "contender", "time [s]", "CPU time [s]", "added peak [MiB]", "peak [MiB]"]
    headings += [f"{'time' if field == 'seconds' else 'added peak'} / {name}" for field, name in ratios]
    lines = [[*headings, "zeros", "error"], ["---"] * (len(headings) + 2)]
    for (method, pattern), contenders in groups.items():
        for name, runs in contenders.items():
            line = [method, pattern, name, *(spread([run[field] for run in runs], 2) for field in ("seconds", "cpu_seconds"))]
            line += [spread([run[field] / MIB for run in runs], 0) for field in ("added", "peak")]
            for field, reference in ratios:
                pairs = zip(runs, contenders[reference], strict=True)
                line.append(f"{median(run[field] / base[field] for run, base in pairs):.2f}")
            errors = [run["error"] for run in runs]
            lines.append([*line, f"{runs[0]['sparsity']:.2%}", f"{median(errors):.4f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def processor() -> str:
    """Name the processor, where Linux tells."""
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{lines[0].split(':', 1)[1].strip() if lines else platform.processor()}, {os.cpu_count()} cores"


def commit(repo: Path) -> str:
    """Return the commit that a clone is at."""
    command = ["git", "-C", str(repo), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def describe(arguments: argparse.Namespace, setting: Setting, records: list[Record]) -> str:
    """Say what was measured, with which versions."""
    versions = {label(record): record["versions"] for record in records}
    repos = {"ours": Path(__file__).parent, "sparsegpt": arguments.sparsegpt_repo, "wanda": arguments.wanda_repo}
    lines = [
        f"Python {platform.python_version()}, {processor()}, threads: {arguments.threads}, repeats: {arguments.repeats}",
        ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(setting).items()),
        *(f"{name}: {', '.join(f'{key} {value}' for key, value in packages.items())}" for name, packages in versions.items()),
        "commits: " + ", ".join(f"{name} {commit(repo)}" for name, repo in repos.items() if repo),
    ]
    return "\n".join(f"- {line}" for line in lines)


def main() -> None:
    """Prepare the model, run everything in turns, and print the table."""
    arguments = parse_arguments()
    setting = Setting(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Setting)})
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), setting)
        groups = list_tasks(arguments, Path(folder))
        for repeat in range(arguments.repeats):
            turns = [group[(turn + repeat) % len(group)] for group in groups for turn in range(len(group))]
            for python, task in turns:
                record = {**run(python, task), "repeat": repeat}
                records.append(record)
                print(f"{repeat} {label(record)} {task.method} {task.pattern}: {record['seconds']:.2f} s", file=sys.stderr)
                if arguments.records:
                    with arguments.records.open("a") as file:
                        file.write(json.dumps(record) + "\n")
    print(f"{describe(arguments, setting, records)}\n\n{as_table(records)}")


if __name__ == "__main__":
    main()
