import sys
from types import ModuleType

from optimum_ssgr.chat.backends import Piece
from optimum_ssgr.chat.compared_models import ComparedModel
from optimum_ssgr.chat.comparison import GPU_MARGIN, ComparisonSession
from optimum_ssgr.chat.conversation import Conversation
from optimum_ssgr.chat.settings import ChatSettings
from optimum_ssgr.records import Problem


class Says:
    style = None

    def __init__(self, text):
        self.text = text

    def stream(self, request, stopped):
        yield Piece(self.text, 1, finish="stop")


def asked(comparison):
    turn = comparison.turn("6 * 7?", "", 0.0, 10, 0)
    return list(comparison.answer(Conversation.start(2, blind=False).asking(turn), "me"))


def make_comparison():
    examples = {"easy": [Problem("x", "6 * 7?", "42")]}
    return ComparisonSession(
        ChatSettings(time_limit=30),
        [ComparedModel("a"), ComparedModel("b")],
        [Says("\\boxed{42}"), Says("\\boxed{1}")],
        examples,
    )


def test_zerogpu_lends_its_gpu_to_each_question_as_a_whole(monkeypatch):
    """A stand-in for the package that only ZeroGPU Spaces have; its `GPU` is told how long a generator may take."""
    lent = []

    def gpu(generate, duration):
        def on_the_gpu(*arguments):
            lent.append(duration)
            yield from generate(*arguments)

        return on_the_gpu

    package = ModuleType("spaces")
    package.GPU = gpu
    monkeypatch.setitem(sys.modules, "spaces", package)
    comparison = make_comparison()
    assert lent == []
    assert [answer.correct for answer in asked(comparison)[-1]] == [True, False]
    assert lent == [30 + GPU_MARGIN]


def test_without_zerogpu_a_folder_named_spaces_does_no_harm(monkeypatch):
    monkeypatch.setitem(sys.modules, "spaces", ModuleType("spaces"))  # what importing a folder gives
    assert [answer.correct for answer in asked(make_comparison())[-1]] == [True, False]
