"""A model in this process, one token at a time."""

import threading
from collections.abc import Callable, Iterator

import torch
from tokenizers.decoders import DecodeStream
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from ..checkpoints.load import load_model
from ..compat import model_name
from ..config import PromptConfig
from ..errors import ModelError
from ..rollouts.ends import end_token_ids
from ..rollouts.local import check_scores, sample_tokens
from ..rollouts.prompts import check_renders, resolve_prompting
from ..thinking import choose_style, opens_thinking
from ..tokens import context_of
from .backends import TOP_P, ChatRequest, Piece


class LocalBackend:
    """Streams from a transformers model.

    The lock is held for one token at a time, so that several conversations with one model advance together.

    Args:
        model: Causal language model in evaluation mode.
        tokenizer: Its tokenizer, with a chat template.
        prompting: How it is addressed, and how it delimits its thinking.

    Raises:
        ModelError: The model cannot chat.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompting: PromptConfig | None = None
    ) -> None:
        name = model_name(model)
        check_renders(tokenizer)
        if not tokenizer.is_fast:
            raise ModelError(f"the tokenizer of {name} cannot decode a stream; convert it to a fast one (tokenizer.json).")
        self.model, self.tokenizer = model, tokenizer
        self.prompting = resolve_prompting(tokenizer, prompting or PromptConfig())
        self.style = choose_style(tokenizer, self.prompting.thinking)
        self.eos = end_token_ids(model.generation_config, tokenizer, name)
        self.context = context_of(model.config)
        self.lock = threading.Lock()

    @classmethod
    def load(
        cls, source: str, dtype: str, device_map: str | None, trust_remote_code: bool, prompting: PromptConfig | None = None
    ) -> Self:
        """Load a model onto the GPU, if there is one.

        Raises:
            ModelError: It cannot be loaded or cannot chat.
        """
        place = device_map or ("cuda" if torch.cuda.is_available() else None)
        return cls(*load_model(source, dtype=dtype, device_map=place, trust_remote_code=trust_remote_code), prompting)

    @torch.inference_mode()
    def stream(self, request: ChatRequest, stopped: Callable[[], bool]) -> Iterator[Piece]:
        """Yield the response token by token.

        Raises:
            ModelError: The conversation does not fit the model's context, or the model's scores are no numbers.
        """
        prompt = self._encode(request)
        if opens_thinking(self.tokenizer.decode(prompt), self.style):
            yield Piece(self.style.opening + "\n")  # the template did it
        longest = request.max_new_tokens
        if self.context is not None:
            longest = min(longest, self.context - len(prompt))
        generator = torch.Generator().manual_seed(request.seed)
        device = self.model.get_input_embeddings().weight.device
        uniforms = torch.rand(longest, generator=generator, dtype=torch.float64).to(device)
        cache = DynamicCache(config=self.model.config)
        decoder = DecodeStream(skip_special_tokens=False)
        inputs = torch.tensor([prompt], device=device)
        for place in range(longest):
            if stopped():
                return
            with self.lock:
                logits = self.model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
                check_scores(logits, self.model)
                inputs = sample_tokens(logits, uniforms[place, None], request.temperature, TOP_P)[:, None]
                token = inputs.item()
            if token in self.eos:
                yield Piece("", 1, (token,), "stop")
                return
            text = decoder.step(self.tokenizer.backend_tokenizer, token) or ""
            yield Piece(text, 1, (token,), "length" if place == longest - 1 else None)

    def _encode(self, request: ChatRequest) -> list[int]:
        messages = self.prompting.messages(*request.messages)
        with self.lock:
            prompt = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False, **self.prompting.template_kwargs
            )
        if self.context is not None and len(prompt) >= self.context:
            raise ModelError(
                f"the conversation has {len(prompt)} tokens, but the model's context holds {self.context}; start a new one."
            )
        return prompt
