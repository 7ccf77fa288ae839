"""The whole product against a Hub on loopback, as a user would run it against the real one: `make demo-hub`.

The embedded reasoner writes a calibration set and publishes it, is pruned with the set from the Hub and published, and a fresh
process that knows nothing of optimum-ssgr loads the sparse model from the Hub and answers a question with it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from . import HubServer


OPTIMUM_CLI = Path(sys.executable).with_name("optimum-cli")
NAMESPACE = "alice"
ASK = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chat = [{"role": "user", "content": "Count the digit 3.\\na 3\\nb 4\\nc 3\\nd 3"}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=120, do_sample=False)[0]))
zeros = sum(int((p == 0).sum()) for name, p in model.named_parameters() if "_proj" in name)
weights = sum(p.numel() for name, p in model.named_parameters() if "_proj" in name)
print(f"{zeros:,} of {weights:,} weights in linear layers are zero")
"""


def commands(num_problems: int, num_tokens: int) -> list[list[str]]:
    """Return what a user types, in order."""
    model, data = f"{NAMESPACE}/tiny-reasoner-ssgr-50", f"{NAMESPACE}/tiny-reasoner-ssgr"
    asked = ["--problems", "tiny-reasoner", "--num-problems", str(num_problems), "--samples-per-problem", "8"]
    budget = ["--max-new-tokens", "400", "--num-tokens", str(num_tokens)]
    ssgr = [str(OPTIMUM_CLI), "ssgr"]
    return [
        [*ssgr, "calibrate", "calibration", "-m", "tiny-reasoner", *asked, *budget, "--push-to-hub", data, "--private"],
        [*ssgr, "prune", "sparse", "-m", "tiny-reasoner", "--calibration", data, "--sparsity", "0.5", "--push-to-hub", model],
        [*ssgr, "push", "sparse", model],
        [*ssgr, "inspect", model],
        [sys.executable, "-c", ASK, model],
    ]


def main(num_problems: int = 200, num_tokens: int = 6000) -> None:
    """Run every command, showing it first."""
    with HubServer() as hub, tempfile.TemporaryDirectory() as name:
        environment = hub.environment(Path(name) / "home")
        for command in commands(num_problems, num_tokens):
            shown = [Path(command[0]).name, *("..." if "\n" in part else part for part in command[1:])]
            print(f"\n$ {' '.join(shown)}", flush=True)
            subprocess.run(command, cwd=name, env=environment, check=True)
        print("\non the Hub:")
        for (kind, repo_id), repo in hub.repos.items():
            print(f"  {kind[:-1]:<8} {repo_id}: {len(repo.history())} commits, {len(repo.at().files)} files")


if __name__ == "__main__":
    main()
