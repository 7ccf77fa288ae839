"""A loopback server that streams chat completions; the model's name says how it behaves."""

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


HOSTILE = (
    '<think>\n<b>bold</b> <img src=x onerror="window.hacked=1"> <script>window.hacked=2</script>\n</think>\n'
    '<a href="javascript:window.hacked=3">a</a> [md](javascript:window.hacked=4) <svg onload="window.hacked=5"></svg> '
    '<iframe srcdoc="<script>parent.hacked=6</script>"></iframe> ![pixel](http://192.0.2.1/beacon.png?leak=1) '
    "<style>body{display:none}</style> <form action=http://192.0.2.1/><input name=p><button>Sign in</button></form>\n\n"
    "[r][1] ![i][1]\n\n[1]: javascript:window.hacked=7\n\nhttp://192.0.2.1/auto www.example.com me@example.com\n\n"
    "| a | b |\n|---|---|\n| `x | <img src=x onerror=window.hacked=8>` |\n| $y | [c](javascript:window.hacked=9) $ |\n\n"
    "`1 < 2 && 3 > 2` and \\`<img src=x onerror=window.hacked=10>\\`\n\n"
    "```html\nif a < b: print('<tag>')\n~~~\n<img src=x>\n```\n"
    "~~~\n$$ <img src=x onerror=window.hacked=11>\n\n"
    "Now $1 < x$ and \\(y > 2\\) and $\\href{javascript:window.hacked=12}{k}$ so \\boxed{7}."
)
SCRIPTS = {
    "right": "<think>\nSix times seven.\n</think>\nThe answer is \\boxed{42}.",
    "wrong": "<think>\nSix times eight.\n</think>\nThe answer is \\boxed{48}.",
    "plain": "The answer is \\boxed{42}.",
    "hostile": HOSTILE,
    "opened": "Six times seven.\n</think>\nThe answer is \\boxed{42}.",
}


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@dataclass
class StubChat:
    """Streams word by word: the scripts above, `endless` words, thinking in a `field` of its own, or trouble.

    `endless` never ends by itself but writes at most `max_tokens` words; `silent` sends nothing until released.
    """

    bodies: list = field(default_factory=list)
    authorizations: list = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    pause: float = 0.0
    thinking_field: str = "reasoning_content"

    def __post_init__(self):
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.server = Listener(("127.0.0.1", 0), type("Handler", (Handler,), {"stub": self}))
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def stop(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_POST(self):
        stub = self.stub
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with stub.lock:
            stub.bodies.append(body)
            stub.authorizations.append(self.headers.get("Authorization"))
            stub.running += 1
            stub.most_running = max(stub.most_running, stub.running)
        try:
            with suppress(ConnectionError):
                self.answer(body["model"], body["max_tokens"])
        finally:
            with stub.lock:
                stub.running -= 1

    def answer(self, model, limit):
        if model == "refusing":
            payload = json.dumps({"error": {"message": f"no quota for {self.headers.get('Authorization')}"}}).encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
            return
        if model == "dead":
            self.connection.close()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if model == "silent":
            self.stub.released.wait(60)
            return
        if model == "broken":
            self.send({"content": "half an"})
            return
        if model == "field":
            self.send({self.stub.thinking_field: "Six times "})
            self.send({self.stub.thinking_field: "seven."})
            self.send({"content": "It is \\boxed{42}."})
        elif model == "endless":
            self.send({"content": "<think>\n"})
            for _ in range(limit - 1):
                self.send({"content": "again and "})
                self.stub.released.wait(self.stub.pause or 0.01)
        else:
            for word in SCRIPTS[model].split(" "):
                self.send({"content": word + " "})
                self.stub.released.wait(self.stub.pause)
        self.send({}, "length" if model == "endless" else "stop", {"completion_tokens": 1000 if model == "field" else None})
        self.wfile.write(b"data: [DONE]\n\n")

    def send(self, delta, finish=None, usage=None):
        event = {"choices": [{"delta": delta, "finish_reason": finish}], "usage": usage}
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()
