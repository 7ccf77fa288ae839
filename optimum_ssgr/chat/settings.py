"""What the owner of a comparison page may set; a Space reads it from the file `settings.json` beside its `app.py`."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from ..config import IN_PROCESS, PromptConfig
from ..errors import ConfigError


MIN_COLUMNS, MAX_COLUMNS = 2, 4


@dataclass(frozen=True)
class ChatSettings:
    """Models, limits and places of a comparison page.

    Args:
        models: Two to four Hub ids (`ID` or `ID@REVISION`), folders or, with servers, names that these know; the dense model
            first. Without any, the embedded reasoner is compared with pruned versions of itself.
        engine: `transformers` to run the models in this process, or the address of an OpenAI-compatible server, or one address
            per model, separated by commas.
        dtype: Weight type, in this process.
        device_map: Where to place the layers, in this process; the GPU, if there is one, when None.
        trust_remote_code: Whether code from the checkpoints may run.
        template_kwargs: Variables of the chat template, see `PromptConfig`.
        system: System message; the template's own when None.
        thinking: How thinking is delimited, see `PromptConfig`; found out when None.
        temperature: Temperature the page starts with.
        max_new_tokens: Longest response that can be asked for.
        time_limit: Seconds after which all responses to a question are cut.
        max_question: Longest question, in characters.
        max_turns: Most questions in one conversation.
        concurrency: Questions answered at the same time.
        queue_size: Questions that may wait; further ones are refused.
        votes: JSON Lines file to append votes to, or a data set such as `hf://datasets/me/votes`.
        results: Folder with `report.json` and plots to show, such as `demo/`.
        calibration: Folder of a calibration set whose histograms to show.
    """

    models: tuple[str, ...] = ()
    engine: str = IN_PROCESS
    dtype: str = "auto"
    device_map: str | None = None
    trust_remote_code: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    thinking: tuple[str, ...] | None = None
    temperature: float = 0.6
    max_new_tokens: int = 2048
    time_limit: float = 120.0
    max_question: int = 4000
    max_turns: int = 8
    concurrency: int = 2
    queue_size: int = 16
    votes: str = "votes.jsonl"
    results: str | None = None
    calibration: str | None = None

    def __post_init__(self) -> None:
        if self.models and not MIN_COLUMNS <= len(self.models) <= MAX_COLUMNS:
            raise ConfigError(f"give {MIN_COLUMNS} to {MAX_COLUMNS} models to compare, not {len(self.models)}.")
        if self.engine != IN_PROCESS and not self.models:
            raise ConfigError("name the models that the servers have.")
        if len(set(self.models)) < len(self.models) and len(self.addresses) < 2:
            raise ConfigError("give every model once.")
        if self.addresses and len(self.addresses) not in (1, len(self.models)):
            raise ConfigError(
                f"give one address for all models or one for each, not {len(self.addresses)} for {len(self.models)} models."
            )
        self.prompting  # noqa: B018  (checks its settings)
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature must be between 0 and 2, not {self.temperature:g}.")
        for name in ("max_new_tokens", "max_question", "max_turns", "concurrency", "queue_size", "time_limit"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of the servers; none when the models run in this process."""
        if self.engine == IN_PROCESS:
            return ()
        return tuple(address.strip() for address in self.engine.split(",") if address.strip())

    @property
    def prompting(self) -> PromptConfig:
        """How the models are addressed beside the questions."""
        return PromptConfig(self.template_kwargs, self.system, tuple(self.thinking) if self.thinking else None)

    def to_json(self) -> str:
        """Write the settings that differ from the defaults, which `from_json` reads."""
        default = ChatSettings()
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        }
        return json.dumps(changed, indent=2) + "\n"

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read settings from a JSON file; those that are missing keep their defaults, as all of them do without the file.

        Raises:
            ConfigError: The file is damaged, or a setting in it is unknown or out of range.
        """
        path = Path(path)
        return cls.from_json(path.read_text(), path) if path.exists() else cls()

    @classmethod
    def from_json(cls, text: str, place: str | Path) -> Self:
        """Read settings from the text of a JSON file.

        Args:
            text: JSON.
            place: Where it was read, for the message.

        Raises:
            ConfigError: The text is damaged, or a setting in it is unknown or out of range.
        """
        try:
            values = json.loads(text)
            models = values.get("models", [])
            if not isinstance(models, list):  # the letters of a text would be taken for names
                raise TypeError("models must be a list")
            return cls(**values | {"models": tuple(models)})
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"cannot read the settings in {place}: {error}.") from None
