"""From answers to what a column shows: messages, numbers and badges."""

from collections.abc import Sequence
from html import escape
from typing import Any

from .answers import Answer
from .compared_models import ComparedModel
from .conversation import Conversation, Turn, name_columns
from .sanitize import sanitize


_ENDS = {
    "length": "no answer: the token limit came while it was thinking",
    "stopped": "stopped before it answered",
    "time": "stopped by the time limit before it answered",
    "stop": "it ended without an answer",
}
_BADGES = {
    "length": ("truncated", "The token limit cut it."),
    "stopped": ("stopped", "You stopped it."),
    "time": ("time limit", "It took too long."),
    "error": ("failed", "This model failed; the others went on."),
}


def render_messages(turns: Sequence[Turn], column: int) -> list[dict[str, Any]]:
    """Return a column's part of a conversation as Gradio's chat messages, thinking folded once it is over."""
    shown: list[dict[str, Any]] = []
    for turn in turns:
        shown.append({"role": "user", "content": sanitize(turn.question)})
        if turn.answers:
            shown += _render_answer(turn.answers[column])
    return shown


def _render_answer(answer: Answer) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    finished = answer.finish is not None
    if answer.thinking or answer.thinks:
        thinks = answer.thinks and not finished
        title = "Thinking" if thinks else "Thinking, cut off" if answer.thinks else "Thought"
        metadata: dict[str, Any] = {"title": title, "status": "pending" if thinks else "done"}
        if not thinks:
            start = answer.first_token_seconds or 0.0
            metadata["duration"] = round((answer.thinking_seconds or answer.seconds) - start, 2)
        shown.append({"role": "assistant", "content": sanitize(answer.thinking, not thinks), "metadata": metadata})
    if answer.final:
        shown.append({"role": "assistant", "content": sanitize(answer.final, finished)})
    if answer.finish == "error":
        shown.append({"role": "assistant", "content": f"*{sanitize(answer.error or 'this model failed.')}*"})
    elif finished and not answer.final:
        shown.append({"role": "assistant", "content": f"*{_ENDS[answer.finish]}*"})
    return shown


def render_heading(model: ComparedModel, name: str, hidden: bool) -> str:
    """Return the HTML over a column: who answers, and how it was pruned."""
    if hidden:
        return f'<div class="who"><h3>{escape(name)}</h3><p>name shown after your vote</p></div>'
    label = escape(model.name)
    if model.link:
        label = f'<a href="{escape(model.link)}" target="_blank" rel="noopener">{label}</a>'
    share = round(100 * model.sparsity)
    described = f'role="img" aria-label="{share} % of the weights are zero"'
    bar = f'<span class="bar" {described}><i style="width:{100 - share}%"></i></span>'
    return f'<div class="who"><h3>{escape(model.title)}</h3><p>{bar}{label} · {escape(model.details)}</p></div>'


def render_headings(conversation: Conversation, models: Sequence[ComparedModel]) -> list[str]:
    """Return the HTML over every column."""
    names = name_columns(conversation, models)
    return [
        render_heading(models[index], name, conversation.blind) for index, name in zip(conversation.order, names, strict=True)
    ]


def render_numbers(answer: Answer | None, turn: Turn | None = None) -> str:
    """Return the HTML under a column: tokens, times, speed and badges."""
    if answer is None:
        return '<div class="numbers"></div>'
    cells = [("tokens", f"{answer.tokens:,}", ""), ("s", f"{answer.seconds:.1f}", "seconds in all")]
    if answer.tokens_per_second is not None:
        cells.append(("tok/s", f"{answer.tokens_per_second:.0f}", "tokens a second after the first"))
    if answer.first_token_seconds is not None:
        cells.append(("s to first", f"{answer.first_token_seconds:.2f}", "seconds to the first token"))
    shown = "".join(f'<span title="{hint}"><b>{value}</b> {label}</span>' for label, value, hint in cells)
    badges = _render_badges(answer, turn)
    return f'<div class="numbers"><div class="cells">{shown}</div><div class="badges">{badges}</div></div>'


def _render_badges(answer: Answer, turn: Turn | None) -> str:
    found = []
    if answer.correct is not None:
        expected = f"The known answer is {turn.problem.answer}." if turn and turn.problem else ""
        mark, kind = ("✓ right", "right") if answer.correct else ("✗ wrong", "wrong")
        found.append(_render_badge(mark, kind, expected))
    if answer.finish in _BADGES:
        found.append(_render_badge(_BADGES[answer.finish][0], "warning", _BADGES[answer.finish][1]))
    if answer.rambling:
        found.append(_render_badge("rambling", "warning", "It ends in the same words over and over."))
    return "".join(found)


def _render_badge(text: str, kind: str, hint: str) -> str:
    return f'<span class="badge {kind}" title="{escape(hint)}">{escape(text)}</span>'


def render_summary(conversation: Conversation, models: Sequence[ComparedModel]) -> str:
    """Return the HTML of one line on the last turn. Screen readers speak all of it; the columns show most of it already."""
    turn = conversation.last
    if turn is None or not turn.answers:
        return ""
    parts = []
    for position, answer in enumerate(turn.answers):
        name = name_columns(conversation, models)[position]
        title = name if conversation.blind else models[conversation.order[position]].title
        verdict = {True: "right", False: "wrong", None: _BADGES.get(answer.finish or "", ("answered", ""))[0]}[answer.correct]
        parts.append(f"{escape(title)}: {verdict}, {answer.tokens} tokens in {answer.seconds:.1f} s")
    known = f"Known answer: {escape(turn.problem.answer)}. " if turn.problem else ""
    return f'{known}<span class="spoken">{"; ".join(parts)}.</span>'
