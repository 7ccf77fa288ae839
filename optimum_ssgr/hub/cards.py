"""Fill the card templates of `hub_cards/` with what was measured; a field without a value is left out."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined


_PACKAGED = Path(__file__).parents[1] / "hub_cards"
TEMPLATES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "hub_cards"


def model_card(provenance: dict[str, Any]) -> str:
    """Render the model card of a pruned checkpoint.

    Args:
        provenance: Contents of `ssgr_config.json`.

    Returns:
        Markdown with a YAML header.
    """
    pruning = provenance["pruning"]
    base_model = provenance["base_model"]
    on_hub = not Path(base_model).exists() and base_model.count("/") == 1
    metadata = ModelCardData(
        base_model=base_model if on_hub else None,
        base_model_relation="finetune" if on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["pruned", "sparse", "ssgr", pruning["method"]] + ([pruning["pattern"]] if pruning["pattern"] else []),
    )
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("model_card.md.jinja")
    return template.render(metadata=metadata.to_yaml().strip(), name=Path(base_model).name, **provenance)
