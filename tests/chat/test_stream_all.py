import threading
from itertools import pairwise
from time import sleep

from optimum_ssgr.chat.backends import ChatRequest, Piece
from optimum_ssgr.chat.stop import new_switch
from optimum_ssgr.chat.stream_all import stream_all
from optimum_ssgr.errors import ModelError


REQUEST = ChatRequest((("user", "?"),), 0.0, 100, 0)


class Words:
    """Writes the given words, then raises an error or ends."""

    style = None

    def __init__(self, words, error=None, finish="stop"):
        self.words, self.error, self.finish = words, error, finish
        self.ended = threading.Event()

    def stream(self, request, stopped):
        try:
            for word in self.words:
                if stopped():
                    return
                yield Piece(word, 1)
            if self.error:
                raise self.error
            yield Piece("", 1, finish=self.finish)
        finally:
            self.ended.set()


def endless():
    while True:
        yield "on "
        sleep(0.001)


def run(backends, time_limit=60.0):
    return list(stream_all(backends, [REQUEST] * len(backends), [new_switch() for _ in backends], time_limit))


def test_answers_are_complete_and_only_grow():
    words = [[f"{column}{place} " for place in range(200)] for column in range(3)]
    seen = run([Words(each) for each in words])
    assert [answer.text for answer in seen[-1]] == ["".join(each) for each in words]
    assert all(answer.finish == "stop" and answer.tokens == 201 for answer in seen[-1])
    for before, after in pairwise(seen):
        assert all(new.text.startswith(old.text) for old, new in zip(before, after, strict=True))


def test_a_model_that_fails_ends_its_own_column_only():
    told, secret, fine = run([Words("ab", ModelError("no room")), Words("cd", RuntimeError("token hf_x")), Words("ef")])[-1]
    assert (told.finish, told.error, told.text) == ("error", "no room", "ab")
    assert secret.finish == "error" and "hf_x" not in secret.error
    assert (fine.finish, fine.text) == ("stop", "ef")


def test_stopping_a_column_leaves_the_others():
    switches = [new_switch(), new_switch()]
    slow, quick = Words(endless()), Words(["x"] * 5)
    running = stream_all([slow, quick], [REQUEST] * 2, switches, 60.0)
    for answers in running:
        if answers[1].finish:
            switches[0].set()
    assert [answer.finish for answer in answers] == ["stopped", "stop"]
    assert slow.ended.wait(10)


def test_the_time_limit_ends_what_is_left():
    slow = Words(endless())
    answers = run([slow, Words("ab")], time_limit=0.3)[-1]
    assert [answer.finish for answer in answers] == ["time", "stop"]
    assert slow.ended.wait(10)


def test_a_silent_model_is_stopped_at_once():
    class Silent:
        style = None

        def stream(self, request, stopped):
            threading.Event().wait(60)
            yield Piece("late", 1)

    assert [answer.finish for answer in run([Silent()], time_limit=0.2)[-1]] == ["time"]


def test_closing_stops_every_column():
    backends = [Words(endless()), Words(endless())]
    running = stream_all(backends, [REQUEST] * 2, [new_switch(), new_switch()], 60.0)
    next(running)
    running.close()
    assert all(backend.ended.wait(10) for backend in backends)


def test_times_of_first_token_and_thinking_are_in_order():
    answer = run([Words(["<think>", "a", "</think>", "b"])])[-1][0]
    assert 0 <= answer.first_token_seconds <= answer.thinking_seconds <= answer.seconds


def test_rambling_is_found_with_and_without_token_ids():
    class Tokens:
        style = None

        def stream(self, request, stopped):
            for place in range(80):
                yield Piece("x", 1, (place % 4,))
            yield Piece("", 1, (9,), "length")

    loop, text, tokens = run([Words(["the same words again "] * 40, finish="length"), Words(["a b c "]), Tokens()])[-1]
    assert loop.rambling and not text.rambling
    assert not tokens.rambling  # it got out of the loop with its last token
