"""What can go wrong with a call: a status, a cut connection, silence."""

from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.responses import JSONResponse


@dataclass
class Fault:
    """What happens to the next `times` calls of that name, after `skip` that go well.

    status: answered by it, and the handler does not run.
    cut: the connection is reset "before" anything of the request is read, "during" its body, or after the handler has run, when
        the "reply" is due, or "halfway" through it.
    stall: silence until the client goes away, "before" the handler runs or "after".
    meanwhile: what somebody else does to the Hub just before the handler runs.
    """

    call: str
    times: int = 1
    skip: int = 0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"
    cut: str | None = None
    stall: str | None = None
    meanwhile: Callable[[], None] | None = None


async def gone(receive):
    """Wait until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class FaultyEndpoint:
    """The ASGI application of one route: runs the handler, records the call, and does what a fault says."""

    def __init__(self, hub, call, handler):
        self.hub, self.call, self.handler = hub, call, handler

    async def __call__(self, scope, receive, send):
        fault = self.hub.next_fault(self.call)
        transport = scope["transport"]

        async def reset():
            transport.abort()
            await gone(receive)

        async def recorded(message):
            if message["type"] == "http.response.start":
                self.hub.record(self.call, scope["path"], message["status"])
            await send(message)

        async def unsent(message):
            if message["type"] == "http.response.start":
                self.hub.record(self.call, scope["path"], message["status"])

        async def halfway(message):
            if message["type"] == "http.response.body":
                message = message | {"body": message["body"][: len(message["body"]) // 2], "more_body": True}
            await recorded(message)

        if fault and fault.meanwhile:
            fault.meanwhile()
            await self.handler(scope, receive, recorded)
        elif fault is None:
            await self.handler(scope, receive, recorded)
        elif fault.status:
            headers = {"X-Error-Message": " ".join(fault.message.split())} | fault.headers
            response = JSONResponse({"error": fault.message}, fault.status, headers)
            await response(scope, receive, recorded)
        elif "before" in (fault.cut, fault.stall) or fault.cut == "during":
            self.hub.record(self.call, scope["path"], 0)
            if fault.cut == "during":
                await receive()
            await (gone(receive) if fault.stall else reset())
        else:
            await self.handler(scope, receive, halfway if fault.cut == "halfway" else unsent)
            await (gone(receive) if fault.stall else reset())
