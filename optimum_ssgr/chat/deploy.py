"""The page as a Space on the Hub: what `spaces/comparison/` holds, the package that serves it, and the settings."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.utils import yaml_dump

from ..cards.markdown import TEMPLATES
from ..cards.metadata import split_card
from ..errors import ConfigError, HubError
from ..hub.access import QUICK_TRIES, check_push, find_repo
from ..hub.client import call_hub
from ..hub.names import split_revision
from ..hub.push import push_folder
from ..reasoner import NAME as EMBEDDED
from .settings import ChatSettings


PACKAGE = Path(__file__).parents[1]
_PACKAGED = PACKAGE / "spaces" / "comparison"
SOURCE = _PACKAGED if _PACKAGED.is_dir() else PACKAGE.parent / "spaces" / "comparison"
SETTINGS, CARD = "settings.json", "README.md"
NEW_CARD = "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference"
"""What the Hub writes into a new Space, below the metadata."""
RUN_BY = ("sdk", "sdk_version", "python_version", "app_file")  # metadata of the card


def check_space(
    repo_id: str, models: Sequence[str], *, private: bool | None = None, create_pr: bool = False, token: str | None = None
) -> list[str]:
    """Check that `publish_space` with the same arguments will be allowed, and that the Space will find its models.

    Args:
        repo_id: NAMESPACE/NAME.
        models: Two to four Hub ids (`ID` or `ID@REVISION`), or none.
        private: Whether the Space shall be private.
        create_pr: Whether a pull request shall be opened.
        token: Hub token.

    Returns:
        The models that can be read with a token only, which the Space needs as its secret `HF_TOKEN`.

    Raises:
        ConfigError: The number of models is wrong, or one of them is a folder of this machine.
        HubError: The push is not allowed, a model is not on the Hub, or the Space holds something else.
    """
    ChatSettings(models=tuple(models))
    for model in models:
        if Path(model).exists() and model != EMBEDDED:
            raise ConfigError(f"{model} lies on this machine, where a Space cannot read it; push it and give its Hub id.")
    check_push(repo_id, repo_type="space", private=private, create_pr=create_pr, token=token)
    api = HfApi(token=token)
    space = call_hub(lambda: find_repo(api, repo_id, "space"), repo_id, tries=QUICK_TRIES)
    files = {file.rfilename for file in space.siblings} if space else set()
    if "app.py" in files and f"{PACKAGE.name}/__init__.py" not in files:
        raise HubError(f"the Space {repo_id} holds another app, which would be lost; choose another name.")
    closed = []
    for model in models:
        if model == EMBEDDED:
            continue
        name, revision = split_revision(model)
        info = call_hub(lambda asked=(name, "model", revision): find_repo(api, *asked), name, tries=QUICK_TRIES)
        if info is None:
            raise HubError(f"there is no model {name} on the Hub that this token may see.")
        if info.private or info.gated:
            closed.append(name)
    return list(dict.fromkeys(closed))


def publish_space(
    repo_id: str,
    models: Sequence[str],
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """Push the page as one commit; a Space that is there keeps its card, its settings and whatever else lies in it.

    Replaced are `app.py`, `requirements.txt` and the package; in the card the metadata that say how to run it; and, when models
    are given, their names in the card and the settings.

    Args:
        repo_id: NAMESPACE/NAME; created where it is missing.
        models: Two to four Hub ids; when none are given, those of the Space, or else the embedded reasoner.
        private: See `push_folder`, as for the others.
        revision: Branch.
        create_pr: Open a pull request instead.
        token: Hub token.

    Returns:
        The commit; the head of the branch where nothing differs from it.

    Raises:
        ConfigError: The settings in the Space are damaged.
        DataError: The card in the Space is damaged.
        HubError: The Hub refuses, or cannot be reached for minutes.
    """

    def settings(old: str | None, commit: str) -> str:
        new = ChatSettings() if old is None else ChatSettings.from_json(old, f"{SETTINGS} of the Space {repo_id}")
        changed = dataclasses.replace(new, models=tuple(models)) if models else new
        return old if old is not None and changed == new else changed.to_json()

    with TemporaryDirectory() as folder:
        write_page(Path(folder))
        return push_folder(
            folder,
            repo_id,
            repo_type="space",
            private=private,
            revision=revision,
            create_pr=create_pr,
            token=token,
            message="Deploy the comparison page of optimum-ssgr",
            delete_patterns=(f"{PACKAGE.name}/*",),
            merge={CARD: lambda old, commit: card(models, old), SETTINGS: settings},
        )


def write_page(folder: Path) -> None:
    """Write what is the same in every Space: `app.py`, `README.md`, `requirements.txt` and the package.

    Args:
        folder: Where to write.
    """
    ignored = shutil.ignore_patterns("__pycache__", "spaces")
    shutil.copytree(SOURCE, folder, dirs_exist_ok=True, ignore=ignored)
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignored)
    shutil.copytree(TEMPLATES, folder / PACKAGE.name / TEMPLATES.name, dirs_exist_ok=True)


def card(models: Sequence[str], old: str | None) -> str:
    """Make the Space's card out of the one that is there.

    Args:
        models: Models to link to; when none are given, the links stay.
        old: The card in the Space; None, like the one that the Hub writes into a new Space, is replaced.

    Raises:
        DataError: The metadata of the card are not YAML.
    """
    metadata, text = split_card((SOURCE / CARD).read_text(encoding="utf-8"))
    if old is not None:
        theirs, their_text = split_card(old)
        if their_text.strip() != NEW_CARD:
            metadata, text = theirs | {name: metadata[name] for name in RUN_BY}, their_text
    linked = list(dict.fromkeys(split_revision(model)[0] for model in models if model != EMBEDDED))
    if linked:
        metadata["models"] = linked
    return f"---\n{yaml_dump(metadata, sort_keys=False)}---\n{text}"
