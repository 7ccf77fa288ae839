"""Finished rollouts on disk, appended one by one, so that a run that was cut off generates only what is missing.

What is finished stays as it is, bit for bit. What was in the making is generated again with the same random numbers, but beside
other rows than before, and how many rows are multiplied together decides the last bits of the scores: in 32 bits they hardly
ever decide a token, in 16 bits some responses come out other than without the interruption.
"""

import base64
import hashlib
import json
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..compat import model_commit, model_name
from ..config import IN_PROCESS, EngineConfig, SamplingConfig, as_engine
from ..errors import OutputError
from ..files import locked_folder
from ..formats import installed_versions
from ..records import Rollout
from ..resume import FINGERPRINT, check_fingerprint
from ..stored import TokenIds
from .engine import Request


logger = logging.get_logger(__name__)
ROLLOUTS = "rollouts.jsonl"
IDS = np.dtype("<i4")
"""How token ids are written, whatever machine writes them."""


class RolloutStore:
    """A file with one line of JSON for every finished rollout; use `open_rollout_store` to open it.

    Token ids stay in the file, as int32 in base64; a rollout reads its own when they are looked at, also after the store is
    closed or the file is removed.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        self._reader = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._reader)  # rollouts hold the store, and may outlive its being open
        self._found: dict[tuple[str, int], tuple[str, bool, TokenIds]] = {}
        self._read()

    def find(self, request: Request) -> Rollout | None:
        """Return the rollout of a request, or None when it was not finished.

        Raises:
            OutputError: The problem of that name had another prompt.
        """
        if (request.problem_id, request.sample) not in self._found:
            return None
        prompt, finished, ids = self._found[request.problem_id, request.sample]
        if prompt != _hash_prompt(request.prompt_ids):
            raise OutputError(
                f"{self.path} holds rollouts of another question under the name {request.problem_id}; repeat that run to "
                "finish it, or remove the folder to start anew."
            )
        return Rollout(request.problem_id, request.sample, request.prompt_ids, ids, finished)

    def append(self, rollout: Rollout) -> Rollout:
        """Write a finished rollout.

        Returns:
            The rollout as it stands in the file, so that its token ids need not be held.

        Raises:
            OutputError: The disk is full.
        """
        row = {
            "problem_id": rollout.problem_id,
            "sample": rollout.sample,
            "prompt": _hash_prompt(rollout.prompt_ids),
            "finished": rollout.finished,
            "response_ids": base64.b64encode(np.asarray(rollout.response_ids, IDS).tobytes()).decode(),
        }
        line = json.dumps(row).encode() + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror}; make room and run the same command again to go on."
            ) from error
        ids = TokenIds(partial(self._read_ids, start, len(line)), len(rollout.response_ids))
        return Rollout(rollout.problem_id, rollout.sample, rollout.prompt_ids, ids, rollout.finished)

    def close(self) -> None:
        """Close the file, whatever a full disk still holds back."""
        try:
            self._file.close()
        except OSError:
            logger.warning(f"the last rollout could not be written to {self.path}.")

    def _read(self) -> None:
        """Read what is there; a last line that was cut off in the middle is removed."""
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    logger.warning(f"removed the last rollout of {self.path}, which was cut off while it was written.")
                    break
                try:
                    row = json.loads(line)
                    ids = TokenIds(partial(self._read_ids, whole, len(line)), len(_decode_ids(row["response_ids"])))
                    self._found[row["problem_id"], row["sample"]] = row["prompt"], row["finished"], ids
                except (ValueError, KeyError, TypeError, OverflowError):
                    raise OutputError(
                        f"line {number} of {self.path} is damaged; remove that line to generate its rollout again."
                    ) from None
                whole += len(line)
        self._file.truncate(whole)

    def _read_ids(self, start: int, size: int) -> np.ndarray:
        """Read the token ids of the line that begins at a byte, int32 [tokens]."""
        return _decode_ids(json.loads(os.pread(self._reader, size, start))["response_ids"])


@contextmanager
def open_rollout_store(folder: str | Path, fingerprint: Mapping[str, Any]) -> Iterator[RolloutStore]:
    """Make or open a journal and keep other processes out; one without a rollout is open to any run.

    Args:
        folder: Where to keep the rollouts.
        fingerprint: What decides them, see `rollout_fingerprint`.

    Raises:
        OutputError: The folder cannot be written, is in use, or belongs to another run.
    """
    with locked_folder(folder) as locked:
        path = locked / ROLLOUTS
        if not path.exists() or not path.stat().st_size:
            (locked / FINGERPRINT).unlink(missing_ok=True)
        check_fingerprint(locked, fingerprint)
        journal = RolloutStore(path)
        try:
            yield journal
        finally:
            journal.close()


def _decode_ids(written: str | list[int]) -> np.ndarray:
    if isinstance(written, list):  # by version 0.1
        return np.asarray(written, IDS)
    return np.frombuffer(base64.b64decode(written, validate=True), IDS)


def _hash_prompt(prompt_ids: Sequence[int]) -> str:
    return hashlib.sha256(",".join(map(str, prompt_ids)).encode()).hexdigest()[:16]


def rollout_fingerprint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SamplingConfig,
    engine: str | EngineConfig = IN_PROCESS,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Say what decides a model's responses, as the fingerprint of a journal.

    Of the weights the first 256 of each tensor are hashed, which tells two prunings of a model apart. Of a model without
    weights, which servers have, they are read from its folder, if its name is one; else the name alone tells it.

    In this process, how many rows are computed together, on what and by which kernels decides the last bits of the scores, and
    these now and then the next token. Servers batch as they please, so that of them nothing of the kind is noted.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        sampling: How it is sampled.
        engine: Where it is sampled; of servers it does not matter which, nor who started them.
        batch_size: Most responses in the making at a time.
    """
    vocabulary = sorted(tokenizer.get_vocab().items())
    computed = {"engine": "server"}
    if as_engine(engine).in_process:
        device = model.device.type
        computed = {"engine": IN_PROCESS, "batch_size": batch_size, "device": device}
        computed |= {"versions": installed_versions("torch", "transformers")}
        computed |= {"threads": torch.get_num_threads()} if device == "cpu" else {}
    return {
        "model": model_name(model),
        "model_commit": model_commit(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": _hash_weights(model),
        "tokenizer": hashlib.sha256(f"{vocabulary}{tokenizer.chat_template}".encode()).hexdigest(),
        "sampling": sampling.to_dict(),
        **computed,
    }


def _hash_weights(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:
            digest.update(f"{name} {_first_values(parameter.detach())}".encode())
    folder = Path(model_name(model))
    if model.device.type == "meta" and folder.is_dir():
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  (it is no dictionary)
                    part = file.get_slice(name)
                    first = part[:1] if len(part.get_shape()) > 1 else file.get_tensor(name)
                    digest.update(f"{name} {_first_values(first)}".encode())
    return digest.hexdigest()


def _first_values(tensor: torch.Tensor) -> list[float]:
    return tensor.flatten()[:256].float().cpu().tolist()
