"""The API, and many users at once."""

import threading
from time import sleep

import pytest

from optimum_ssgr.chat.settings import ChatSettings

from .conftest import serve


def connect(url):
    from gradio_client import Client  # takes long to load, which only the process that runs these tests needs to do

    return Client(url, verbose=False)


@pytest.mark.slow
def test_the_api_streams_and_grades(served):
    client = connect(served[0])
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/compare"]
    problem = next(problem for problem in served[1].examples["easy"] if problem.source == "count")
    job = client.submit(question=problem.question, temperature=0, max_new_tokens=200, api_name="/compare")
    last = job.result(timeout=60)
    assert last["done"] and not job.outputs()[0]["done"]
    assert [answer["model"] for answer in last["answers"]] == [model.source for model in served[1].models]
    dense = last["answers"][0]
    assert dense["answer"] == f"The answer is \\boxed{{{problem.answer}}}." and dense["correct"] is True
    assert "yes 1" in dense["thinking"] and last["known_answer"] == problem.answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"question": "  "}, "Type a question"),
        ({"question": "x" * 5000}, "longer than 4000"),
        ({"question": "x", "max_new_tokens": 10**9}, "token limit"),
        ({"question": "x", "temperature": -1}, "Temperature"),
        ({"question": "x", "seed": -1}, "seed"),
    ],
)
def test_the_api_refuses_what_is_out_of_bounds(served, values, message):
    with pytest.raises(Exception, match=message):
        connect(served[0]).predict(**values, api_name="/compare")


def test_a_cancelled_job_stops_the_models(stub):
    stub.pause = 0.05
    with serve(ChatSettings(models=("endless", "right"), engine=stub.url, votes="/dev/null")) as (url, comparison):
        job = connect(url).submit(question="?", api_name="/compare")
        while not job.outputs():
            sleep(0.01)
        job.cancel()
        while comparison.running or stub.running:
            sleep(0.01)


@pytest.mark.slow
def test_twenty_users_get_an_answer_or_a_polite_refusal(stub):
    """All twenty are there before the first is answered: two are served, ten wait, and the others are told at once."""
    stub.pause = 0.05
    settings = ChatSettings(models=("right", "wrong"), engine=stub.url, votes="/dev/null", concurrency=2, queue_size=10)
    with serve(settings) as (url, comparison):
        clients = [connect(url) for _ in range(20)]
        together, outcomes = threading.Barrier(20), []

        def ask(client):
            together.wait(60)
            try:
                outcomes.append(client.predict(question="6 * 7?", expected="42", api_name="/compare")["done"])
            except Exception as refusal:
                outcomes.append(str(refusal))

        users = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for user in users:
            user.start()
        for user in users:
            user.join(120)
        refusals = [outcome for outcome in outcomes if outcome is not True]
        assert len(outcomes) == 20 and outcomes.count(True) >= 10
        assert all("queue" in refusal.lower() and "full" in refusal.lower() for refusal in refusals)
        assert stub.most_running <= 2 * 2 and comparison.running == 0
