"""A conversation with several models at once, and what can be made of it: prompts, JSON, Markdown."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from typing_extensions import Self

from ..records import Problem
from .answers import Answer
from .compared_models import ComparedModel


@dataclass(frozen=True)
class Turn:
    """One question with the answers of all models, in the order of the columns.

    Args:
        question: What was asked.
        problem: The question with its known answer; None when it is not known.
        temperature: Softmax temperature.
        max_new_tokens: Longest response.
        seed: Seed.
        answers: One per column.
    """

    question: str
    problem: Problem | None
    temperature: float
    max_new_tokens: int
    seed: int
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Questions and answers so far.

    Args:
        order: Which model stands in which column.
        blind: Whether the names are hidden.
        turns: What was asked and answered.
        voted: Whether there was a vote on the last turn.
    """

    order: tuple[int, ...]
    blind: bool = False
    turns: tuple[Turn, ...] = ()
    voted: bool = False

    @classmethod
    def start(cls, columns: int, blind: bool) -> Self:
        """Start an empty conversation; a blind one shuffles the columns."""
        order = random.SystemRandom().sample(range(columns), columns) if blind else range(columns)
        return cls(tuple(order), blind)

    @property
    def last(self) -> Turn | None:
        """The last turn, or None."""
        return self.turns[-1] if self.turns else None

    def asking(self, turn: Turn) -> Self:
        """Add a turn."""
        return replace(self, turns=(*self.turns, turn), voted=False)

    def answered(self, answers: Sequence[Answer]) -> Self:
        """Set the answers of the last turn."""
        return replace(self, turns=(*self.turns[:-1], replace(self.turns[-1], answers=tuple(answers))))

    def without_last(self) -> Self:
        """Take the last turn back."""
        return replace(self, turns=self.turns[:-1], voted=False)

    def without_unanswered(self) -> Self:
        """Take the last turn back if its answers never came, because the page lost its connection or the models failed."""
        return self.without_last() if self.last and not self.last.answers else self

    def revealed(self) -> Self:
        """Record a vote, which shows the names."""
        return replace(self, blind=False, voted=True)

    def messages(self, column: int) -> tuple[tuple[str, str], ...]:
        """Return what to send to a column's model: earlier answers without their thinking, then the open question."""
        sent: list[tuple[str, str]] = []
        for turn in self.turns:
            sent.append(("user", turn.question))
            if turn.answers and turn is not self.turns[-1]:
                sent.append(("assistant", turn.answers[column].final))
        return tuple(sent)


def to_dict(conversation: Conversation, models: Sequence[ComparedModel]) -> dict[str, Any]:
    """Return everything that was asked and answered, and by whom unless that is still hidden."""
    names = name_columns(conversation, models)
    turns = []
    for turn in conversation.without_unanswered().turns:
        answers = []
        for name, answer in zip(names, turn.answers, strict=True):
            spoken = {"thinking": answer.thinking, "answer": answer.final}
            numbers = {key: value for key, value in asdict(answer).items() if key not in ("text", "style")}
            answers.append({"model": name, **spoken, **numbers, "tokens_per_second": answer.tokens_per_second})
        known = turn.problem.answer if turn.problem else None
        settings = {name: getattr(turn, name) for name in ("temperature", "max_new_tokens", "seed")}
        turns.append({"question": turn.question, "known_answer": known, **settings, "answers": answers})
    return {"models": names, "turns": turns}


def to_json(conversation: Conversation, models: Sequence[ComparedModel]) -> str:
    """Write a conversation as JSON."""
    return json.dumps(to_dict(conversation, models), indent=2, ensure_ascii=False) + "\n"


def to_markdown(conversation: Conversation, models: Sequence[ComparedModel]) -> str:
    """Write a conversation as Markdown; what was said stands in fences, so that it cannot become anything else."""
    lines = ["# Comparison", ""]
    for number, turn in enumerate(to_dict(conversation, models)["turns"], 1):
        known = f" (known answer: `{turn['known_answer']}`)" if turn["known_answer"] is not None else ""
        settings = f"temperature {turn['temperature']:g}, at most {turn['max_new_tokens']} tokens, seed {turn['seed']}"
        lines += [f"## Question {number}{known}", "", _quoted(turn["question"]), "", settings, ""]
        for answer in turn["answers"]:
            verdict = {True: ", right", False: ", wrong", None: ""}[answer["correct"]]
            lines += [f"### {answer['model']}", ""]
            lines += [f"{answer['tokens']} tokens in {answer['seconds']:.1f} s, end: {answer['finish']}{verdict}", ""]
            if answer["thinking"]:
                lines += ["Thinking:", "", _quoted(answer["thinking"]), ""]
            lines += ["Answer:", "", _quoted(answer["answer"] or answer["error"] or ""), ""]
    return "\n".join(lines)


def name_columns(conversation: Conversation, models: Sequence[ComparedModel]) -> list[str]:
    """Return the name over every column: the model's, or a letter while names are hidden."""
    if conversation.blind:
        return [f"Model {letter}" for letter in "ABCD"[: len(models)]]
    return [models[index].source for index in conversation.order]


def _quoted(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
