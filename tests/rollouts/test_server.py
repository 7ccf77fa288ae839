import logging
import socket
import sys
import threading
from contextlib import ExitStack
from time import monotonic

import httpx2
import pytest

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.config import SamplingConfig
from optimum_ssgr.errors import ConfigError, ModelError
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner import WEIGHTS
from optimum_ssgr.rollouts import dispatch
from optimum_ssgr.rollouts.engine import NothingUsable, Request, request_seed
from optimum_ssgr.rollouts.local import LocalEngine
from optimum_ssgr.rollouts.prompts import encode_prompts
from optimum_ssgr.rollouts.sample import make_requests, rollout_progress, sample_rollouts
from optimum_ssgr.rollouts.server import ServerEngine
from optimum_ssgr.rollouts.store import open_rollout_store
from optimum_ssgr.verification.verify import grade_all

from ..processes import started
from .stub_server import EOS, StubServer, response_of


KEY = "sk-very-secret-1234"


def transformers(*arguments):
    """Run the command `transformers`."""
    from transformers.cli.transformers import main

    sys.argv = ["transformers", *arguments]
    main()


class TransformersServe:
    """A `transformers serve` process with the embedded reasoner, on a port that stays the same over restarts."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self):
        arguments = ["serve", WEIGHTS, "--host", "127.0.0.1", "--port", self.port, "--device", "cpu", "--dtype", "float32"]
        self.stack = ExitStack()
        self.running = self.stack.enter_context(started(transformers, *map(str, arguments), cwd=self.folder))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def wait(self):
        deadline = monotonic() + 120
        while self.running.process.is_alive() and monotonic() < deadline:
            try:
                return httpx2.get(f"http://127.0.0.1:{self.port}/health").raise_for_status()
            except httpx2.HTTPError:
                threading.Event().wait(0.1)
        raise AssertionError(self.running.err.read_text())

    def kill(self):
        self.stack.close()


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    server = TransformersServe(tmp_path_factory.mktemp("serve"))
    server.wait()
    yield server
    server.kill()


@pytest.fixture
def stub():
    """Makes stub servers and stops them."""
    made = []

    def make(**options):
        made.append(StubServer(**options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def make_engine(reasoner):
    def make(*servers, **options):
        options = {
            "concurrency": 8,
            "give_up_after": 20.0,
            "read_timeout": 20.0,
            "backoff": 0.01,
            "max_backoff": 0.05,
        } | options
        sampling = options.pop("sampling", SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=50))
        urls = [getattr(server, "url", server) for server in servers]
        return ServerEngine(urls, options.pop("model", "stub/model"), reasoner[1], sampling, **options)

    return make


@pytest.fixture
def closed_port():
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody else can take it, and connections are refused
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def requests(count=20):
    return [Request(str(n), 0, (2, 3, 20 + n, 4), request_seed(0, str(n), 0)) for n in range(count)]


def expected(request):
    """The rollout that the stub's model writes for a request."""
    written, finished = response_of(request.prompt_ids, request.seed & 0x7FFFFFFF)
    return tuple([*written, EOS] if finished else written), finished


def assert_exactly_one_each(rollouts, asked):
    assert sorted((r.problem_id, r.sample) for r in rollouts) == sorted((r.problem_id, r.sample) for r in asked)
    by_id = {(request.problem_id, request.sample): request for request in asked}
    for rollout in rollouts:
        request = by_id[rollout.problem_id, rollout.sample]
        assert rollout.prompt_ids == request.prompt_ids
        assert (rollout.response_ids, rollout.finished) == expected(request)


# ------------------------------------------------------------------------------------------------ a real `transformers serve`


@pytest.mark.slow
def test_greedy_responses_of_transformers_serve_equal_the_local_engines(serve, reasoner, make_engine):
    model, tokenizer = reasoner
    problems = load_problems("tiny-reasoner", limit=24)
    asked = make_requests(problems, encode_prompts(tokenizer, problems), range(1), 0)
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=120)
    engine = make_engine(serve, model=str(WEIGHTS), sampling=sampling)
    found = {rollout.problem_id: rollout for rollout in engine.generate(asked)}
    assert found == {rollout.problem_id: rollout for rollout in LocalEngine(model, sampling).generate(asked)}
    assert {rollout.finished for rollout in found.values()} == {True, False}
    assert not engine.lost


@pytest.mark.slow
def test_calibration_from_the_command_line(serve, tmp_path, cli):
    sampling = ["--samples-per-problem", "2", "--max-new-tokens", "200", "--num-sequences", "4", "--strategy", "self"]
    asked = ["--problems", "tiny-reasoner", "--num-problems", "4", "--engine", serve.url]
    done = cli("calibrate", "out", "-m", WEIGHTS, *sampling, *asked, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "Loading weights" not in done.err  # the servers have them
    made = CalibrationSet.load_from_disk(tmp_path / "out")
    assert made.manifest.engine == "OpenAI-compatible server"
    assert made.manifest.counts["rollouts"] == 8
    assert serve.url not in (tmp_path / "out" / "manifest.json").read_text()
    assert len(made.sequences) == 4


@pytest.mark.slow
def test_a_server_killed_in_mid_run_and_restarted_loses_nothing(serve, reasoner, make_engine):
    problems = load_problems("tiny-reasoner", limit=30)
    asked = make_requests(problems, encode_prompts(reasoner[1], problems), range(2), 0)
    sampling = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=300)
    engine = make_engine(serve, model=str(WEIGHTS), sampling=sampling, give_up_after=120.0, max_backoff=0.5)
    found = []
    for rollout in engine.generate(asked):
        found.append(rollout)
        if len(found) == 10:
            serve.kill()
            serve.start()
    assert sorted((r.problem_id, r.sample) for r in found) == sorted((r.problem_id, r.sample) for r in asked)
    assert len({rollout.response_ids for rollout in found}) > len(problems)  # it really sampled
    graded = grade_all({problem.id: problem for problem in problems}, found, reasoner[1])
    assert sum(g.verdict.correct for g in graded) > 0.6 * len(asked)


# ------------------------------------------------------------------------------------------------------------ vLLM's dialect


def test_token_ids_are_kept_exactly_and_seeds_are_sent(stub, make_engine):
    server = stub()
    rollouts = list(make_engine(server).generate(requests()))
    assert_exactly_one_each(rollouts, requests())
    assert {rollout.finished for rollout in rollouts} == {True, False}
    sent = {tuple(body["prompt"]): body for body in server.bodies}
    for request in requests():
        body = sent[request.prompt_ids]
        assert body["seed"] == request.seed % 2**31
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 50)
        assert body["skip_special_tokens"] is False
    assert len({body["seed"] for body in server.bodies}) == len(requests())


def test_the_end_is_appended_where_a_server_leaves_it_out(stub, make_engine):
    assert_exactly_one_each(list(make_engine(stub(eos_in_ids=False)).generate(requests())), requests())


@pytest.mark.parametrize("always_says", [None, "stop", "length"])
def test_what_is_finished_does_not_depend_on_what_a_server_calls_it(stub, make_engine, always_says):
    """At a limit that cuts some responses, and that some just meet with their end."""
    sampling, found = SamplingConfig(max_new_tokens=5), {}
    for rollout in make_engine(stub(always_says=always_says), sampling=sampling).generate(requests(40)):
        found[rollout.problem_id] = rollout
    met = cut = 0
    for request in requests(40):
        written, ends = response_of(request.prompt_ids, request.seed & 0x7FFFFFFF)
        whole = [*written, EOS] if ends else written
        rollout = found[request.problem_id]
        assert list(rollout.response_ids) == whole[:5]
        if len(whole) >= 5:  # a response of the stub that is shorter and has no end was cut by the stub
            assert rollout.finished == (whole[:5][-1] == EOS)
            met += len(whole) == 5 and ends
            cut += not rollout.finished
    assert met and cut


def test_a_server_is_asked_once_what_it_can_do(stub, make_engine):
    server = stub()
    engine = make_engine(server)
    engine.check(requests())
    probes = server.probes
    assert (probes > 0, server.bodies) == (True, [])
    for _ in range(2):
        assert len(list(engine.generate(requests()))) == 20
    assert server.probes == probes


@pytest.mark.parametrize("fault", ["500", "503", "408", "429 0.01", "reset", "malformed", "no completion", "aborted", "hang"])
def test_what_another_try_mends_is_tried_again(stub, make_engine, fault):
    server = stub(faults=[fault] * 5)
    rollouts = list(make_engine(server, read_timeout=1.0).generate(requests()))
    assert_exactly_one_each(rollouts, requests())
    assert len(server.bodies) == len(requests()) + 5


def test_retry_after_is_honoured(stub, make_engine):
    server = stub(faults=["429 0.5"])
    rollouts = list(make_engine(server, concurrency=1).generate(requests(3)))
    assert_exactly_one_each(rollouts, requests(3))
    assert server.times[1] - server.times[0] >= 0.45


def test_endpoints_share_the_load_up_to_their_concurrency(stub, make_engine):
    gate = threading.Barrier(4)  # opens only when both endpoints work on two requests at once
    servers = [stub(gate=gate), stub(gate=gate)]
    assert_exactly_one_each(list(make_engine(*servers, concurrency=2).generate(requests())), requests())
    assert [server.most_running for server in servers] == [2, 2]
    assert [len(server.bodies) for server in servers] == [10, 10]


def test_a_request_that_failed_goes_to_another_endpoint(stub, make_engine, monkeypatch):
    monkeypatch.setattr(dispatch, "UNHEALTHY_AFTER", 1000)  # the broken one stays in use
    broken, sound = stub(always="500"), stub()
    assert_exactly_one_each(list(make_engine(broken, sound).generate(requests())), requests())
    failed = {tuple(body["prompt"]) for body in broken.bodies}
    assert len(failed) == len(broken.bodies) > 0  # it was tried, but never twice with the same request
    assert len(sound.bodies) == len(requests())


def test_a_dead_endpoint_does_not_stop_the_run(stub, make_engine, closed_port):
    server = stub(gate=threading.Barrier(2))
    assert_exactly_one_each(list(make_engine(closed_port, server, concurrency=2).generate(requests())), requests())
    assert server.most_running == 2  # it does not take over the other's share of concurrent requests


def test_an_endpoint_that_comes_back_is_used_again(stub, make_engine):
    server = stub()
    engine = make_engine(server, concurrency=2)
    found = []
    for rollout in engine.generate(requests(40)):
        found.append(rollout)
        if len(found) == 5:
            server.stop()
            server.start()
    assert_exactly_one_each(found, requests(40))


def test_a_dead_cluster_ends_in_one_sentence_after_everything_finished(stub, make_engine):
    server = stub()
    found = []
    with pytest.raises(ModelError) as caught:
        for rollout in make_engine(server, concurrency=1, give_up_after=0.3).generate(requests(50)):
            found.append(rollout)
            if len(found) == 1:
                server.always, server.probe_fault = "500", "500"
    assert 1 <= len(found) < 50
    assert_exactly_one_each(found, requests(50)[: len(found)])
    message = str(caught.value)
    assert server.url in message
    assert "finished rollouts are kept" in message
    assert "the same command" in message
    assert "\n" not in message


def test_a_request_that_no_try_mends_is_left_out_and_counted(stub, make_engine, monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "UNHEALTHY_AFTER", 1000)
    server = stub()
    poison = requests()[7]
    plain = server.server.RequestHandlerClass.completion

    def completion(handler, body, *arguments):
        if tuple(body["prompt"]) == poison.prompt_ids:
            return {"object": "error"}
        return plain(handler, body, *arguments)

    server.server.RequestHandlerClass.completion = completion
    engine = make_engine(server, give_up_after=0.2)
    rest = [request for request in requests() if request != poison]
    assert_exactly_one_each(list(engine.generate(requests())), rest)
    assert list(engine.lost) == [(poison.problem_id, 0)]
    assert "1 of 20 responses were left out" in caplog.text


@pytest.mark.parametrize("status", ["400", "404", "422"])
def test_a_refusal_stops_at_once_with_the_servers_message(stub, make_engine, status):
    server = stub(faults=[status])
    with pytest.raises(ModelError, match=rf"{server.url} refuses a request \({status}, ") as caught:
        list(make_engine(server, concurrency=1).generate(requests()))
    assert len(server.bodies) == 1
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "VLLM_API_KEY"])
def test_the_key_is_sent_but_appears_nowhere(stub, make_engine, monkeypatch, caplog, variable):
    caplog.set_level(logging.DEBUG)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv(variable, KEY)
    for fault in ("401", "403", "404", "500"):  # the stub's message repeats the key
        server = stub(faults=[fault] * 20, probe_fault="500" if fault == "401" else None)
        with pytest.raises(ModelError) as caught:
            if fault == "500":
                server.always = server.probe_fault = "500"
            list(make_engine(server, give_up_after=0.1).generate(requests()))
        assert "***" in str(caught.value)
        assert KEY not in repr(caught.value)
    assert KEY not in caplog.text


def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(stub, make_engine, monkeypatch):
    server = stub()
    for broken in (f"{KEY}\u2026", f"{KEY}\nX: y"):
        monkeypatch.setenv("VLLM_API_KEY", broken)
        with pytest.raises(ConfigError, match="has characters that cannot be sent") as caught:
            make_engine(server).check(requests())
        assert KEY not in str(caught.value)
    monkeypatch.setenv("VLLM_API_KEY", f"{KEY}\n")  # as read from a file
    make_engine(server).check(requests())


def test_a_password_in_an_address_appears_nowhere(make_engine, closed_port, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ModelError) as caught:
        make_engine(closed_port.replace("http://", f"http://me:{KEY}@")).check(requests())
    assert KEY not in str(caught.value) + caplog.text
    assert closed_port in str(caught.value)


# ------------------------------------------------------------------------------------------------------ seeds and fullness


def test_a_server_that_goes_by_no_seed_is_found_out(stub, make_engine, caplog):
    for seeds, temperature in (("kept", 0.7), ("ignored", 0.0), ("ignored", 0.7)):
        caplog.clear()
        server = stub(seeds=seeds)
        engine = make_engine(server, sampling=SamplingConfig(temperature=temperature, max_new_tokens=50))
        for _ in range(2):
            engine.check(requests())
        told = seeds == "ignored" and temperature > 0
        assert caplog.text.count(f"{server.url} does not go by the seeds of requests") == told


def test_a_server_that_dies_of_seeds_is_found_out_before_the_work(stub, make_engine):
    server = stub(seeds="deadly")
    with pytest.raises(ModelError, match=r"fails when many carry seeds \(500, .*start it again and give --request-seeds off"):
        make_engine(server).check(requests())
    assert not server.bodies


def samples(problems=5, each=4):
    asked = [
        Request(str(n), sample, (2, 3, 20 + n, 4), request_seed(0, str(n), sample))
        for n in range(problems)
        for sample in range(each)
    ]
    return asked


@pytest.mark.parametrize("draws_one", [False, True])
def test_without_seeds_the_samples_of_a_prompt_travel_together(stub, make_engine, draws_one):
    """Also to a server that draws one response whatever it is asked for."""
    server = stub(draws_one=draws_one)
    found = list(make_engine(server, request_seeds=False).generate(samples()))
    assert sorted((r.problem_id, r.sample) for r in found) == sorted((r.problem_id, r.sample) for r in samples())
    assert not [body for body in server.bodies if "seed" in body]
    assert [body["n"] for body in server.bodies if "n" in body] == [4] * 5
    assert len(server.bodies) == (20 if draws_one else 5)
    assert len({rollout.response_ids for rollout in found}) > 5  # no response stands for another


def test_greedy_responses_are_asked_for_one_by_one(stub, make_engine):
    """vLLM refuses several."""
    server = stub()
    engine = make_engine(server, request_seeds=False, sampling=SamplingConfig(temperature=0, max_new_tokens=50))
    assert len(list(engine.generate(samples()))) == 20
    assert not [body for body in server.bodies if "n" in body]


@pytest.mark.parametrize(
    ("capacity", "lag", "concurrency", "reached"), [(100, 1, 2, 16), (3, 1, 4, 4), (100, 3, 4, 4), (None, 1, 4, 4)]
)
def test_a_server_is_kept_full_and_no_fuller(stub, make_engine, monkeypatch, capacity, lag, concurrency, reached):
    """The first answers nothing before it has 16 requests; some wait at the second, the third has yet to take most of them in,
    and the last says nothing.
    """
    monkeypatch.setattr(dispatch, "LOOK_AGAIN", 0.01)
    server = stub(capacity=capacity, lag=lag, gate=threading.Barrier(reached))
    engine = make_engine(server, concurrency=concurrency)
    assert_exactly_one_each(list(engine.generate(requests(2 * reached))), requests(2 * reached))
    assert server.most_running >= reached if reached == 16 else server.most_running == reached


def test_the_samples_of_a_problem_go_where_its_prompt_was_read(stub, make_engine):
    servers = [stub(), stub()]
    assert len(list(make_engine(*servers, concurrency=20).generate(samples()))) == 20
    asked = [{tuple(body["prompt"]) for body in server.bodies} for server in servers]
    assert asked[0] and asked[1] and not asked[0] & asked[1]


def test_a_reasoning_parser_is_of_no_concern(stub, make_engine):
    """It takes the thinking out of chat answers, not out of completions, and nothing else is asked for."""
    server = stub()
    assert_exactly_one_each(list(make_engine(server).generate(requests())), requests())
    assert server.paths == {"/v1/completions"}


# ------------------------------------------------------------------------------------------ what must not be used silently


def test_a_server_that_cuts_long_prompts_is_refused_with_the_setting(stub, make_engine):
    server = stub(cuts_to=10, token_ids=False, context=None)
    longer = [*requests(), Request("long", 0, (2, 3) * 10, 7)]
    make_engine(server).check(requests())
    with pytest.raises(
        ModelError, match=r"a prompt of 10 tokens instead of 20; .*OLLAMA_CONTEXT_LENGTH for Ollama, -c for llama"
    ):
        make_engine(server).check(longer)
    assert not server.bodies


@pytest.mark.parametrize(
    "pages",
    [
        {"/props": {"default_generation_settings": {"n_ctx": 40}, "total_slots": 4}},
        {"/api/ps": {"models": [{"name": "stub", "context_length": 40}]}},
    ],
    ids=["llama.cpp", "Ollama"],
)
def test_what_does_not_fit_llama_cpp_or_ollama_is_refused_with_the_setting(stub, make_engine, pages):
    """They say how long a sequence may be elsewhere than vLLM does, and break off without a word what grows longer."""
    server = stub(context=None, pages=pages)
    with pytest.raises(ConfigError, match=r"exceed the 40 tokens that .* takes; .* longer context \(OLLAMA_CONTEXT_LENGTH"):
        make_engine(server).check(requests())


def test_a_prompt_that_no_server_takes_is_told_as_such(stub, make_engine):
    with pytest.raises(
        ConfigError, match=r"the longest prompt .4 tokens. .* exceed the 3 tokens that .* takes; remove that problem"
    ):
        make_engine(stub(context=3)).check(requests())


def test_another_prompt_is_refused_before_generating(stub, make_engine):
    server = stub(extra_prompt_tokens=1)
    with pytest.raises(ModelError, match="the server saw a prompt of 5 tokens instead of 4"):
        next(make_engine(server).generate(requests()))
    assert not server.bodies


def test_text_is_tokenized_exactly_or_left_out(stub, make_engine, reasoner, caplog):
    """Without token ids from the server, some texts lead back to them and others do not; the two must be told apart.

    Another split of the same text into as many tokens cannot be seen from outside, and is all that may slip through.
    """
    tokenizer = reasoner[1]
    server = stub(token_ids=False, decode=tokenizer.decode)
    asked = requests(200)
    written = {request.problem_id: list(expected(request)[0]) for request in asked}
    exact = {
        problem
        for problem, ids in written.items()
        if tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids and "\ufffd" not in tokenizer.decode(ids)
    }
    assert 0.5 * len(asked) < len(exact) < 0.9 * len(asked)
    engine = make_engine(server)
    found = {rollout.problem_id: list(rollout.response_ids) for rollout in engine.generate(asked)}
    assert exact <= set(found)
    for problem, ids in found.items():
        assert (len(ids), tokenizer.decode(ids)) == (len(written[problem]), tokenizer.decode(written[problem]))
    assert sum(ids != written[problem] for problem, ids in found.items()) < 0.05 * len(asked)
    assert {problem for problem, _ in engine.lost} == set(written) - set(found)
    assert f"{200 - len(found)} of 200 responses were left out" in caplog.text


def test_a_run_that_loses_most_responses_stops(stub, make_engine, reasoner):
    server = stub(token_ids=False, always="miscount", decode=reasoner[1].decode)
    with pytest.raises(ModelError, match=r"of the first [0-9]+ responses could not be used"):
        list(make_engine(server).generate(requests(500)))
    assert len(server.bodies) < 100


def test_a_small_run_that_loses_everything_says_why(stub, make_engine, reasoner, monkeypatch):
    monkeypatch.setattr(dispatch, "UNHEALTHY_AFTER", 1000)
    inexact = stub(token_ids=False, always="miscount", decode=reasoner[1].decode)
    with pytest.raises(NothingUsable, match=r"5 of the first 5 responses could not be used.*a server that returns token ids"):
        list(make_engine(inexact).generate(requests(5)))
    with pytest.raises(NothingUsable, match=r"3 of the first 3 .* failed [0-9]+ times .500, .*see what the server's log says"):
        list(make_engine(stub(always="500"), give_up_after=0.1).generate(requests(3)))


def test_what_is_lost_again_does_not_undo_what_was_there(stub, make_engine, reasoner, tmp_path):
    """Given again, a run asks for the responses it lost alone; where all of these are lost again, the others are enough."""
    server = stub()
    asked = requests(5)
    found = []
    for faults in ([], ["miscount"]):
        server.token_ids, server.decode, server.faults = not faults, reasoner[1].decode, faults
        wanted = asked if faults else asked[:4]
        with open_rollout_store(tmp_path, {"run": 1}) as journal, rollout_progress(len(wanted)) as progress:
            found.append(sample_rollouts(make_engine(server), wanted, progress, journal))
    assert len(server.bodies) == 5
    assert_exactly_one_each(found[1], asked[:4])
    with pytest.raises(NothingUsable), rollout_progress(1) as progress:
        server.always = "miscount"
        assert sample_rollouts(make_engine(server), asked[4:], progress, more=True) == []
        sample_rollouts(make_engine(server), asked[4:], progress)


# ------------------------------------------------------------------------------------------------- before and after the run


def test_closing_the_iterator_cancels_what_runs(stub, make_engine):
    server = stub(faults=[None, None] + ["hang"] * 100)
    rollouts = make_engine(server, concurrency=4).generate(requests(100))
    next(rollouts)
    rollouts.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "server-engine"]
    assert len(server.bodies) < 10


def test_nobody_there_is_said_before_generating(make_engine, closed_port):
    with pytest.raises(ModelError, match=f"no server answers .{closed_port}: .*; start it, or check the address"):
        make_engine(closed_port).check(requests())


def test_what_does_not_fit_the_servers_context_is_refused(stub, make_engine):
    server = stub(context=40)
    with pytest.raises(ConfigError, match=r"exceed the 40 tokens that .* takes; set max_new_tokens to 36 or less"):
        make_engine(stub(), server).check(requests())
    assert not server.bodies


def test_the_only_model_of_a_server_stands_for_the_model(stub, make_engine, caplog):
    server = stub(served=("served/name",))
    assert_exactly_one_each(list(make_engine(server).generate(requests())), requests())
    assert {body["model"] for body in server.bodies} == {"served/name"}
    assert "its only model, served/name, is used" in caplog.text


def test_each_model_is_asked_of_the_server_that_knows_it(stub, make_engine, caplog):
    servers = {name: stub(served=(name,)) for name in ("me/sparse", "me/dense")}
    for name, server in servers.items():
        engine = make_engine(*servers.values(), model=name, sole=False)
        engine.check(requests())
        assert_exactly_one_each(list(engine.generate(requests())), requests())
        assert [body["model"] for body in server.bodies] == [name] * 20
    assert caplog.text.count("cannot be used (serves me/sparse, but not me/dense") == 1


def test_one_of_several_models_is_never_answered_by_another(stub, make_engine):
    servers = [stub(served=("me/dense",)), stub(served=("me/dense",))]
    with pytest.raises(ModelError, match="serves me/dense, but not me/sparse; give one of its models"):
        next(make_engine(*servers, model="me/sparse", sole=False).generate(requests()))


@pytest.mark.parametrize("other_is_up", [True, False])
def test_a_servers_only_model_does_not_stand_in_where_another_server_may_know_the_model(
    stub, make_engine, closed_port, other_is_up
):
    wrong = stub(served=("me/dense",))
    if other_is_up:
        list(make_engine(wrong, stub()).generate(requests()))
    else:
        with pytest.raises(ModelError, match="serves me/dense, but not stub/model"):
            next(make_engine(wrong, closed_port).generate(requests()))
    assert not wrong.bodies


def test_a_server_that_comes_up_late_with_another_model_is_not_asked(stub, make_engine):
    server, other = stub(), stub(served=("me/dense",))
    other.stop()
    engine = make_engine(server, other)
    engine.check(requests())
    other.start()
    assert_exactly_one_each(list(engine.generate(requests())), requests())
    assert not other.bodies


def test_a_server_of_other_models_is_refused(stub, make_engine):
    with pytest.raises(ModelError, match="serves a/a, b/b, but not stub/model"):
        make_engine(stub(served=("a/a", "b/b"))).check(requests())


@pytest.mark.parametrize(
    "address", ["localhost:8000/v1", "ftp://host/v1", "http://host:8000", "http://", "http://host:port/v1"]
)
def test_what_is_no_address_is_refused(make_engine, address):
    with pytest.raises(ConfigError, match="must look like http://host:8000/v1"):
        make_engine(address)


def test_nothing_to_ask_is_nothing_to_do(make_engine, closed_port):
    assert list(make_engine(closed_port).generate([])) == []
    with pytest.raises(ConfigError, match="at least one address"):
        make_engine()
