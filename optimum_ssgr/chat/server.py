"""A model behind an OpenAI-compatible server, streamed from `/v1/chat/completions`."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
from transformers.utils import logging

from ..config import PromptConfig
from ..errors import ModelError
from ..rollouts.endpoint import CONNECT_TIMEOUT, Endpoint, api_key, server_message
from ..thinking import THINK, ThinkingStyle, make_style, recognize_style
from .backends import TOP_P, ChatRequest, Piece


logger = logging.get_logger(__name__)


class ServerBackend:
    """Streams from a server such as vLLM, SGLang or `transformers serve`.

    Args:
        url: Address of its API, such as `http://host:8000/v1`.
        model: The model's name on the server.
        timeout: Seconds to wait for the next part of a response.
        prompting: How the model is addressed, and how it delimits its thinking; what is left open is the server's.

    Raises:
        ConfigError: The address is not one, or the API key cannot be sent.
    """

    def __init__(self, url: str, model: str, timeout: float, prompting: PromptConfig | None = None) -> None:
        endpoint = Endpoint(url, concurrency=1)
        self.url, self.name, self.model = endpoint.url, endpoint.name, model
        self.prompting = prompting or PromptConfig()
        self.style = make_style(self.prompting.thinking) if self.prompting.thinking else None
        key = api_key()
        self.client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT),
        )
        # Some templates open the thinking in the prompt, which is not streamed: what ended by itself last tells. Not what ever
        # did, as whoever asks for a closing tag gets one from any model.
        self.opened: ThinkingStyle | None = None

    def stream(self, request: ChatRequest, stopped: Callable[[], bool]) -> Iterator[Piece]:
        """Yield the response as the server sends it; leaving the loop closes the connection, which ends the server's work.

        Raises:
            ModelError: The server cannot be reached, refuses, or breaks off.
        """
        body = {
            "model": self.model,
            "messages": self.prompting.messages(*request.messages),
            "temperature": request.temperature,
            "top_p": TOP_P,
            "max_tokens": request.max_new_tokens,
            "seed": request.seed,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.prompting.template_kwargs:  # vLLM and SGLang take it, others refuse what they do not know
            body["chat_template_kwargs"] = dict(self.prompting.template_kwargs)
        try:
            with self.client.stream("POST", f"{self.url}/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._failure(f"refuses ({response.status_code})", server_message(response))
                yield from self._read(response.iter_lines(), stopped)
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise self._failure("does not answer", type(error).__name__) from None

    def _read(self, lines: Iterator[str], stopped: Callable[[], bool]) -> Iterator[Piece]:
        """Turn server-sent events into pieces; every event that carries text counts as one token until the usage is known."""
        text, counted, finish = "", 0, None
        separate = False  # whether the server sends the thinking in a field of its own, and is still at it
        style = self.style or THINK
        if self.opened:
            yield Piece(self.opened.opening + "\n")
        for line in lines:
            if stopped():
                return
            event = _event(line)
            if event is None:
                continue
            if "error" in event:
                raise self._failure("broke off while answering", "an error in its stream")
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                thinking = delta.get("reasoning_content") or delta.get("reasoning") or ""
                content = delta.get("content") or ""
                if thinking and not separate:
                    separate, thinking = True, f"{style.opening}\n{thinking}"
                elif content and separate:
                    separate, content = False, f"\n{style.closing}\n{content}"
                finish = choice.get("finish_reason") or finish
                if thinking or content:
                    text += thinking + content
                    counted += 1
                    yield Piece(thinking + content, 1)
            used = (event.get("usage") or {}).get("completion_tokens")
            if used:
                yield Piece("", used - counted)
                counted = used
        if finish is None:
            raise self._failure("broke off while answering", "no end of the stream")
        if finish != "length":
            style = self.style or recognize_style(text)
            self.opened = style if style.closing in text and style.opening not in text else None
        yield Piece("", finish="length" if finish == "length" else "stop")

    def _failure(self, what: str, details: str) -> ModelError:
        """Make the error that the column shows; the address and the server's words, which are the owner's, are logged."""
        logger.warning(f"{self.name} {what}: {details}.")
        return ModelError(f"The server of this model {what}.")


def _event(line: str) -> dict[str, Any] | None:
    """Read one line of a stream of server-sent events; None when it holds none."""
    content = line.removeprefix("data:").strip()
    if not line.startswith("data:") or content == "[DONE]":
        return None
    try:
        event = json.loads(content)
    except ValueError:
        return {"error": "malformed"}
    return event if isinstance(event, dict) else {"error": "malformed"}
