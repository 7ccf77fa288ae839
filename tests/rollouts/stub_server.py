"""A loopback server that speaks vLLM's dialect of `/v1/completions` and misbehaves on command."""

import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from time import monotonic


EOS = 1


def response_of(prompt, seed):
    """What the stub's model writes: token ids without the end, and whether it ends by itself."""
    length = 3 + seed % 5
    return [10 + (seed + 7 * place + len(prompt)) % 500 for place in range(length)], seed % 3 != 0


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@dataclass
class StubServer:
    """Answers like vLLM; `faults` are used up one a request, `always` never is.

    A probe (`max_tokens` 1, or 16 for its seed) meets no fault unless `probe_fault` is set. `decode` makes the text; without
    `token_ids` the text is all there is; `always_says` is its `finish_reason`, however a response ends.

    `seeds` are `kept`, `ignored`, or `deadly`: as in vLLM 0.32 on a CPU, where seeds end the engine as soon as there is more
    than one prompt to read. A prompt is cut to the last `cuts_to` tokens, as Ollama and llama.cpp do. `pages` are further
    answers to GET. It works on `capacity` responses at a time and says in its metrics how many wait; without, it has none.
    Of `lag` requests that were sent, one has come so far as to be counted there. `draws_one` is a server that knows no `n`.
    """

    model: str = "stub/model"
    served: tuple[str, ...] | None = None
    context: int | None = 4096
    token_ids: bool = True
    eos_in_ids: bool = True
    decode: object = staticmethod(str)
    faults: list = field(default_factory=list)
    always: str | None = None
    probe_fault: str | None = None
    extra_prompt_tokens: int = 0
    always_says: str | None = None
    gate: threading.Barrier | None = None
    port: int = 0
    seeds: str = "kept"
    cuts_to: int | None = None
    pages: dict = field(default_factory=dict)
    capacity: int | None = None
    lag: int = 1
    draws_one: bool = False
    paths: set = field(default_factory=set)
    seeded: set = field(default_factory=set)
    bodies: list = field(default_factory=list)
    times: list = field(default_factory=list)
    probes: int = 0
    running: int = 0
    most_running: int = 0

    def __post_init__(self):
        self.lock = threading.Lock()
        self.unseeded = count(10**6)
        self.released = threading.Event()  # ends the answers that hang
        self.start()

    def start(self):
        self.server = Listener(("127.0.0.1", self.port), type("Handler", (Handler,), {"stub": self}))
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def respond(self):
        """Called for every request that is no probe."""

    def die(self):
        """Fail every request from now on, as a server does whose engine has died."""
        self.always = self.probe_fault = "500"

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def reply(self, status, content, headers=()):
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(payload)))):
            self.send_header(name, value)
        with suppress(ConnectionError):  # who asked may be gone
            self.end_headers()
            self.wfile.write(payload)

    def do_GET(self):
        stub = self.stub
        if self.path == "/metrics" and stub.capacity is not None:
            taken = stub.running // stub.lag
            counts = {"running": min(taken, stub.capacity), "waiting": max(0, taken - stub.capacity)}
            lines = [f'vllm:num_requests_{name}{{engine="0"}} {count:.1f}\n' for name, count in counts.items()]
            return self.reply(200, "".join(lines).encode())
        if self.path in stub.pages:
            return self.reply(200, stub.pages[self.path])
        if self.path != "/v1/models":
            return self.reply(404, {"detail": "Not Found"})
        names = stub.served or (stub.model,)
        self.reply(200, {"data": [{"id": name, "max_model_len": stub.context} for name in names]})

    def do_POST(self):
        stub = self.stub
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        probe, samples = body["max_tokens"] in (1, 16), 1 if stub.draws_one else body.get("n", 1)
        known = stub.served or (stub.model,)
        if body["model"] not in known:
            return self.reply(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        with stub.lock:
            stub.paths.add(self.path)
            if "seed" in body:
                stub.seeded.add(tuple(body["prompt"]))
                if stub.seeds == "deadly" and len(stub.seeded) > 1:
                    stub.die()
            if probe:
                stub.probes += 1
                fault = stub.probe_fault
            else:
                stub.bodies.append(body)
                stub.respond()
                stub.times.append(monotonic())
                fault = stub.always or (stub.faults.pop(0) if stub.faults else None)
                stub.running += samples
                stub.most_running = max(stub.most_running, stub.running)
        try:
            if stub.gate is not None and not probe:
                stub.gate.wait(30)
            if fault:
                self.misbehave(fault, body)
        finally:
            with stub.lock:  # before the answer, whose reader may ask again at once
                stub.running -= 0 if probe else samples
        if not fault:
            self.reply(200, self.completion(body, body["max_tokens"] == 1, samples))

    def misbehave(self, fault, body):
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault == "hang":
            self.stub.released.wait(60)
        elif fault == "malformed":
            self.reply(200, b'{"choices": [{"te')
        elif fault == "no completion":
            self.reply(200, {"object": "error", "message": "engine died"})
        elif fault == "aborted":
            answer = self.completion(body, False)
            answer["choices"][0]["finish_reason"] = "abort"
            self.reply(200, answer)
        elif fault == "miscount":
            answer = self.completion(body, False)
            answer["usage"]["completion_tokens"] += 1
            self.reply(200, answer)
        elif fault.startswith("429"):
            self.reply(429, {"error": {"message": "slow down"}}, [("Retry-After", fault.split()[1])])
        else:
            message = "x" * 500 if fault == "400" else f"no entry with {self.headers.get('Authorization')}"
            self.reply(int(fault), {"error": {"message": message, "code": int(fault)}})

    def completion(self, body, probe, samples=1):
        stub, prompt = self.stub, body["prompt"]
        choices, written_tokens = [], 0
        for index in range(samples):
            seed = body["seed"] if "seed" in body and stub.seeds != "ignored" else next(stub.unseeded)
            written, finished = ([10], False) if probe else response_of(prompt, seed)
            if len(written) >= body["max_tokens"]:
                written, finished = written[: body["max_tokens"]], False
            ids = [*written, EOS] if finished and stub.eos_in_ids else written
            reason = stub.always_says or ("stop" if finished else "length")
            choice = {"index": index, "text": stub.decode(written), "finish_reason": reason, "stop_reason": None}
            if stub.token_ids and body.get("return_token_ids"):
                choice |= {"token_ids": ids, "prompt_token_ids": prompt}
            choices.append(choice)
            written_tokens += len(written) + finished
        seen = len(prompt) + stub.extra_prompt_tokens
        seen = seen if stub.cuts_to is None else min(seen, stub.cuts_to)
        return {"choices": choices, "usage": {"prompt_tokens": seen, "completion_tokens": written_tokens}}
