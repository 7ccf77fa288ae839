"""The cards of checkpoints and calibration sets: filled with what was measured; a field without a value is left out."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.utils import yaml_dump
from jinja2 import UndefinedError
from transformers.utils import logging

from ..checkpoints.runtimes import GAIN, IN_VAIN, NO_GAIN, SAME_SIZE, implied_patterns, runtimes_for
from ..config import CalibrationConfig
from ..errors import DataError
from ..formats import CARD_FILE, MANIFEST_FILE, PROVENANCE_FILE, EvaluationRow, Manifest, Provenance
from ..pruning.blocks import is_of_expert
from ..thinking import make_style
from .markdown import environment
from .metadata import TAG, dataset_metadata, known_sources, model_metadata, split_card
from .names import hub_id, pinned, public_name
from .reproduce import calibration_commands, pruning_commands


logger = logging.get_logger(__name__)

PLACEHOLDER = "path/or/id/of/this/{}"
PAPERS = {
    "sparsegpt": "2301.00774",
    "alps": "2406.07831",
    "wanda": "2306.11695",
    "owl": "2310.05175",
    "swaps": "2512.10922",
    "blocks": "2510.14444",
    "ssgr": "2511.18864",
    "rac": "2509.12464",
    "resp": "2512.02185",
    "obc": "2609.17890",
}
BEGIN = "<!-- optimum-ssgr begins, with the metadata {}. What you write outside of this part is kept. -->"
END = "<!-- optimum-ssgr ends -->"
_BEGIN = re.compile(r"<!-- optimum-ssgr begins, with the metadata ([\w, -]*)\..*-->")


def model_card(provenance: Provenance, repo_id: str | None = None) -> str:
    """Render the card of a sparse checkpoint.

    Args:
        provenance: Contents of `ssgr_config.json`.
        repo_id: Where the checkpoint goes on the Hub, for the code that loads it; a placeholder when None.

    Returns:
        Markdown with a YAML header.
    """
    pruning, manifest, rows = provenance.config, provenance.calibration, provenance.evaluation or []
    name, layers = provenance.base_model, provenance.sparsity["layers"]
    samplings = [row.sampling for row in rows if row.sampling is not None]
    calibration, recovery = manifest.config if manifest else None, provenance.recovery
    patterns = implied_patterns(*pruning.n_of_m) if pruning.n_of_m else []
    fallen = [layer for layer in layers if layer["method"] != pruning.method]  # back to magnitude
    unseen = [layer["name"] for layer in fallen if layer.get("damping") is None]  # there was nothing to calibrate on
    return _render(
        "model_card.md.jinja",
        model_metadata(provenance).to_dict(),
        repo_id=repo_id or PLACEHOLDER.format("model"),
        model_class="AutoModelForImageTextToText" if provenance.takes_images else "AutoModelForCausalLM",
        name=Path(public_name(name)).name,
        base_model=public_name(name),
        base=pinned({"id": name, "commit": provenance.base_commit}),
        pruning=pruning,
        target=pruning.pattern or f"{100 * pruning.sparsity:g} %",
        sparsity=provenance.sparsity,
        modules=_by_module(layers),
        unreached=sum(is_of_expert(name) for name in unseen),
        unseen=[name for name in unseen if not is_of_expert(name)],
        resisted=[layer["name"] for layer in fallen if layer.get("damping") is not None],
        same_size=SAME_SIZE,
        runtimes=dict(zip((GAIN, IN_VAIN), runtimes_for(patterns, provenance.sparsity["sparsity_of_prunable"]), strict=True)),
        no_gain=NO_GAIN,
        evaluation=_by_source(rows),
        by_kind=_by_kind(rows),
        recovery=recovery,
        recovery_model=public_name(recovery.traces_of) if recovery else None,
        excluded_sets=list(map(public_name, (recovery.excluded or {}).get("sets", ()))) if recovery else [],
        held_out=next((row.to_dict() for row in rows if row.trace_nll_rise is not None), provenance.held_out),
        texts=list(dict.fromkeys(public_name(row.text) for row in rows if row.text is not None)),
        promptings=list(dict.fromkeys(filter(None, (_describe_prompting(row.prompting) for row in rows)))),
        samplings=[sampling for index, sampling in enumerate(samplings) if sampling not in samplings[:index]],
        manifest=manifest,
        calibration=calibration,
        calibrated_on=_contents(calibration, manifest.model == name) if manifest else None,
        calibration_repo=pinned(manifest.hub) if manifest else None,
        calibration_folder=provenance.calibration_folder,
        calibration_model=public_name(manifest.model) if manifest else None,
        inherited=provenance.inherited or {},
        commands=pruning_commands(provenance),
        versions=provenance.versions,
        papers=PAPERS,
    )


def dataset_card(manifest: Manifest, repo_id: str | None = None) -> str:
    """Render the card of a calibration set.

    Args:
        manifest: Contents of `manifest.json`.
        repo_id: Where the set goes on the Hub, for the code that loads it; a placeholder when None.

    Returns:
        Markdown with a YAML header.
    """
    config, problems = manifest.config, manifest.problems or {}
    sets = problems.get("sets", ())
    read_from = {source: pinned(source) for source in problems.get("read_from", ())}
    on_hub = [repository for repository in read_from.values() if repository]
    elsewhere = [source for source, repository in read_from.items() if not repository]
    named = [public_name(problems["source"])] if "source" in problems and not on_hub else []
    return _render(
        "dataset_card.md.jinja",
        dataset_metadata(manifest).to_dict(),
        repo_id=repo_id or PLACEHOLDER.format("dataset"),
        name=Path(public_name(manifest.model)).name,
        model=public_name(manifest.model),
        base=pinned({"id": manifest.model, "commit": manifest.model_commit}),
        revision=manifest.model_commit if hub_id(manifest.model, manifest.model_commit) else None,
        config=config,
        counts=manifest.counts,
        kinds=manifest.kinds,
        damage=manifest.damage,
        has_rollouts=manifest.rollouts_hash is not None and "rollouts" in manifest.counts,
        content_hash=manifest.content_hash,
        on_hub=on_hub,
        problems=named or ([] if sets else elsewhere),
        split=problems.get("split"),
        sets=[asked | {"name": public_name(asked["source"])} for asked in sets],
        excluded=problems.get("excluded"),
        excluded_sets=[public_name(name) for name in problems.get("excluded", {}).get("sets", ())],
        licences={source.id: source.licence for source in known_sources(manifest) if source.licence},
        text=public_name(manifest.text) if config.needs_text and manifest.text else None,
        instruction=manifest.instruction,
        prompting=_describe_prompting(manifest.prompting),
        engine=manifest.engine,
        reselected=manifest.reselected_from,
        commands=calibration_commands(manifest),
        versions=manifest.versions,
        papers=PAPERS,
    )


def _describe_prompting(recorded: Mapping[str, Any] | None) -> str | None:
    """Say in Markdown how a model was addressed beside the questions; None where nothing was set and nothing found."""
    recorded, code = recorded or {}, environment().filters["code"]
    parts = []
    if variables := recorded.get("template_kwargs"):
        written = (code(f"{name}={json.dumps(value)}") for name, value in variables.items())
        parts.append(f"chat template with {', '.join(written)}")
    if recorded.get("system"):
        parts.append(f"system message {code(recorded['system'])}")
    if recorded.get("thinking"):
        style = make_style(recorded["thinking"])
        parts.append(f"thinking between {code(style.opening)} and {code(style.closing)}")
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}." if said else None


def card_for(folder: Path, repo_id: str) -> Callable[[str | None, str], str]:
    """Return what makes the card of a folder that is pushed out of the one that is on the Hub, in the commit that is named.

    What a user wrote around our part of the folder's own card counts, and else what was written on the Hub. Where both were
    edited, a warning says which commit still holds what was written on the Hub.

    Args:
        folder: A checkpoint or a calibration set.
        repo_id: Where it goes.

    Raises:
        DataError: What the card is rendered from is missing or damaged.
    """
    rendered = None
    try:
        for name, kind, render in ((PROVENANCE_FILE, Provenance, model_card), (MANIFEST_FILE, Manifest, dataset_card)):
            if (folder / name).is_file():
                rendered = render(kind.from_file(folder / name), repo_id)
                break
    except (DataError, ValueError, KeyError, TypeError, AttributeError, UndefinedError):
        raise DataError(f"{folder / name} is damaged or from another version; make {folder} again.") from None
    if rendered is None:
        raise DataError(f"{folder} is neither a checkpoint nor a calibration set of optimum-ssgr.")
    local = read_card(folder)
    ours = merge_card(local, rendered)

    def card(old: str | None, commit: str) -> str:
        theirs = merge_card(old, rendered)
        if rendered not in (ours, theirs) and ours != theirs:
            logger.warning(
                f"the cards of {folder} and {repo_id} were both edited; the folder's counts, the other is in commit {commit}."
            )
        return theirs if ours == rendered else ours

    return card


def read_card(folder: Path) -> str | None:
    """Read the card of a folder; None where it has none.

    Raises:
        DataError: It is not text.
    """
    path = folder / CARD_FILE
    try:
        return path.read_text(encoding="utf-8-sig") if path.is_file() else None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; mend or remove it.") from None


def merge_card(old: str | None, new: str) -> str:
    """Put a rendered card in the place of an earlier one, and keep what users changed there.

    What stands outside of the part that we wrote is kept, and so is metadata that neither card of ours sets, and tags that are
    not ours. A card that we did not write, or that has lost the marks of our part, is kept whole, below the new one.

    Args:
        old: Contents of the `README.md` that is there; None when there is none.
        new: A card as `model_card` or `dataset_card` renders it.

    Returns:
        The card to write; the same as `old` when there is nothing new.

    Raises:
        DataError: The metadata of `old` cannot be read.
    """
    if not old or not old.strip():
        return new
    theirs, text = split_card(old.lstrip("\ufeff").replace("\r\n", "\n"))
    metadata, ours = split_card(new)
    before, generated, after = _around(text)
    tags = [theirs["tags"]] if isinstance(theirs.get("tags"), str) else theirs.get("tags") or []
    added = [tag for tag in tags if tag not in metadata["tags"] and not TAG.fullmatch(str(tag))]
    kept = {name: value for name, value in theirs.items() if name not in metadata and name not in generated}
    return _card(metadata | {"tags": metadata["tags"] + added} | kept, f"{before}{ours.strip()}{after}")


def _render(template: str, metadata: dict[str, Any], **values: Any) -> str:
    body = environment().get_template(template).render(values)
    return _card(metadata, f"\n{BEGIN.format(', '.join(metadata))}\n\n{body.strip()}\n\n{END}\n")


def _card(metadata: dict[str, Any], text: str) -> str:
    return f"---\n{yaml_dump(metadata, sort_keys=False).strip()}\n---\n{text}"


def _around(text: str) -> tuple[str, list[str], str]:
    """Return what stands before our part, the names of the metadata it came with, and what stands after it."""
    lines = text.splitlines(keepends=True)
    begins = [index for index, line in enumerate(lines) if _BEGIN.fullmatch(line.strip())]
    ends = [index for index, line in enumerate(lines) if line.strip() == END]
    if len(begins) == len(ends) == 1 and begins < ends:
        names = _BEGIN.fullmatch(lines[begins[0]].strip())[1].split(", ")
        after = "".join(lines[ends[0] + 1 :])
        return "".join(lines[: begins[0]]), names, f"\n{after}"
    rest = "".join(line for index, line in enumerate(lines) if index not in (*begins, *ends)).strip("\n")
    return "\n", [], f"\n\n{rest}\n" if rest.strip() else "\n"


def _by_module(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add up zeros and weights of the matrices of one kind, such as q_proj, in the order of their first layer."""
    found: dict[str, dict[str, Any]] = {}
    for layer in layers:
        parts = layer["name"].removesuffix(".weight").rstrip("0123456789").rstrip(".").split(".")
        row = found.setdefault(parts[-1], {"name": parts[-1], "matrices": 0, "weights": 0, "zeros": 0})
        row["matrices"] += 1
        row["weights"] += layer["shape"][0] * layer["shape"][1]
        row["zeros"] += layer["zeros"]
    return list(found.values())


def _contents(calibration: CalibrationConfig, own: bool) -> list[str]:
    """Name what the sequences of a calibration set are; whether the traces in it are the model's own."""
    traces = ["the model's own traces" if own else "traces"] if calibration.needs_rollouts else []
    text = ["general text"] if calibration.needs_text else []
    return traces + text or ["the problems' questions"]


def _by_source(rows: Sequence[EvaluationRow]) -> list[dict[str, Any]]:
    """Bring the rows of the same problems together, the dense model's first, for the template."""
    order = list(dict.fromkeys((row.source, row.split) for row in rows))
    ordered = sorted(rows, key=lambda row: (order.index((row.source, row.split)), row.model))
    return [{"split": row.split} | row.to_dict() | {"source": public_name(row.source)} for row in ordered]


def _by_kind(rows: Sequence[EvaluationRow]) -> list[dict[str, Any]]:
    """Bring what was measured of both models on the problems of one kind together, for the template."""
    found: dict[tuple[str, str | None, str], dict[str, Any]] = {}
    for row in rows:
        for kind, of in (row.kinds or {}).items():
            entry = {"source": public_name(row.source), "split": row.split, "kind": kind, "problems": of["problems"], "of": {}}
            found.setdefault((row.source, row.split, kind), entry)["of"][row.model] = of
    return list(found.values())
