import pytest

from optimum_ssgr.chat.answers import Answer
from optimum_ssgr.chat.backends import ChatRequest
from optimum_ssgr.chat.server import ServerBackend
from optimum_ssgr.config import PromptConfig
from optimum_ssgr.errors import ConfigError, ModelError


REQUEST = ChatRequest((("user", "6 * 7?"), ("assistant", "42"), ("user", "Sure?")), 0.5, 20, 7)


def pieces_of(stub, model):
    return list(ServerBackend(stub.url, model, timeout=30).stream(REQUEST, lambda: False))


def test_a_stream_is_read_to_its_end(stub):
    pieces = pieces_of(stub, "right")
    assert "".join(piece.text for piece in pieces).strip() == "<think>\nSix times seven.\n</think>\nThe answer is \\boxed{42}."
    assert pieces[-1].finish == "stop"
    body = stub.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"], body["stream"]) == ("right", 0.5, 20, 7, True)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_in_a_field_of_its_own_is_put_between_tags_and_usage_counts(stub, name):
    """As servers send it that were started with a reasoning parser, of older and of newer versions."""
    stub.thinking_field = name
    pieces = pieces_of(stub, "field")
    assert "".join(piece.text for piece in pieces) == "<think>\nSix times seven.\n</think>\nIt is \\boxed{42}."
    assert sum(piece.tokens for piece in pieces) == 1000


def test_the_token_limit_is_told(stub):
    assert pieces_of(stub, "endless")[-1].finish == "length"


def test_thinking_opened_by_the_template_is_known_the_second_time(stub):
    backend = ServerBackend(stub.url, "opened", timeout=30)
    first, second = ("".join(piece.text for piece in backend.stream(REQUEST, lambda: False)) for _ in range(2))
    assert not first.startswith("<think>") and second.startswith("<think>")


def test_one_stray_closing_tag_does_not_spoil_the_answers_after(stub):
    """A question can make any model write one: the next answer that ends by itself tells how the template really is."""
    backend, opened = ServerBackend(stub.url, "opened", timeout=30), []
    for backend.model in ("opened", "endless", "plain", "plain", "right"):
        first, *_ = backend.stream(REQUEST, lambda: False)
        opened.append(first.tokens == 0 and first.text == "<think>\n")
    assert opened == [False, True, True, False, False]


def test_how_the_model_is_addressed_is_sent_where_it_is_set(stub):
    pieces_of(stub, "plain")
    assert "chat_template_kwargs" not in stub.bodies[-1] and stub.bodies[-1]["messages"][0]["role"] == "user"
    prompting = PromptConfig({"enable_thinking": True}, "Be exact.", ("[THINK]", "[/THINK]"))
    backend = ServerBackend(stub.url, "field", 30, prompting)
    text = "".join(piece.text for piece in backend.stream(REQUEST, lambda: False))
    assert stub.bodies[-1]["chat_template_kwargs"] == {"enable_thinking": True}
    assert stub.bodies[-1]["messages"][0] == {"role": "system", "content": "Be exact."}
    answer = Answer(text, style=backend.style)
    assert (answer.thinking, answer.final) == ("Six times seven.", "It is \\boxed{42}.")


def test_leaving_closes_the_connection(stub):
    pieces = []
    for piece in ServerBackend(stub.url, "endless", 30).stream(REQUEST, lambda: len(pieces) > 2):
        pieces.append(piece)
    assert len(pieces) == 3


@pytest.mark.parametrize(("model", "message"), [("broken", "broke off"), ("dead", "does not answer")])
def test_a_broken_stream_is_an_error(stub, model, message):
    with pytest.raises(ModelError, match=message):
        pieces_of(stub, model)


def test_a_refusal_is_told_to_the_owner_without_the_key_and_to_visitors_without_the_address(stub, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(ModelError, match=r"^The server of this model refuses \(403\)\.$"):
        pieces_of(stub, "refusing")
    assert stub.authorizations == ["Bearer sk-secret"]
    assert "no quota for Bearer ***" in caplog.text and stub.url in caplog.text and "sk-secret" not in caplog.text


def test_an_address_must_be_one():
    with pytest.raises(ConfigError, match="address"):
        ServerBackend("localhost", "m", 30)
