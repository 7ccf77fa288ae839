"""The comparison page: components, events, and how it is served."""

import os
from functools import partial
from typing import Any

import gradio as gr

from .compared_models import describe_model
from .comparison import ComparisonSession
from .embedded import add_embedded_models
from .examples import choose_examples
from .handlers import Handlers
from .layout import lay_out
from .open_backends import open_backends
from .results import add_results_tab
from .settings import ChatSettings
from .theme import COPY_LINK, CSS, LABEL_COLUMNS, TOGGLE_THEME, download_script, make_theme
from .votes import SaveVote, open_votes


PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
AT_ONCE: dict[str, Any] = {**PRIVATE, "queue": False}
TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"


def open_page(settings: ChatSettings) -> gr.Blocks:
    """Open all that a page needs, what is quick to fail first, and build it.

    Args:
        settings: Without models, those of `./demo` are compared, or ones pruned now.

    Raises:
        SSGRError: Votes cannot be kept there, a model cannot be loaded, or an address is not one.
    """
    save_vote = open_votes(settings.votes)
    return build_page(open_comparison(add_embedded_models(settings)), save_vote)


def open_comparison(settings: ChatSettings) -> ComparisonSession:
    """Load the models of a page and find out who they are.

    Args:
        settings: With at least two models.

    Raises:
        SSGRError: A model cannot be loaded, or an address is not one.
    """
    models = [describe_model(source) for source in settings.models]
    return ComparisonSession(settings, models, open_backends(settings), choose_examples(models))


def build_page(comparison: ComparisonSession, save_vote: SaveVote) -> gr.Blocks:
    """Build the page.

    Args:
        comparison: Who answers.
        save_vote: Keeps a vote.
    """
    settings = comparison.settings
    with _open_blocks("Dense and pruned, side by side") as page:
        with gr.Row(elem_id="header"):
            gr.HTML(
                "<h1>Dense and pruned, side by side</h1><p>One question, answered by a reasoning model and by pruned versions "
                "of it. The calibration data decides what survives.</p>"
            )
            toggle = gr.Button("Dark / light", size="sm", scale=0, min_width=110, elem_id="theme")
        with gr.Tab("Compare", id="compare"):
            parts = lay_out(comparison)
        with gr.Tab("Results", id="results"):
            add_results_tab(comparison.models, settings)
        handlers = Handlers(comparison, parts, save_vote)
        _wire(handlers)
        toggle.click(None, js=TOGGLE_THEME, api_visibility="private")
        filled = [parts.question, parts.expected, parts.blind, *parts.settings]
        page.load(handlers.from_link, None, filled, **AT_ONCE).then(None, js=LABEL_COLUMNS, api_visibility="private")
        gr.api(handlers.compare, api_name="compare", concurrency_id="compare", concurrency_limit=settings.concurrency)
    return page.queue(max_size=settings.queue_size, default_concurrency_limit=8)


def _open_blocks(title: str) -> gr.Blocks:
    """Open blocks that do not call home, and undo what Gradio then sets for the whole process."""
    before = os.environ.get(TELEMETRY)
    blocks = gr.Blocks(title=title, fill_width=True, analytics_enabled=False)
    if before is None:
        os.environ.pop(TELEMETRY, None)
    else:
        os.environ[TELEMETRY] = before
    return blocks


def _wire(handlers: Handlers) -> None:
    """Say which event runs which function."""
    parts, settings = handlers.parts, handlers.comparison.settings
    running: dict[str, Any] = {**PRIVATE, "concurrency_id": "compare", "concurrency_limit": settings.concurrency}
    headings = [column.heading for column in parts.columns]
    shown = [component for column in parts.columns for component in (column.chat, column.numbers, column.stop)]
    outputs = [
        parts.conversation,
        *(parts.question, parts.expected, *parts.asked, parts.status, parts.ask, parts.stop, parts.seed),
        *(parts.again, parts.fresh, parts.blind, parts.json, parts.markdown, *parts.levels.values()),
        *(parts.votes + shown),
    ]
    gr.on(
        [parts.ask.click, parts.question.submit],
        handlers.ask,
        [parts.question, parts.expected, *parts.settings, parts.conversation],
        outputs,
        trigger_mode="once",
        **running,
    )
    parts.again.click(handlers.again, [*parts.settings, parts.conversation], outputs, trigger_mode="once", **running)
    parts.stop.click(_make_stop(handlers, None), None, None, **AT_ONCE)
    for index, column in enumerate(parts.columns):
        column.stop.click(_make_stop(handlers, index), None, None, **AT_ONCE)
    votes = [*(str(index) for index in range(len(parts.columns))), "tie", "none"]
    for choice, button in zip(votes, parts.votes, strict=True):
        button.click(
            partial(handlers.vote, choice),
            [parts.conversation],
            [parts.conversation, parts.status, *headings, *parts.votes],
            **PRIVATE,
        )
    cleared = [parts.conversation, parts.status, parts.again, *headings, *parts.votes, *shown]
    gr.on([parts.fresh.click, parts.blind.change], handlers.new_chat, [parts.blind], cleared, **PRIVATE)
    for level, button in parts.levels.items():
        button.click(partial(handlers.example, level), [parts.question], [parts.question, parts.expected], **AT_ONCE)
    link = [parts.question, parts.expected, *parts.asked, *parts.settings, parts.blind]
    parts.copy.click(None, link, [parts.link], js=COPY_LINK, api_visibility="private")
    for button, write, name, kind in (
        (parts.json, handlers.as_json, "comparison.json", "application/json"),
        (parts.markdown, handlers.as_markdown, "comparison.md", "text/markdown"),
    ):
        button.click(write, [parts.conversation], [parts.text], **PRIVATE).then(
            None, [parts.text], None, js=download_script(name, kind), api_visibility="private"
        )


def _make_stop(handlers: Handlers, column: int | None) -> Any:
    def stop(request: gr.Request) -> None:  # Gradio finds the request by its annotation, which partial would hide
        handlers.stop(column, request)

    return stop


def launch_arguments() -> dict[str, Any]:
    """Return what `launch()` takes: looks, and nothing that reaches outside."""
    return {
        "theme": make_theme(),
        "css": CSS,
        "footer_links": ["api"],
        "ssr_mode": False,
        "show_error": False,
        "_frontend": False,  # else Gradio asks its own page for itself, and gives up when a busy machine takes 3 seconds
    }
