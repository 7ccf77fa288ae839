"""The commands that make a calibration set or a checkpoint again, from the settings that its provenance holds."""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from typing import Any

from ..config import IN_PROCESS, MANAGED, CalibrationConfig, PruningConfig, RecoveryConfig
from ..formats import Manifest, Provenance
from ..problems.sources import find_source
from ..thinking import THINK
from .names import hub_id, pinned, public_name


SELECTION = ("strategy", "pass_rate", "length_window", "max_per_problem", "text_length", "text_share", "seed")
TRACES = "path/or/id/of/the/traces"
BATCH_SIZE = 64  # of the command line, when none is given


def calibration_commands(manifest: Manifest) -> list[str]:
    """Return the commands that make a calibration set, in their order.

    Args:
        manifest: The set's manifest.

    Returns:
        `ssgr calibrate`, and `ssgr select` if the set was selected from the rollouts of another, or `ssgr prune` if by their
        damage; nothing when it was made in Python from problems or text that the manifest cannot name.
    """
    origin, problems, text = manifest.reselected_from, manifest.problems or {}, manifest.text
    selected = manifest.config
    generated = origin.config if origin else selected
    first_text = origin.text if origin else text
    without_text = (generated.needs_text and not first_text) or (selected.needs_text and not text)
    can_be_named = "source" in problems or "sets" in problems
    shares = tuple((kind, share) for kind, share in generated.kind_shares if selected.strategy == "cover")
    if (generated.strategy != "text" and not can_be_named) or without_text or selected.kind_shares != shares:
        return []
    flags = _model(manifest.model, manifest.model_commit, manifest.dtype)
    if generated.strategy != "text":
        flags += _problems(problems, manifest.instruction or "")
        flags += _prompting(manifest.prompting or {})
    if manifest.engine not in (None, IN_PROCESS):
        managed = manifest.engine in MANAGED
        flags.append(("--engine", manifest.engine if managed else "http://localhost:8000/v1"))
    if manifest.batch_size not in (None, BATCH_SIZE):
        flags.append(("--batch-size", manifest.batch_size))
    names = [field.name for field in dataclasses.fields(CalibrationConfig)]
    elsewhere = ("num_sequences", "num_tokens", "kind_shares", "damage")
    flags += _settings(generated, CalibrationConfig(), [name for name in names if name not in elsewhere])
    if (generated.num_sequences, generated.num_tokens) != (CalibrationConfig.num_sequences, None):
        flags += _budget(generated)
    if generated.needs_text:
        flags.append(("--text", public_name(first_text)))
    if selected.damage:  # which pruning measures, also where only a part of its rollouts was asked for
        measured = PruningConfig.from_dict(manifest.damage["pruning"])
        again = [*_settings(selected, generated, SELECTION), *_budget(selected), ("--damage",), *_pruning(measured)]
        pruned = [*_model(manifest.model, manifest.model_commit, manifest.dtype), ("--calibration", "rollouts"), *again]
        return [_command("calibrate", ["rollouts"], flags), _command("prune", ["sparse"], pruned)]
    if not origin:
        return [_command("calibrate", ["calibration"], flags)]
    again = [*_settings(selected, generated, SELECTION), *_budget(selected)]
    if selected.needs_text:
        again.append(("--text", public_name(text)))
    return [_command("calibrate", ["rollouts"], flags), _command("select", ["rollouts", "calibration"], again)]


def pruning_commands(provenance: Provenance) -> list[str]:
    """Return the commands that make a checkpoint, in their order.

    Args:
        provenance: Contents of `ssgr_config.json`.

    Returns:
        `ssgr prune`, after the commands that make the calibration set unless it is on the Hub, and `ssgr recover` where it was
        recovered; nothing when the set cannot be made again or named.
    """
    config, manifest = provenance.config, provenance.calibration
    flags, before = _model(provenance.base_model, provenance.base_commit, provenance.dtype), []
    by_damage = False
    if config.needs_calibration:
        on_hub = manifest and pinned(manifest.hub)
        before = [] if on_hub or not manifest else calibration_commands(manifest)
        if not on_hub and not before:
            return []
        by_damage = bool(manifest and manifest.config.damage and not on_hub)
        if by_damage and PruningConfig.from_dict(manifest.damage["pruning"]).resolve(streamed=False) == config:
            return [*before, *_recovery(provenance, "sparse", "rollouts")]  # the last of `before` prunes in this very way
        made = "sparse/calibration" if by_damage else "calibration"
        flags.append(("--calibration", "@".join(on_hub) if on_hub else made))
    flags += _pruning(config)
    name, rollouts = ("pruned", "rollouts") if by_damage else ("sparse", "calibration")
    return [*before, _command("prune", [name], flags), *_recovery(provenance, name, rollouts)]


def _recovery(provenance: Provenance, name: str, rollouts: str) -> list[str]:
    """Return the command that recovers a checkpoint, if it was; `rollouts` is the folder of those that the others have made."""
    recovery, manifest = provenance.recovery, provenance.calibration
    if recovery is None:
        return []
    on_hub = pinned(recovery.hub)
    made = rollouts if manifest and manifest.rollouts_hash == recovery.rollouts_hash else TRACES
    flags: list[tuple[Any, ...]] = [("--calibration", "@".join(on_hub) if on_hub else made)]
    if recovery.teacher:
        flags.append(("--teacher", *(value for _, value in _model(recovery.teacher, recovery.teacher_commit, "auto")[:1])))
    if recovery.excluded:
        flags.append(("--exclude", *map(public_name, recovery.excluded["sets"])))
    names = [field.name for field in dataclasses.fields(RecoveryConfig)]
    return [_command("recover", [name, "recovered"], [*flags, *_settings(recovery.config, RecoveryConfig(), names)])]


def _pruning(config: PruningConfig) -> list[tuple[Any, ...]]:
    flags: list[tuple[Any, ...]] = [("--method", config.method)]
    flags += _settings(config, PruningConfig(), ("damping", "allocation"))
    flags += [("--refine", *config.refine)] if config.refine else []
    flags.append(("--pattern", config.pattern) if config.pattern else ("--sparsity", config.sparsity))
    return [*flags, ("--no-true-sequential",)] if config.true_sequential is False else flags


def _model(name: str, commit: str | None, dtype: str) -> list[tuple[Any, ...]]:
    return [("-m", f"{name}@{commit}" if hub_id(name, commit) else public_name(name)), ("--dtype", dtype)]


def _problems(problems: dict[str, Any], instruction: str) -> list[tuple[Any, ...]]:
    if "sets" in problems:
        flags: list[tuple[Any, ...]] = [("--problems", *map(_problem_set, problems["sets"]))]
    else:
        flags = [("--problems", public_name(problems["source"]))]
        flags += [(_flag("problems_revision" if name == "revision" else name), value) for name, value in _reading(problems)]
        if instruction != find_source(problems["source"]).instruction:
            flags.append(("--instruction", instruction))
    if "excluded" in problems:
        flags.append(("--exclude", *map(public_name, problems["excluded"]["sets"])))
    return flags


def _prompting(recorded: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Say how the model was addressed beside the questions; `<think>` is what is taken when nothing tells."""
    flags: list[tuple[Any, ...]] = []
    if variables := recorded.get("template_kwargs"):
        flags.append(("--template-kwargs", *(f"{name}={_write_value(value)}" for name, value in variables.items())))
    if recorded.get("system"):
        flags.append(("--system", recorded["system"]))
    if recorded.get("thinking", [THINK.name]) != [THINK.name]:
        flags.append(("--thinking", *recorded["thinking"]))
    return flags


def _write_value(value: Any) -> str:
    """Write a variable's value as it is read: text as it stands, unless it would be taken for JSON, and all else as JSON."""
    try:
        json.loads(value)
    except (ValueError, TypeError):
        if isinstance(value, str) and value not in ("True", "False", "None"):
            return value
    return json.dumps(value)


def _problem_set(asked: dict[str, Any]) -> str:
    """Write one of several problem sets with its options, as `problems.mixture.read_problem_sets` reads it."""
    options = [("share", asked["share"])] if "share" in asked else []
    options += _reading(asked)
    if asked["instruction"] != find_source(asked["source"]).instruction:
        options.append(("instruction", asked["instruction"]))
    written = ",".join(f"{name}={value}" for name, value in options)
    return public_name(asked["source"]) + (f":{written}" if options else "")


def _reading(asked: dict[str, Any]) -> list[tuple[str, Any]]:
    """Say how a problem set was read, but for what is the default."""
    commits = {source.rpartition("@")[2] for source in asked.get("read_from", ()) if pinned(source)}
    found = [("revision", *commits)] if len(commits) == 1 else []
    names = ("split", "num_problems", "question_column", "answer_column", "kind_column")
    return found + [(name, asked[name]) for name in names if asked.get(name) is not None]


def _settings(config: Any, defaults: Any, names: Any) -> list[tuple[Any, ...]]:
    """Return the flags of the settings that are not the defaults."""
    flags = []
    for name in names:
        value = getattr(config, name)
        if value != getattr(defaults, name):
            flags.append((_flag(name),) if value is True else (_flag(name), *(value if isinstance(value, tuple) else (value,))))
    return flags


def _budget(config: CalibrationConfig) -> list[tuple[Any, ...]]:
    budgets = {"num_sequences": config.num_sequences, "num_tokens": config.num_tokens}
    return [(_flag(name), value) for name, value in budgets.items() if value is not None]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _command(verb: str, positional: list[str], flags: list[tuple[Any, ...]]) -> str:
    first = " ".join(["optimum-cli ssgr", verb, *positional])
    return " \\\n    ".join([first, *(" ".join(map(_quote, flag)) for flag in flags)])


def _quote(value: object) -> str:
    """Quote for the shell, on one line: bash reads what stands in $'...' with escapes."""
    text = str(value)
    if text.isprintable():
        return shlex.quote(text)
    inner = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in c.encode()) for c in inner) + "'"
