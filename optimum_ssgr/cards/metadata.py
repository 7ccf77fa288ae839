"""Metadata of the cards: what the Hub filters and links by; nothing that is not known."""

import re
from pathlib import Path
from typing import Any

import httpx2
import yaml
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, hf_hub_download
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..config import METHODS
from ..errors import DataError
from ..formats import CARD_FILE, EvaluationRow, Manifest, Provenance
from ..hub.client import limited_silence
from ..problems.sources import SOURCES, Source
from .names import hub_id, pinned, public_name


INHERITED = ("license", "license_name", "license_link", "language")
TAG = re.compile(rf"pruned|sparse|ssgr|pruning|calibration|{'|'.join(METHODS)}|\d+:\d+")
"""Tags that are ours to set and to take away."""


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2 as the Hub does, not 1.1: `no` is Norwegian, and `2:4` and a date are texts."""


_CORE = {  # YAML 1.2.2, section 10.3.2
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?(0|[1-9][0-9]*)", "-+0123456789"),  # not 010, which would be read as octal
    "float": (r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    "null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
}
_Loader.yaml_implicit_resolvers = {}
for _kind, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})$"), list(_first))


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into its metadata and its text.

    Raises:
        DataError: The metadata is not YAML that maps names to values.
    """
    found = REGEX_YAML_BLOCK.search(card)
    if not found:
        return {}, card
    try:
        metadata = yaml.load(found[2], _Loader) or {}
    except yaml.YAMLError:
        metadata = None
    if not isinstance(metadata, dict):
        raise DataError("the metadata between the two --- at the top of the card is not valid YAML; mend or remove it.")
    return metadata, card[found.end() :]


@limited_silence()
def inherited_metadata(source: str, revision: str | None = None, token: str | bool | None = None) -> dict[str, Any]:
    """Read what a pruned model inherits off the card of the model it was made from: its licence and its languages.

    Args:
        source: Hub id or folder of the model.
        revision: Commit on the Hub.
        token: Hub token, for a model that is gated or private.

    Returns:
        Those of `INHERITED` that its card states; nothing when there is no card or it cannot be read.
    """
    folder = Path(source)
    try:
        on_hub = {"revision": revision, "token": token}
        path = folder / CARD_FILE if folder.is_dir() else hf_hub_download(source, CARD_FILE, **on_hub)
        metadata, _ = split_card(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, httpx2.HTTPError, DataError):
        return {}
    texts = {name: value for name, value in metadata.items() if name in INHERITED and _is_text(value)}
    return {name: texts[name] for name in INHERITED if name in texts}


def model_metadata(provenance: Provenance) -> ModelCardData:
    """Return the metadata of a sparse checkpoint's card."""
    pruning, name = provenance.config, provenance.base_model
    base = hub_id(name, provenance.base_commit)
    calibration = pinned(provenance.calibration.hub) if provenance.calibration else None
    results = [_eval_result(row) for row in provenance.evaluation or () if row.model == "sparse"]
    return ModelCardData(
        **provenance.inherited or {},
        base_model=base,
        base_model_relation="finetune" if base else None,  # the nearest of the relations that the Hub knows
        library_name="transformers",
        pipeline_tag="image-text-to-text" if provenance.takes_images else "text-generation",
        datasets=[calibration[0]] if calibration else None,
        tags=["pruned", "sparse", "ssgr", pruning.method] + ([pruning.pattern] if pruning.pattern else []),
        metrics=["accuracy"] if results else None,
        model_name=f"{Path(public_name(name)).name}, pruned" if results else None,
        eval_results=results or None,
    )


def dataset_metadata(manifest: Manifest) -> DatasetCardData:
    """Return the metadata of a calibration set's card."""
    counts = manifest.counts
    rollouts = counts.get("rollouts", 0) if manifest.rollouts_hash else 0
    tables = ["calibration", "rollouts"] if rollouts else ["calibration"]
    known = known_sources(manifest)
    licences = sorted({source.licence for source in known if source.licence})
    has_text = manifest.config.needs_text
    all_known = bool(known) and all(source.licence for source in known) and not has_text
    return DatasetCardData(
        license=(licences if len(licences) > 1 else licences[0]) if all_known else None,
        language=["en"] if known and not has_text else None,  # all known problem sets are English
        task_categories=["text-generation"],
        size_categories=[_size_category(counts["sequences"] + rollouts)],
        pretty_name=f"Calibration set of {Path(public_name(manifest.model)).name}",
        tags=["calibration", "pruning", "ssgr"],
        configs=[
            {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train.parquet"}]}
            | ({"default": True} if name == "calibration" else {})
            for name in tables
        ],
    )


def known_sources(manifest: Manifest) -> list[Source]:
    """Return the known problem sets that a calibration set's problems come from; nothing if some come from elsewhere."""
    problems = manifest.problems or {}
    if not all(asked.get("read_from") for asked in problems.get("sets", ())):
        return []
    read_from = problems.get("read_from", ())
    ids = [found[0] if (found := pinned(source)) else None for source in read_from]
    by_id = {source.id: source for source in SOURCES}
    return [by_id[name] for name in ids] if all(name in by_id for name in ids) else []


def _eval_result(row: EvaluationRow) -> EvalResult:
    repository = pinned(row.read_from)
    spread: dict[str, Any] = {"standard_error": row.accuracy_se} if row.accuracy_se > 0 else {}
    if not spread and row.accuracy_ci95:  # all right, all wrong, or one problem alone: an error says nothing
        spread = {"ci95": row.accuracy_ci95}
    return EvalResult(
        task_type="text-generation",
        dataset_type=repository[0] if repository else public_name(row.source),
        dataset_name=public_name(row.source),
        dataset_split=row.split,
        dataset_revision=repository[1] if repository else None,
        metric_type="accuracy",
        metric_value=row.accuracy,
        metric_args=spread | {"problems": row.problems, "samples": row.samples},
    )


def _size_category(rows: int) -> str:
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M")
    for index, bound in enumerate(bounds):
        if rows < 10 ** (3 + index):
            return f"n<{bound}" if index == 0 else f"{bounds[index - 1]}<n<{bound}"
    return "100M<n<1B"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
