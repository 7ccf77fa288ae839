"""The components of the comparison tab."""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from .comparison import MAX_SEED, ComparisonSession
from .conversation import Conversation
from .examples import LEVELS
from .sanitize import DELIMITERS
from .views import render_headings, render_numbers


HINT = "Type a question or take an example; all models answer it at once."


@dataclass(frozen=True)
class Column:
    """One model's column."""

    heading: gr.HTML
    chat: gr.Chatbot
    numbers: gr.HTML
    stop: gr.Button
    best: gr.Button


@dataclass(frozen=True)
class Parts:
    """The components that events read and write.

    Args:
        asked: Question and known answer of the last turn, for the link; not shown.
        text: What a download is made of; not shown.
    """

    conversation: gr.State
    columns: Sequence[Column]
    status: gr.HTML
    tie: gr.Button
    none: gr.Button
    question: gr.Textbox
    expected: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    levels: dict[str, gr.Button]
    blind: gr.Checkbox
    again: gr.Button
    fresh: gr.Button
    temperature: gr.Slider
    max_new_tokens: gr.Slider
    seed: gr.Number
    copy: gr.Button
    link: gr.Textbox
    json: gr.Button
    markdown: gr.Button
    asked: tuple[gr.Textbox, gr.Textbox]
    text: gr.Textbox

    @property
    def votes(self) -> list[gr.Button]:
        """All buttons that vote."""
        return [*(column.best for column in self.columns), self.tie, self.none]

    @property
    def settings(self) -> list[gr.components.Component]:
        """Temperature, token limit and seed."""
        return [self.temperature, self.max_new_tokens, self.seed]


def lay_out(comparison: ComparisonSession) -> Parts:
    """Place the components of the comparison tab; must be called where Gradio's blocks are open."""
    limits = comparison.settings
    start = Conversation.start(len(comparison.models), blind=False)
    with gr.Row(elem_id="columns", equal_height=False):
        columns = [_column(number, html) for number, html in enumerate(render_headings(start, comparison.models), 1)]
    with gr.Row(elem_id="verdicts"):
        status = gr.HTML(HINT, elem_id="status", html_template='<div role="status" aria-live="polite">${value}</div>')
        tie = gr.Button("Tie", size="sm", scale=0, min_width=80, visible=False, elem_id="vote-tie")
        none = gr.Button("None is good", size="sm", scale=0, min_width=120, visible=False, elem_id="vote-none")
    with gr.Row(elem_id="asking"):
        question = gr.Textbox(
            label="Question",
            show_label=False,
            container=False,
            placeholder="Ask all models at once",
            lines=1,
            max_lines=8,
            max_length=limits.max_question,
            scale=6,
            min_width=220,
            autofocus=True,
            elem_id="question",
        )
        expected = gr.Textbox(
            label="Known answer, if there is one",
            show_label=False,
            container=False,
            placeholder="Known answer, if any",
            max_length=200,
            scale=1,
            min_width=170,
            elem_id="expected",
        )
        ask = gr.Button("Ask", variant="primary", scale=0, min_width=110, elem_id="ask")
        stop = gr.Button("Stop all", variant="stop", scale=0, min_width=110, visible=False, elem_id="stop")
    with gr.Row(elem_id="tools"):
        levels = {
            level: gr.Button(f"{level.capitalize()} example", size="sm", scale=0, min_width=120, elem_id=f"example-{level}")
            for level in LEVELS
        }
        again = gr.Button("Regenerate", size="sm", scale=0, min_width=110, interactive=False, elem_id="again")
        fresh = gr.Button("New chat", size="sm", scale=0, min_width=100, elem_id="fresh")
        blind = gr.Checkbox(
            False,
            label="Blind: shuffle, and hide the names until you vote (starts a new chat)",
            container=False,
            min_width=240,
            elem_id="blind",
        )
    with gr.Accordion("Settings, link and download", open=False, elem_id="more"):
        with gr.Row():
            temperature = gr.Slider(0, 2, limits.temperature, step=0.05, label="Temperature", elem_id="temperature")
            most = gr.Slider(1, limits.max_new_tokens, limits.max_new_tokens, step=1, label="Most tokens", elem_id="tokens")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=90, elem_id="seed")
        with gr.Row(elem_id="saving"):
            copy = gr.Button("Copy link", size="sm", min_width=110, elem_id="copy")
            json = gr.Button("Download JSON", size="sm", min_width=110, elem_id="json")
            markdown = gr.Button("Download Markdown", size="sm", min_width=110, elem_id="markdown")
        link = gr.Textbox(label="Link that fills this form", interactive=False, elem_id="link")
        gr.HTML(
            '<p class="hint">A vote is saved with the questions, the settings and the numbers under the columns, '
            "and nothing about you.</p>"
        )
    asked = (gr.Textbox(visible=False), gr.Textbox(visible=False))
    return Parts(
        conversation=gr.State(start),
        columns=columns,
        status=status,
        tie=tie,
        none=none,
        question=question,
        expected=expected,
        ask=ask,
        stop=stop,
        levels=levels,
        blind=blind,
        again=again,
        fresh=fresh,
        temperature=temperature,
        max_new_tokens=most,
        seed=seed,
        copy=copy,
        link=link,
        json=json,
        markdown=markdown,
        asked=asked,
        text=gr.Textbox(visible=False),
    )


def _column(number: int, heading: str) -> Column:
    with gr.Column(min_width=270, elem_id=f"column-{number}"):
        return Column(
            heading=gr.HTML(heading, elem_id=f"heading-{number}"),
            chat=gr.Chatbot(
                label=f"Column {number}",
                show_label=False,
                elem_id=f"chat-{number}",
                elem_classes="chat",
                height="max(240px, calc(100vh - 565px))",
                layout="panel",
                latex_delimiters=DELIMITERS,
                sanitize_html=True,
                allow_tags=False,
                buttons=[],
                feedback_options=None,
                placeholder="Its answer will stand here.",
                container=False,
            ),
            numbers=gr.HTML(render_numbers(None), elem_id=f"numbers-{number}"),
            stop=gr.Button("Stop", size="sm", visible=False, elem_id=f"stop-{number}"),
            best=gr.Button("Best answer", size="sm", visible=False, elem_id=f"best-{number}"),
        )
