"""What happens on the page: every event's function, from the values of components to new values."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
from transformers.utils import logging

from ..errors import SSGRError
from .answers import Answer
from .comparison import MAX_SEED, ComparisonSession
from .conversation import Conversation, to_dict, to_json, to_markdown
from .layout import HINT, Parts
from .views import render_headings, render_messages, render_numbers, render_summary
from .votes import SaveVote, describe_vote


logger = logging.get_logger(__name__)

Updates = dict[Any, Any]
WORDS = {"0": False, "": False, "1": True, "true": True}


class Handlers:
    """The functions behind the events.

    Args:
        comparison: Who answers.
        parts: The components.
        save_vote: Keeps a vote.
    """

    def __init__(self, comparison: ComparisonSession, parts: Parts, save_vote: SaveVote) -> None:
        self.comparison, self.parts, self.save_vote = comparison, parts, save_vote

    def ask(
        self,
        question: str,
        expected: str,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        conversation: Conversation,
        request: gr.Request,
    ) -> Iterator[Updates]:
        """Ask all models the question."""
        conversation = conversation.without_unanswered()
        if len(conversation.turns) >= self.comparison.settings.max_turns:
            raise _refusal(f"A chat has at most {self.comparison.settings.max_turns} questions; start a new one.")
        try:
            turn = self.comparison.turn(question, expected, temperature, max_new_tokens, seed)
        except SSGRError as error:
            raise _refusal(str(error)) from None
        yield from self._run(conversation.asking(turn), request)

    def again(
        self, temperature: float, max_new_tokens: int, seed: int, conversation: Conversation, request: gr.Request
    ) -> Iterator[Updates]:
        """Ask the last question again, with the next seed."""
        if conversation.last is None:
            raise _refusal("There is nothing to generate again.")
        last = conversation.last
        seed = int(seed or 0) + 1 if int(seed or 0) < MAX_SEED else 0
        expected = last.problem.answer if last.problem else ""
        try:
            turn = self.comparison.turn(last.question, expected, temperature, max_new_tokens, seed)
        except SSGRError as error:
            raise _refusal(str(error)) from None
        yield from self._run(conversation.without_last().asking(turn), request)

    def _run(self, conversation: Conversation, request: gr.Request) -> Iterator[Updates]:
        """Show the answers as they grow, then the verdicts and the votes."""
        if self.comparison.is_answering(_session(request)):
            raise _refusal("The models are still answering; stop them first.")
        parts, turn = self.parts, conversation.last
        known = turn.problem.answer if turn.problem else ""
        yield {
            parts.conversation: conversation,
            parts.question: "",
            parts.expected: "",
            parts.seed: turn.seed,
            parts.asked[0]: turn.question,
            parts.asked[1]: known,
            parts.status: "The models are answering…",
            parts.ask: gr.update(visible=False),
            parts.stop: gr.update(visible=True),
            **{button: gr.update(interactive=False) for button in self._between_turns},
            **{button: gr.update(visible=False) for button in parts.votes},
            **{column.stop: gr.update(visible=True) for column in parts.columns},
            **{column.chat: render_messages(conversation.turns, index) for index, column in enumerate(parts.columns)},
            **{column.numbers: render_numbers(None) for column in parts.columns},
        }
        ready: Updates = {
            parts.ask: gr.update(visible=True),
            parts.stop: gr.update(visible=False),
            **{button: gr.update(interactive=True) for button in self._between_turns},
        }
        shown: list[Answer | None] = [None] * len(parts.columns)
        try:
            for answers in self.comparison.answer(conversation, _session(request)):
                conversation = conversation.answered(answers)
                view: Updates = {}
                for index, (column, answer) in enumerate(zip(parts.columns, answers, strict=True)):
                    before, shown[index] = shown[index], answer
                    if before == answer:
                        continue
                    view[column.numbers] = render_numbers(answer, turn)
                    if before is None or (before.text, before.finish) != (answer.text, answer.finish):
                        view[column.chat] = render_messages(conversation.turns, index)
                    if answer.finish is not None:
                        view[column.stop] = gr.update(visible=False)
                if view:
                    yield view
        except Exception:  # such as a GPU that ZeroGPU does not lend
            stops = {column.stop: gr.update(visible=False) for column in parts.columns}
            yield {parts.status: "The question could not be answered.", **ready, **stops}
            raise
        yield {
            parts.conversation: conversation,
            parts.status: f"{render_summary(conversation, self.comparison.models)} Which answer is best?",
            **ready,
            **{button: gr.update(visible=True, interactive=True) for button in parts.votes},
        }

    @property
    def _between_turns(self) -> list[gr.components.Component]:
        parts = self.parts
        return [parts.again, parts.fresh, parts.blind, parts.json, parts.markdown, *parts.levels.values()]

    def stop(self, column: int | None, request: gr.Request) -> None:
        """Stop all answers, or the one in a column; what was written stays."""
        self.comparison.stop(_session(request), column)

    def new_chat(self, blind: bool) -> Updates:
        """Forget the conversation; a blind one shuffles the columns."""
        parts = self.parts
        conversation = Conversation.start(len(parts.columns), bool(blind))
        return {
            parts.conversation: conversation,
            parts.status: HINT,
            parts.again: gr.update(interactive=False),
            **self._headings(conversation),
            **{button: gr.update(visible=False) for button in parts.votes},
            **{column.chat: [] for column in parts.columns},
            **{column.numbers: render_numbers(None) for column in parts.columns},
        }

    def vote(self, choice: str, conversation: Conversation) -> Updates:
        """Save a vote, and show the names."""
        if conversation.last is None or not conversation.last.answers or conversation.voted:
            raise _refusal("There is nothing to vote on.")
        try:
            self.save_vote(describe_vote(conversation, list(self.comparison.models), choice))
        except OSError as error:
            logger.error(f"A vote could not be saved: {error}.")
            raise _refusal("Your vote could not be saved; try again later.") from None
        conversation = conversation.revealed()
        return {
            self.parts.conversation: conversation,
            self.parts.status: f"Thank you for your vote. {render_summary(conversation, self.comparison.models)}",
            **self._headings(conversation),
            **{button: gr.update(interactive=False) for button in self.parts.votes},
        }

    def _headings(self, conversation: Conversation) -> Updates:
        shown = render_headings(conversation, self.comparison.models)
        return {column.heading: html for column, html in zip(self.parts.columns, shown, strict=True)}

    def example(self, level: str, question: str) -> Updates:
        """Fill in the next example of a level."""
        problems = self.comparison.examples[level]
        questions = [problem.question for problem in problems]
        place = (questions.index(question) + 1) % len(problems) if question in questions else 0
        return {self.parts.question: questions[place], self.parts.expected: problems[place].answer}

    def from_link(self, request: gr.Request) -> Updates:
        """Fill the form with what the address says; it is never run, since links must not spend anybody's GPU."""
        given, limits, parts = dict(request.query_params), self.comparison.settings, self.parts
        filled: Updates = {
            parts.question: given.get("q", "")[: limits.max_question] or gr.skip(),
            parts.expected: given.get("a", "")[:200] or gr.skip(),
            parts.blind: WORDS.get(given.get("blind", "0"), False) or gr.skip(),
        }
        for component, name, kind, lowest, highest in (
            (parts.temperature, "temperature", float, 0, 2),
            (parts.max_new_tokens, "tokens", int, 1, limits.max_new_tokens),
            (parts.seed, "seed", int, 0, MAX_SEED),
        ):
            try:
                value = kind(given[name])
                filled[component] = value if lowest <= value <= highest else gr.skip()
            except (KeyError, ValueError, OverflowError):
                filled[component] = gr.skip()
        return filled

    def as_json(self, conversation: Conversation) -> str:
        """Write the conversation as JSON."""
        return to_json(conversation, self.comparison.models)

    def as_markdown(self, conversation: Conversation) -> str:
        """Write the conversation as Markdown."""
        return to_markdown(conversation, self.comparison.models)

    def compare(
        self,
        question: str,
        expected: str = "",
        temperature: float = 0.6,
        max_new_tokens: int = 256,
        seed: int = 0,
        request: gr.Request = None,
    ) -> Iterator[dict[str, Any]]:
        """Ask all models one question; yields growing answers, the last time with their verdicts and "done": true."""
        conversation = Conversation.start(len(self.comparison.models), blind=False)
        try:
            conversation = conversation.asking(self.comparison.turn(question, expected, temperature, max_new_tokens, seed))
        except SSGRError as error:
            raise _refusal(str(error)) from None
        for answers in self.comparison.answer(conversation, f"api-{_session(request)}"):
            conversation = conversation.answered(answers)
            yield {"done": False, **to_dict(conversation, self.comparison.models)["turns"][0]}
        yield {"done": True, **to_dict(conversation, self.comparison.models)["turns"][0]}


def _session(request: gr.Request | None) -> str:
    return getattr(request, "session_hash", None) or f"anonymous-{id(request)}"


def _refusal(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False, duration=6)
