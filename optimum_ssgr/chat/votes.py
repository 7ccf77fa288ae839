"""Where votes are kept: a file, or a data set on the Hub."""

import atexit
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from time import time
from typing import Any

from huggingface_hub import CommitInfo, CommitScheduler
from transformers.utils import logging

from ..errors import HubError, OutputError
from ..hub.access import QUICK_TRIES, check_push
from ..hub.client import call_hub, limited_silence
from .compared_models import ComparedModel
from .conversation import Conversation


logger = logging.get_logger(__name__)

HUB_PREFIX = "hf://datasets/"
MINUTES = 5  # between commits
SaveVote = Callable[[dict[str, Any]], None]


def open_votes(place: str) -> SaveVote:
    """Return a function that keeps a vote.

    Args:
        place: JSON Lines file, or a data set such as `hf://datasets/me/votes`.

    Raises:
        HubError: The data set cannot be made or written to.
        OutputError: The file cannot be written to.
    """
    return _to_hub(place.removeprefix(HUB_PREFIX)) if place.startswith(HUB_PREFIX) else _to_file(Path(place))


def describe_vote(conversation: Conversation, models: list[ComparedModel], choice: str) -> dict[str, Any]:
    """Say what was voted on.

    Args:
        conversation: The conversation before the names were shown.
        models: The models.
        choice: Number of a column, `tie` or `none`.
    """
    turn = conversation.last
    columns = [
        {
            "model": models[index].source,
            "sparsity": models[index].sparsity,
            "tokens": answer.tokens,
            "finish": answer.finish,
            "correct": answer.correct,
            "rambling": answer.rambling,
        }
        for index, answer in zip(conversation.order, turn.answers, strict=True)
    ]
    return {
        "time": round(time()),
        "vote": columns[int(choice)]["model"] if choice.isdigit() else choice,
        "blind": conversation.blind,
        "questions": [earlier.question for earlier in conversation.turns],
        "temperature": turn.temperature,
        "max_new_tokens": turn.max_new_tokens,
        "seed": turn.seed,
        "columns": columns,
    }


def _to_file(path: Path) -> SaveVote:
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"cannot write votes to {path}; choose a file in a folder that you may write to.")
    lock = threading.Lock()

    def save(vote: dict[str, Any]) -> None:
        with lock, path.open("a") as file:
            file.write(json.dumps(vote, ensure_ascii=False) + "\n")

    return save


class _Scheduler(CommitScheduler):
    """Commits from a thread of its own, which must not wait for ever either."""

    @limited_silence()
    def push_to_hub(self) -> CommitInfo | None:
        """Commit what is new."""
        return super().push_to_hub()


def _to_hub(repository: str) -> SaveVote:
    """Collect votes in a file of this process, and commit it every few minutes and at the end of the process.

    A Space's own disk does not last. While the Hub cannot be reached, votes stay in the file and go with a later commit.
    """
    check_push(repository, repo_type="dataset")
    folder = Path(mkdtemp(prefix="votes-"))
    file = folder / f"{uuid.uuid4()}.jsonl"  # a name of its own, so that several Spaces can share the data set
    scheduler = call_hub(
        lambda: _Scheduler(
            repo_id=repository, repo_type="dataset", folder_path=folder, path_in_repo="data", every=MINUTES, private=True
        ),
        repository,
    )
    save_to_file = _to_file(file)

    def finish() -> None:
        try:
            call_hub(scheduler.push_to_hub, repository, tries=QUICK_TRIES)
            shutil.rmtree(folder)
        except HubError as error:
            logger.error(f"{error} The last votes are in {file}.")
        scheduler.stop()  # else its own attempt comes next, which would end in a traceback

    atexit.register(finish)

    def save(vote: dict[str, Any]) -> None:
        with scheduler.lock:
            save_to_file(vote)

    return save
