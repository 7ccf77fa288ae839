"""Who is compared: what a checkpoint's `ssgr_config.json` says about how it was pruned."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import hf_hub_download
from transformers.utils import logging

from ..formats import PROVENANCE_FILE
from ..hub.client import limited_silence
from ..hub.names import split_revision
from ..reasoner import NAME as EMBEDDED


logger = logging.get_logger(__name__)

HUB = "https://huggingface.co"
STRATEGY_LABELS = {
    "ssgr": "own traces (SSGR)",
    "cover": "own traces of every kind",
    "self": "own correct traces",
    "rac": "own traces, unverified",
    "resp": "own responses",
    "obc": "right and wrong traces",
    "mix": "own traces and text",
    "prompts": "questions alone",
    "text": "generic text",
}
METHOD_LABELS = {"sparsegpt": "SparseGPT", "alps": "ALPS", "wanda": "Wanda", "magnitude": "Magnitude"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ComparedModel:
    """A model that is compared.

    Args:
        source: Hub id (`ID` or `ID@REVISION`), folder, or name on a server.
        title: A few words to head its column.
        details: What it is, in a line.
        sparsity: Share of the prunable weights that is zero; 0 for a dense model.
        provenance: Contents of its `ssgr_config.json`; empty for a dense model.
    """

    source: str
    title: str = "Dense"
    details: str = "all weights"
    sparsity: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name, short and without the folders it lies in."""
        return self.source if _is_hub_id(self.source) else Path(self.source).name

    @property
    def link(self) -> str | None:
        """Its page on the Hub, or None."""
        repo_id, revision = split_revision(self.source)
        page = f"{HUB}/{repo_id}/tree/{quote(revision)}" if revision else f"{HUB}/{repo_id}"
        return page if _is_hub_id(self.source) else None

    @property
    def base_model(self) -> str:
        """The model it was pruned from, or itself."""
        return str(self.provenance.get("base_model", self.source))

    @property
    def calibration(self) -> dict[str, Any]:
        """Manifest of the calibration set it was pruned with; empty when there is none."""
        return self.provenance.get("calibration") or {}

    @property
    def layers(self) -> list[dict[str, Any]]:
        """Name, zeros and weights of every pruned layer."""
        return (self.provenance.get("sparsity") or {}).get("layers") or []


def describe_model(source: str) -> ComparedModel:
    """Say what a model is; one without a readable `ssgr_config.json` counts as dense.

    Args:
        source: Hub id (`ID` or `ID@REVISION`), folder, `tiny-reasoner`, or name on a server.
    """
    if not (source == EMBEDDED or _is_hub_id(source) or Path(source).exists()):
        return ComparedModel(source, source, "as its server calls it")
    provenance = _provenance(source)
    try:
        pruning, strategy = (
            provenance["pruning"],
            ((provenance.get("calibration") or {}).get("calibration") or {}).get("strategy"),
        )
        sparsity = float(provenance["sparsity"]["sparsity_of_prunable"])
        amount = pruning.get("pattern") or f"{sparsity:.0%}"
        method = " + ".join([METHOD_LABELS.get(pruning["method"], str(pruning["method"])), *pruning.get("refine", ())])
        calibrated = STRATEGY_LABELS.get(strategy, f"calibrated by {strategy}") if strategy else None
        title = f"Pruned · {calibrated}" if calibrated else f"Pruned · {method}"
        return ComparedModel(source, title, f"{method}, {amount} of the weights removed", sparsity, provenance)
    except (KeyError, TypeError, ValueError, AttributeError):
        return ComparedModel(source)


@limited_silence()
def _provenance(source: str) -> dict[str, Any]:
    if source == EMBEDDED:
        return {}
    path = Path(source) / PROVENANCE_FILE
    try:
        if not Path(source).exists():
            repo_id, revision = split_revision(source)
            path = Path(hf_hub_download(repo_id, PROVENANCE_FILE, revision=revision))
        return json.loads(path.read_text())
    except Exception as error:  # the clients below raise many kinds; a model without provenance can chat all the same
        logger.info(f"{source} has no readable {PROVENANCE_FILE}: {type(error).__name__}.")
        return {}


def _is_hub_id(source: str) -> bool:
    return bool(_HUB_ID.fullmatch(split_revision(source)[0])) and not Path(source).exists()
