"""The import directions that keep the stages apart, and what the command line may load."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import optimum_ssgr


PACKAGE = Path(optimum_ssgr.__file__).parent
BASE = {"errors", "config", "records", "files", "resume"}
# A stage may import the base and these; the order is that in which the data flows.
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "records": set(),
    "files": {"errors"},
    "resume": {"errors", "files"},
    "reasoner": BASE,
    "hub": BASE,
    "problems": BASE | {"reasoner", "hub"},
    "rollouts": BASE,
    "verification": BASE | {"problems"},
    "calibration": BASE | {"reasoner", "hub", "problems", "rollouts", "verification", "cards", "__init__"},
    "pruning": {"errors", "config", "files", "resume"},
    "checkpoints": BASE | {"reasoner", "hub", "pruning"},
    "cards": BASE | {"problems", "checkpoints"},
    "evaluation": BASE | {"problems", "rollouts", "verification", "calibration"},
    "study": BASE | {"evaluation"},
    "chat": BASE
    | {
        "reasoner",
        "problems",
        "rollouts",
        "verification",
        "calibration",
        "checkpoints",
        "hub",
        "cards",
        "evaluation",
        "study",
        "pruner",
    },
    "pruner": BASE
    | {"problems", "rollouts", "calibration", "pruning", "checkpoints", "hub", "cards", "evaluation", "__init__"},
    "commands": None,
    "__init__": None,
}


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path):
    """Parts of our package that a file imports, wherever in the file."""
    here = ("optimum_ssgr", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = [*here[: -node.level], *(node.module.split(".") if node.module else [])]
            names = [target[1]] if len(target) > 1 else [alias.name for alias in node.names]
            yield from (
                name if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists() else "__init__" for name in names
            )
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "optimum_ssgr":
            yield ([*node.module.split("."), "__init__"])[1]


def test_everything_imported_is_installed_with_the_package():
    """The page, and nothing else, may import what the extra `space` installs."""
    declared, for_the_page = set(), set()
    for line in requires("optimum-ssgr"):
        name, extra = re.match(r"[\w.-]+", line)[0].lower(), re.search(r"extra == ['\"](\w+)", line)
        if extra is None or extra[1] == "space":
            (for_the_page if extra else declared).add(name)
    modules = {
        (name.split(".")[0], part_of(path))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    for module, part in sorted(modules):
        if module not in sys.stdlib_module_names and module != "optimum_ssgr":
            owners = {owner.lower().replace("_", "-") for owner in packages_distributions()[module]}
            allowed = declared | for_the_page if part == "chat" else declared
            assert owners & allowed, f"{module}, which {part} imports, is not among the dependencies"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_import_directions(path):
    part = part_of(path)
    assert part in ALLOWED, f"give {part} a place among the import directions"
    if ALLOWED[part] is not None:
        assert set(imports_of(path)) - {part} <= ALLOWED[part]


@pytest.mark.parametrize("path", sorted((PACKAGE / "pruning" / "solvers").glob("*.py")), ids=lambda path: path.name)
def test_solvers_import_torch_and_patterns_only(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert [alias.name for alias in node.names] == ["torch"]
        if isinstance(node, ast.ImportFrom):
            assert (node.level, node.module) in ((2, "patterns"), (0, "dataclasses"), (0, "collections.abc"))


def test_stages_are_in_the_order_of_the_data():
    """No two parts import each other, so a reader can follow the data one way."""
    for part, allowed in ALLOWED.items():
        for other in allowed or ():
            assert part not in (ALLOWED[other] or ()), f"{part} and {other} may import each other"


def run_and_list_heavy(arguments):
    """Run a command; the last line of its errors then names the heavy libraries that it loaded."""
    heavy = {"torch", "transformers", "datasets", "gradio", "matplotlib", "pyarrow"}
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('LOADED', sorted({heavy} & set(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['optimum-cli', *{arguments}]\n"
        "from optimum.commands.optimum_cli import main\n"
        "main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *(["ssgr", *verb, "--help"] for verb in ([], ["prune"], ["evaluate"], ["study"], ["demo"], ["chat"]))],
)
def test_help_loads_nothing_heavy(arguments):
    done = run_and_list_heavy(arguments)
    assert done.returncode == 0
    assert "usage: optimum-cli" in done.stdout
    assert done.stderr.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize(
    "arguments",
    [
        "calibrate out -m x --problems x --engine vlm",
        "select x out --strategy best",
        "select x out --strategy mix",
        "evaluate -m x",
        "evaluate -m x --preset best",
        "evaluate -m x --problems x --batch-size 0",
        "study out -m x --problems x --methods best",
        "study out -m x --problems x --num-tokens 9 --engine http://host:8000",
    ],
)
def test_settings_are_refused_before_anything_heavy_is_loaded(arguments):
    done = run_and_list_heavy(["ssgr", *arguments.split()])
    *_, mistake, loaded = done.stderr.splitlines()
    assert (done.returncode, "error: " in mistake) == (2, True)
    assert loaded == "LOADED []"


def test_public_names_load_on_demand():
    code = (
        "import sys, optimum_ssgr\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "for name in optimum_ssgr.__all__: getattr(optimum_ssgr, name)\n"
        "print(optimum_ssgr.SSGRPruner.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["SSGRPruner"]
