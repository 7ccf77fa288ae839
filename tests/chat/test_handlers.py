"""One question at a time: what the events' functions make of clicks and keys that come while the models are answering."""

import json
from types import SimpleNamespace

import pytest

from .test_comparison import make_comparison


REQUEST = SimpleNamespace(session_hash="me")


class Visitor:
    """A visitor's page: their state, and what is shown; every function is called as Gradio would call it."""

    def __init__(self):
        import gradio as gr  # these take long to load, which only the process that runs these tests needs to do

        from optimum_ssgr.chat.handlers import Handlers
        from optimum_ssgr.chat.layout import lay_out

        self.comparison = make_comparison()
        with gr.Blocks():
            self.parts = lay_out(self.comparison)
        self.handlers = Handlers(self.comparison, self.parts, lambda vote: None)
        self.conversation, self.shown = self.parts.conversation.value, {}

    def ask(self, question="6 * 7?"):
        return self.follow(self.handlers.ask(question, "", 0.0, 10, 0, self.conversation, REQUEST))

    def again(self):
        return self.follow(self.handlers.again(0.0, 10, 0, self.conversation, REQUEST))

    def follow(self, updates):
        for update in updates:
            self.conversation = update.pop(self.parts.conversation, self.conversation)
            self.shown |= update
            yield

    def messages(self):
        return [role for role, _ in self.conversation.messages(0)]

    def can_ask(self):
        return self.shown[self.parts.ask]["visible"] and self.shown[self.parts.again]["interactive"]


@pytest.fixture
def visitor():
    return Visitor()


def all_of(updates):
    for _ in updates:
        pass


def fail(*arguments):
    raise RuntimeError("no GPU")


@pytest.mark.parametrize("first", ["ask", "again"])
@pytest.mark.parametrize("second", ["ask", "again"])
def test_one_question_at_a_time(visitor, first, second):
    from gradio import Error

    all_of(visitor.ask())
    running = getattr(visitor, first)()
    next(running), next(running)
    before = visitor.conversation
    with pytest.raises(Error, match="still answering; stop them first"):
        next(getattr(visitor, second)())
    assert visitor.conversation is before
    visitor.handlers.stop(None, REQUEST)
    all_of(running)
    assert visitor.can_ask()
    all_of(visitor.ask("Sure?"))
    assert visitor.messages() == ["user", "assistant"] * (2 if first == "ask" else 1) + ["user"]


@pytest.mark.parametrize("then", ["ask", "again"])
@pytest.mark.parametrize("trouble", ["the models fail", "the connection breaks"])
def test_a_question_that_was_never_answered_does_not_lock_the_chat(visitor, trouble, then):
    all_of(visitor.ask())
    race = visitor.comparison._stream
    if trouble == "the models fail":
        visitor.comparison._stream = fail
        with pytest.raises(RuntimeError, match="no GPU"):
            all_of(visitor.ask("Lost?"))
        assert visitor.can_ask() and "could not be answered" in visitor.shown[visitor.parts.status]
    else:
        lost = visitor.ask("Lost?")
        next(lost), next(lost)
        lost.close()
    assert len(json.loads(visitor.handlers.as_json(visitor.conversation))["turns"]) == 1
    assert visitor.handlers.as_markdown(visitor.conversation).count("## Question") == 1
    visitor.comparison._stream = race
    all_of(getattr(visitor, then)() if then == "again" else visitor.ask("Sure?"))
    assert visitor.messages() == ["user", "assistant", "user"]
    assert visitor.conversation.last.question == ("Lost?" if then == "again" else "Sure?")
