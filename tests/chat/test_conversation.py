import json

from optimum_ssgr.chat.answers import Answer
from optimum_ssgr.chat.compared_models import ComparedModel
from optimum_ssgr.chat.conversation import Conversation, Turn, to_json, to_markdown
from optimum_ssgr.chat.votes import describe_vote, open_votes
from optimum_ssgr.records import Problem


MODELS = [ComparedModel("a/dense"), ComparedModel("b/text", "Text"), ComparedModel("c/ssgr", "SSGR")]
TURN = Turn("6*7?", Problem("p", "6*7?", "42"), 0.6, 100, 3)
ANSWERS = [Answer(f"<think>\nhm {name}</think>\n```{name}```", 5, 0.1, 0.2, 1.0, "stop", correct=name == "b") for name in "abc"]


def talk(order=(0, 1, 2), blind=False):
    return Conversation(order, blind).asking(TURN).answered(ANSWERS)


def test_models_are_sent_earlier_answers_without_their_thinking():
    conversation = talk().asking(Turn("Sure?", None, 0.6, 100, 3))
    assert conversation.messages(1) == (("user", "6*7?"), ("assistant", "```b```"), ("user", "Sure?"))
    assert talk().without_last().turns == ()


def test_blind_columns_are_shuffled_and_every_model_has_one():
    orders = {Conversation.start(3, blind=True).order for _ in range(200)}
    assert len(orders) == 6 and all(sorted(order) == [0, 1, 2] for order in orders)
    assert Conversation.start(3, blind=False).order == (0, 1, 2)


def test_json_holds_everything_and_no_hidden_name():
    exported = json.loads(to_json(talk((2, 0, 1)), MODELS))
    answer = exported["turns"][0]["answers"][1]
    assert (answer["model"], answer["thinking"], answer["answer"]) == ("a/dense", "hm b", "```b```")
    assert (exported["turns"][0]["known_answer"], exported["turns"][0]["seed"]) == ("42", 3)
    hidden = to_json(talk(blind=True), MODELS) + to_markdown(talk(blind=True), MODELS)
    assert not any(model.source in hidden for model in MODELS) and "Model B" in hidden


def test_markdown_cannot_be_broken_out_of():
    lines = to_markdown(talk(), MODELS).splitlines()
    fences = [line for line in lines if line.startswith("````")]
    assert len(fences) == 6  # a longer fence around each of three answers that hold fences themselves
    assert "### a/dense" in lines and "5 tokens in 1.0 s, end: stop, right" in lines


def test_votes_say_who_won_whatever_the_order(tmp_path):
    save = open_votes(str(tmp_path / "votes.jsonl"))
    conversation = talk((2, 0, 1), blind=True)
    save(describe_vote(conversation, MODELS, "1"))
    save(describe_vote(conversation, MODELS, "tie"))
    first, second = map(json.loads, (tmp_path / "votes.jsonl").read_text().splitlines())
    assert (first["vote"], first["blind"], first["questions"]) == ("a/dense", True, ["6*7?"])
    assert [column["model"] for column in first["columns"]] == ["c/ssgr", "a/dense", "b/text"]
    assert [column["correct"] for column in first["columns"]] == [False, True, False]
    assert second["vote"] == "tie"
