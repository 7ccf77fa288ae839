"""Imports go one way, private API is taken in one place, dependencies are declared, and a command loads what it needs only."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import optimum_ssgr


PACKAGE = Path(optimum_ssgr.__file__).parent
# Whoever imports comes after whom it imports: first what everybody shares, then the stages in the order of the data, then what
# ties them together. A package stands in one place, but for those of its modules that are named apart.
ORDER = [
    *("errors", "extras", "stored", "records", "thinking", "config", "formats", "tokens", "likelihood", "files", "resume"),
    "compat",
    *("reasoner", "hub", "problems", "rollouts", "verification", "calibration", "pruning", "checkpoints", "cards"),
    *("hub.publish", "sharing", "evaluation", "damage", "recovery", "pruner", "study", "chat", "commands", "__init__"),
]
# Pruning takes token sequences and a manifest, and knows nothing of where they come from.
PRUNING_MAY_IMPORT = {"errors", "extras", "config", "formats", "tokens", "files", "resume", "compat"}
# The one import against the order: `CalibrationSet.push_to_hub`, `from_hub` and `load` hand on to what comes after them, when
# they are called, so that a set is pushed as everything else around the Hub is.
UPWARD = ("calibration.dataset", "sharing")

LIBRARIES = {"torch", "transformers", "accelerate", "huggingface_hub"}
UNDOCUMENTED = {
    "transformers.conversion_mapping",
    "transformers.core_model_loading",
    "transformers.initialization",
    "transformers.integrations.moe",
    "accelerate.utils.modeling",
    "huggingface_hub.utils.sha",
}
# Which parts may import what only an extra installs.
EXTRAS = {
    **{"problems": {"problems"}, "verification": {"problems"}, "chat": {"chat"}},
    **{"calibration": {"report"}, "evaluation": {"report"}, "study": {"report"}},
}


def name_of(path):
    """The name of a module within the package; of an `__init__.py`, that of its folder."""
    *folders, last = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(folders if folders and last == "__init__" else [*folders, last])


PATHS = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(name):
    return ast.parse(PATHS[name].read_text())


def imports_of(name):
    """The modules of the package that one of them imports, wherever in the file it does."""
    folders = PATHS[name].relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            wanted = [alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == "optimum_ssgr"]
        elif not isinstance(node, ast.ImportFrom):
            continue
        else:
            origin = node.module.split(".") if node.module else []
            if node.level:
                origin = [*folders[: len(folders) + 1 - node.level], *origin]
            elif origin.pop(0) != "optimum_ssgr":
                continue
            wanted = [[*origin, alias.name] for alias in node.names]
        for parts in wanted:
            if parts == ["__version__"]:
                continue  # of the package itself, which is loaded before any of its modules
            found = [".".join(parts[:length]) or "__init__" for length in (len(parts), len(parts) - 1)]
            yield next(module for module in found if module in PATHS)


@cache
def graph():
    found = {name: set(imports_of(name)) - {name} for name in PATHS}
    found[UPWARD[0]].remove(UPWARD[1])
    return found


def place_of(name):
    """The entry of `ORDER` that a module belongs to: its own, or that of the package around it."""
    parts = name.split(".")
    candidates = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    found = next((candidate for candidate in candidates if candidate in ORDER), None)
    assert found, f"give {name} a place in the order of imports"
    return found


@pytest.mark.parametrize("name", PATHS)
def test_imports_go_one_way(name):
    place = ORDER.index(place_of(name))
    assert {other for other in graph()[name] if ORDER.index(place_of(other)) > place} == set()


def test_no_modules_import_each_other_in_a_circle():
    try:
        list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_pruning_knows_nothing_of_where_its_inputs_come_from():
    modules = [name for name in PATHS if place_of(name) == "pruning"]
    assert {place_of(other) for name in modules for other in graph()[name]} <= {"pruning", *PRUNING_MAY_IMPORT}


@pytest.mark.parametrize("path", sorted((PACKAGE / "pruning" / "solvers").glob("*.py")), ids=lambda path: path.name)
def test_solvers_import_torch_patterns_and_one_another_only(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert [alias.name for alias in node.names] == ["torch"]
        if isinstance(node, ast.ImportFrom):
            allowed = (node.level, node.module) in ((2, "patterns"), (0, "dataclasses"), (0, "collections.abc"))
            assert allowed or (node.level == 1 and (path.parent / f"{node.module}.py").exists())


def our_private_names():
    """Names with an underscore that the package itself defines."""
    for tree in map(tree_of, PATHS):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
                yield node.attr


def is_own(node):
    return isinstance(node, ast.Name) and (node.id in ("self", "cls") or node.id in sys.stdlib_module_names)


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_uses(name, ours):
    """What a module takes from the private parts of the libraries: modules, attributes and arguments."""
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if imported[0].split(".")[0] in LIBRARIES and not getattr(node, "level", 0):
                yield from (module for module in imported if module in UNDOCUMENTED or any(map(is_private, module.split("."))))
                yield from filter(is_private, names)
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            yield from {node.attr} - ours
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch("_[a-z]+(_[a-z]+)+", node.value):
            yield from {node.value} - ours
        elif isinstance(node, ast.keyword) and is_private(node.arg or ""):
            yield from {node.arg} - ours


def test_private_api_is_taken_by_compat_only():
    ours = set(our_private_names())
    taken = {(name, use) for name in PATHS if name != "compat" for use in private_uses(name, ours)}
    assert taken == set()
    assert set(private_uses("compat", ours)) >= {"_hf_hook", "_GLOBAL_CLIENT_FACTORY", "torch.utils._pytree"}


def test_everything_imported_is_installed_with_the_package():
    """What is imported is declared, or required by something declared; what an extra installs, in the parts that may."""
    declared, extras = set(), {}
    for line in requires("optimum-ssgr"):
        distribution, extra = normal(re.match(r"[\w.-]+", line)[0]), re.search(r"extra == ['\"](\w+)", line)
        (extras.setdefault(extra[1], set()) if extra else declared).add(distribution)
    assert len(declared) <= 13
    installed = declared | {
        normal(re.match(r"[\w.-]+", line)[0])
        for distribution in declared
        for line in requires(distribution) or ()
        if "extra ==" not in line
    }
    owners = packages_distributions()
    for name in PATHS:
        allowed = installed.union(*(extras[extra] for extra in EXTRAS.get(place_of(name), ())))
        for node in ast.walk(tree_of(name)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                modules = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {module.split(".")[0] for module in modules} - sys.stdlib_module_names - {"optimum_ssgr"}:
                assert {normal(owner) for owner in owners[module]} & allowed, f"{name} imports {module}, which is not declared"


def normal(distribution):
    return distribution.lower().replace("_", "-")


# Runs commands one after another. Whatever one of them loads stays, so that the first that names a library loaded it.
PROGRAM = """
import contextlib, functools, io, json, sys
from optimum import subpackages
from optimum.commands.optimum_cli import main

subpackages.load_namespace_modules = functools.cache(subpackages.load_namespace_modules)  # reads the metadata of all packages
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["optimum-cli", *line.split()]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    heavy = {"torch", "transformers", "datasets", "gradio", "matplotlib", "pyarrow"} & set(sys.modules)
    print(json.dumps([code, out.getvalue(), err.getvalue(), sorted(heavy)]))
"""
HELP = ["--help", *(f"ssgr {verb} --help" for verb in ("", "prune", "evaluate", "study", "demo", "chat"))]
REFUSED = [
    f"ssgr {arguments}"
    for arguments in (
        "calibrate out -m x --problems x --engine vlm",
        "select x out --strategy best",
        "select x out --strategy mix",
        "evaluate -m x",
        "evaluate -m x --benchmark best",
        "evaluate -m x --problems x --batch-size 0",
        "study out -m x --problems x --methods best",
        "study out -m x --problems x --num-tokens 9 --engine http://host:8000",
    )
]


@pytest.fixture(scope="module")
def outcomes():
    """What commands end with and write, and which heavy libraries are loaded then."""
    commands = [*HELP, *REFUSED]
    done = subprocess.run([sys.executable, "-c", PROGRAM], input="\n".join(commands), capture_output=True, text=True)
    return dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", HELP)
def test_help_loads_nothing_heavy(outcomes, command):
    code, out, _, loaded = outcomes[command]
    assert code == 0
    assert "usage: optimum-cli" in out
    assert loaded == []


@pytest.mark.parametrize("command", REFUSED)
def test_settings_are_refused_before_anything_heavy_is_loaded(outcomes, command):
    code, _, err, loaded = outcomes[command]
    assert (code, "error: " in err.splitlines()[-1]) == (2, True)
    assert loaded == []


@pytest.mark.slow
def test_public_names_load_on_demand():
    code = (
        "import sys, optimum_ssgr, optimum_ssgr.compat, optimum_ssgr.extras\n"
        "assert not {'torch', 'transformers', 'accelerate', 'huggingface_hub'} & set(sys.modules)\n"
        "for name in optimum_ssgr.__all__: getattr(optimum_ssgr, name)\n"
        "print(optimum_ssgr.SSGRPruner.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["SSGRPruner"]
