"""The results of `ssgr evaluate` on the card of the checkpoint that was evaluated."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.identity import hash_weights, hub_weights
from ..errors import DataError
from ..files import write_whole
from ..formats import CARD_FILE, PROVENANCE_FILE, RESULTS_FILE, EvaluationRow, Provenance
from ..hub.names import split_revision
from .names import hub_id, pinned, public_name
from .render import merge_card, model_card, read_card


TRACES = ("traces", "trace_nll", "trace_nll_se", "trace_nll_rise", "trace_nll_rise_se")
LENGTHS = ("mean_tokens", "median_tokens", "p95_tokens", "truncated", "missing_think_end", "looping")
KINDS = ("kinds", "worst_kind", "worst_kind_accuracy", "worst_kind_accuracy_se")


def evaluation_rows(results: Path, folder: Path) -> list[EvaluationRow]:
    """Read what was measured on a checkpoint, and on the model it was made from if that was evaluated, too.

    Args:
        results: Folder that `ssgr evaluate --output` wrote.
        folder: The checkpoint.

    Returns:
        Rows for the card.

    Raises:
        DataError: The folder is no checkpoint, or there are no results, they are damaged, or of other weights than its own.
        HubError: The weights were evaluated from the Hub, which cannot be asked for their hashes.
    """
    base = _base_model(folder)
    try:
        record = json.loads((results / RESULTS_FILE).read_text(encoding="utf-8"))
        models = {name: (known["commit"], known["weights"]) for name, known in record["models"].items()}
        rows = [_card_row(row, record) for row in record["rows"]]
        written_by = record.get("traces") or {}
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{results} holds no {RESULTS_FILE}; name the folder that `ssgr evaluate --output` wrote.") from None
    except (DataError, OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{results / RESULTS_FILE} is damaged or from another version; evaluate again.") from None
    own = hash_weights(folder)
    roles = {name: "dense" for name, (commit, _) in models.items() if (split_revision(name)[0], commit) == base}
    sparse = next((name for name, known in models.items() if name not in roles and _holds(name, *known, own)), None)
    if sparse is None:
        names = ", ".join(map(str, models))
        raise DataError(f"{results} is an evaluation of {names} with other weights than those in {folder}; evaluate {folder}.")
    roles[sparse] = "sparse"
    if (written_by.get("model"), written_by.get("model_commit")) != base or roles.get(record.get("baseline")) != "dense":
        rows = [dataclasses.replace(row, **dict.fromkeys(TRACES)) for row in rows]  # of another model's traces, or against one
    return [dataclasses.replace(row, model=roles[row.model]) for row in rows if row.model in roles]


def attach_evaluation(folder: Path, rows: Sequence[EvaluationRow]) -> None:
    """Note what was measured in a checkpoint's `ssgr_config.json`, and render its card again.

    Args:
        folder: The checkpoint.
        rows: What `evaluation_rows` returns; earlier rows of the same problems give way, so that what stands together on the
            card was measured together.

    Raises:
        DataError: Its card cannot be read.
        OutputError: The folder cannot be written.
    """
    config, readme = folder / PROVENANCE_FILE, folder / CARD_FILE
    provenance = Provenance.from_file(config)
    new = {(row.source, row.split) for row in rows}
    earlier = [row for row in provenance.evaluation or () if (row.source, row.split) not in new]
    provenance = dataclasses.replace(provenance, evaluation=[*earlier, *rows])
    card = merge_card(read_card(folder), model_card(provenance))
    write_whole(config, lambda partial: partial.write_text(provenance.to_json()))
    write_whole(readme, lambda partial: partial.write_text(card, encoding="utf-8"))


def _base_model(folder: Path) -> tuple[str, str | None]:
    """Name and commit of the model that a checkpoint was made from."""
    try:
        provenance = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))
        return provenance["base_model"], provenance.get("base_commit")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"an evaluation belongs to a checkpoint, and {folder} holds no readable {PROVENANCE_FILE}.") from None


def _card_row(row: dict[str, Any], record: dict[str, Any]) -> EvaluationRow:
    """Turn a row of `results.json` into one of the card."""
    read_from = record["problems"][row["problems"]]["read_from"]
    on_hub = {"read_from": read_from[0]} if len(read_from) == 1 and pinned(read_from[0]) else {}
    text = {}
    if "text_perplexity" in row:
        text = {"text": public_name(record["text"]), "text_perplexity": row["text_perplexity"]}
    values = {
        "model": row["model"],
        "source": public_name(row["problems"]),
        "split": row["split"],
        "sampling": record["sampling"],
        "prompting": (record.get("prompting") or {}).get(row["model"]),
        "problems": row["n"],
        "samples": row["responses"],
        **on_hub,
        **text,
        **{name: row[name] for name in ("accuracy", "accuracy_se", *LENGTHS)},
        # Not in results of versions before 0.2; those by kind not in those of problems of one kind.
        **{name: row.get(name) for name in ("accuracy_ci95", "unreadable", "timed_out", *KINDS, *TRACES)},
    }
    return EvaluationRow.from_dict(values)


def _holds(name: str, commit: str | None, weights: dict[str, str] | None, own: dict[str, str]) -> bool:
    """Whether a model that was evaluated has the weights of a checkpoint."""
    repo_id = hub_id(split_revision(name)[0], commit)
    if weights is None and repo_id:
        weights = hub_weights(repo_id, commit)
    return weights is not None and all(weights.get(file) == digest for file, digest in own.items())
