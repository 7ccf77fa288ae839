"""What the documentation says holds: links lead somewhere, commands parse, Python compiles, and the site builds."""

import ast
import functools
import importlib
import re
import shlex
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from optimum.commands.base import RootOptimumCLICommand
from optimum.commands.optimum_cli import register_optimum_cli_subcommand

from optimum_ssgr.commands.ssgr import SSGRCommand

from .processes import started


ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "benchmarks", "examples", "optimum_ssgr", "spaces", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
# Not of `optimum-cli ssgr`: flags of servers, those that are history, and those of the scripts in benchmarks/.
FOREIGN = {"--continuous-batching", "--enable-metrics", "--reasoning-parser"}
OTHERS = [ROOT / "CHANGELOG.md", *(ROOT / "benchmarks").glob("*.md")]


def name_of(path):
    return str(path.relative_to(ROOT))


def without_front_matter(text):
    """Hub cards begin with YAML, which is no Markdown."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


@functools.cache
def tokens_of(path):
    """The blocks of a page, and what stands inside its paragraphs, in order."""
    blocks = MARKDOWN.parse(without_front_matter(path.read_text(encoding="utf-8")))
    return [token for block in blocks for token in (block, *(block.children or ()))]


@functools.cache
def anchors_of(path):
    """The names that GitHub gives to a page's headings."""
    anchors: list[str] = []
    for heading, inline in pairwise(tokens_of(path)):
        if heading.type == "heading_open":
            text = "".join(child.content for child in inline.children)
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            anchors.append(f"{name}-{anchors.count(name)}" if name in anchors else name)
    return anchors


def fences(path, *languages):
    return [token.content for token in tokens_of(path) if token.type == "fence" and token.info.strip() in languages]


def code_spans(path):
    return [token.content.replace("\n", " ") for token in tokens_of(path) if token.type == "code_inline"]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(path):
    targets = [
        token.attrGet("href") or token.attrGet("src") for token in tokens_of(path) if token.type in ("link_open", "image")
    ]
    for target in targets:
        parts = urlsplit(target)
        if parts.scheme:
            continue
        linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        assert linked.is_file() and linked.is_relative_to(ROOT), target
        if parts.fragment:
            assert parts.fragment in anchors_of(linked), target


def test_the_readme_can_be_read_in_one_sitting():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 120


@pytest.fixture(scope="module")
def parser():
    """The real command line, which runs nothing by itself."""
    root = RootOptimumCLICommand("optimum-cli")
    register_optimum_cli_subcommand(SSGRCommand, root)
    return root.parser


def commands_in(text):
    for line in text.replace("\\\n", " ").splitlines():
        if "optimum-cli ssgr" in line:
            yield shlex.split(line[line.index("optimum-cli ssgr") :], comments=True)[1:]


def written_commands():
    """Every command of the documentation with its arguments, and where it stands; a bare verb in a sentence has none."""
    for path in PAGES:
        for fence in fences(path, "", "sh", "bash", "console", "text"):
            yield from ((path, command) for command in commands_in(fence))
        for span in code_spans(path):
            yield from ((path, command) for command in commands_in(span) if len(command) > 2)
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield from ((path, command) for command in commands_in(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("path", "command"), list(written_commands()), ids=lambda of: name_of(of) if isinstance(of, Path) else ""
)
def test_every_command_parses(path, command, parser, capsys):
    try:
        assert hasattr(parser.parse_args(command), "func")
    except SystemExit as end:
        assert end.code == 0, f"{shlex.join(command)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("path", [path for path in PAGES if path not in OTHERS], ids=name_of)
def test_every_verb_and_flag_in_a_sentence_exists(path, parser):
    [group] = (action for action in parser._actions if action.choices)
    [verbs] = (action.choices for action in group.choices["ssgr"]._actions if action.choices)
    flags = {flag for verb in verbs.values() for action in verb._actions for flag in action.option_strings}
    for span in code_spans(path):
        if (verb := re.match(r"(?:optimum-cli )?ssgr (\w+)", span)) is not None:
            assert verb[1] in verbs, span
        if span.startswith("--"):
            assert re.split(r"[ =]", span)[0] in flags | FOREIGN, span


@pytest.mark.parametrize("path", [path for path in PAGES if fences(path, "python")], ids=name_of)
def test_every_python_block_compiles_and_imports_what_exists(path):
    for block in fences(path, "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "optimum_ssgr":
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


class Links(HTMLParser):
    """What a page of the site refers to, what it loads, and what can be referred to in it."""

    def __init__(self, path):
        super().__init__()
        self.references, self.loads, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        if tag == "a" and found.get("href"):
            self.references.append(found["href"])
        elif found.get("src"):
            self.loads.append(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(found["href"])


def build(arguments):
    """Build the site, as `python -m sphinx` does."""
    from sphinx.cmd.build import main

    sys.exit(main(arguments))


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_hangs_together(tmp_path):
    site = tmp_path / "site"
    arguments = ["-W", "--keep-going", "-q", "-d", str(tmp_path / "doctrees"), "-c", "docs", ".", str(site)]
    with started(build, arguments, cwd=ROOT) as running:
        code, errors = running.wait(), running.err.read_text()
    assert code == 0, errors + "\n(pip install -e '.[dev,docs]' brings Sphinx)"
    pages = {path: Links(path) for path in site.rglob("*.html")}
    assert {site / name for name in ("index.html", "README.html", "docs/api/pruner.html")} <= pages.keys()
    assert 'id="optimum_ssgr.pruner.SSGRPruner.prune"' in (site / "docs/api/pruner.html").read_text(encoding="utf-8")
    for path, links in pages.items():
        assert [url for url in links.loads if urlsplit(url).scheme not in ("", "data") or url.startswith("//")] == []
        for url in (*links.references, *links.loads):
            parts = urlsplit(url)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path}: {url}"
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in pages[target].ids, f"{path}: {url}"
