"""`SSGRPruner`: the whole way from a dense reasoning model to a sparse checkpoint, one method per stage."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import CommitInfo
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from .calibration.dataset import CalibrationSet
from .calibration.generate import generate_rollouts
from .calibration.select import build_set, describe_origin, read_text, require_problems, select_calibration
from .calibration.strategies import Sources
from .calibration.text import TextSource
from .cards.metadata import inherited_metadata
from .cards.render import dataset_card, model_card
from .checkpoints.load import load_model, source_of, takes_images
from .checkpoints.original import check_source, find_source
from .checkpoints.save import check_generation_config, save_checkpoint, save_streamed
from .checkpoints.streaming import StreamedWeights, load_streamed
from .compat import model_commit, model_name
from .config import IN_PROCESS, CalibrationConfig, EngineConfig, PromptConfig, PruningConfig, SamplingConfig, as_engine
from .damage import measure_damage
from .errors import ConfigError, ModelError
from .evaluation.evaluate import evaluate
from .evaluation.metrics import summarize
from .evaluation.traces import FEW_TRACES, TRACE_BATCH, hold_out, summarize_nll, trace_nll
from .files import check_unused
from .formats import CALIBRATION_FOLDER, EvaluationRow, Provenance
from .hub.names import split_revision
from .problems.load import ProblemSource, load_problems, usual_instruction
from .problems.mixture import ProblemSets, instruction_of, is_mixture, kind_shares, load_mixture, read_problem_sets
from .problems.options import ProblemOptions
from .pruning.block_store import open_block_store
from .pruning.distributed import world_size
from .pruning.inputs import read_inputs
from .pruning.layerwise import prune_layerwise
from .pruning.prunable import check_prunable
from .pruning.report import PruningReport
from .pruning.run import describe_run, open_run
from .records import GradedRollout, Problem
from .rollouts.choose import open_engine
from .rollouts.prompts import encode_prompts
from .rollouts.store import open_rollout_store, rollout_fingerprint
from .sharing import load_calibration_set, push_with_card
from .verification.verify import warn_of_unreadable


def _load(problems: ProblemSource | ProblemSets, instruction: str | None) -> tuple[list[Problem], str]:
    """Load problems, and say what to append to those questions that have no instruction of their own."""
    if is_mixture(problems):
        sets = read_problem_sets(problems, ProblemOptions(instruction=instruction))
        return load_mixture(sets), instruction_of(sets)
    return load_problems(problems), usual_instruction(problems) if instruction is None else instruction


class SSGRPruner:
    """Calibrates and prunes one model.

    Args:
        model: Causal language model; it is pruned in place.
        tokenizer: Its tokenizer, with a chat template.
        trust_remote_code: Whether code from the checkpoint may run when the saved model is reloaded.
        streamed: What reads the weights of a model that is on the meta device; None when the weights are in the model.
        prompting: How it is addressed beside the questions, and how it delimits its thinking.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        trust_remote_code: bool = False,
        streamed: StreamedWeights | None = None,
        prompting: PromptConfig | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.trust_remote_code = trust_remote_code
        self.streamed = streamed
        self.prompting = prompting or PromptConfig()
        self._inherited: dict[str, Any] | None = None
        self._source: Path | None = None
        self._journal_dir: Path | None = None
        self._begun = False  # pruning
        self._provenance: Provenance | None = None  # once it is done

    @classmethod
    def from_pretrained(
        cls,
        model_id: str,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device_map: str | dict[str, str] | None = None,
        trust_remote_code: bool = False,
        token: str | bool | None = None,
        streaming: bool = False,
        prompting: PromptConfig | None = None,
    ) -> Self:
        """Load a model and its tokenizer.

        Args:
            model_id: Hub id (`ID` or `ID@REVISION`), local folder, or `tiny-reasoner` for the embedded model.
            revision: Branch, tag or commit on the Hub, where the name has none.
            dtype: Weight type; `auto` keeps the checkpoint's own.
            device_map: Where to place the layers, as in transformers.
            trust_remote_code: Whether code from the checkpoint may run.
            token: Hub token.
            streaming: For models larger than memory: read one block at a time from the checkpoint. Such a model can be pruned
                and saved, but neither generates nor is evaluated; `device_map` is then the one device to compute on.
            prompting: How it is addressed beside the questions, and how it delimits its thinking.

        Raises:
            ConfigError: There is a revision in the name, too.
            ModelError: The model or its tokenizer cannot be loaded.
        """
        if revision and split_revision(model_id)[1]:
            raise ConfigError(f"'{model_id}' names a revision, and so does revision='{revision}'; give one of them.")
        load = load_streamed if streaming else load_model
        loaded = load(
            model_id,
            revision=revision,
            dtype=dtype,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            token=token,
        )
        model, tokenizer, streamed = loaded if streaming else (*loaded, None)
        pruner = cls(model, tokenizer, trust_remote_code, streamed, prompting)
        pruner._inherited = pruner._read_inherited(token)  # now, since the token is not kept
        pruner._source = None if streaming else find_source(model, token, trust_remote_code)
        return pruner

    def generate_rollouts(
        self,
        problems: ProblemSource | ProblemSets,
        config: CalibrationConfig | None = None,
        *,
        journal_dir: str | Path | None = None,
        engine: str | EngineConfig = IN_PROCESS,
        batch_size: int = 64,
        instruction: str | None = None,
    ) -> list[GradedRollout]:
        """Generate and verify the rollouts that strategies select from.

        Args:
            problems: What `load_problems` takes, or a list of several problem sets, see `problems.mixture.read_problem_sets`.
            config: Samples per problem and sampling; SSGR's defaults when None.
            journal_dir: Folder for finished rollouts: when the same call is made again after an interruption, only what is
                missing is generated; so it is with more problems, more samples or other windows. What is finished stays as it
                is; see `rollouts.store` for what that means for the others.
            engine: Where to generate, or the name of `EngineConfig` alone: `transformers` for this process, `vllm` or `sglang`
                for a server that is started for this call, or addresses of servers that have this model. Where the weights are
                in the memory of a GPU already, there must be room for a server's beside them.
            batch_size: Most responses in the making at a time; with servers, at each of them to begin with.
            instruction: Text appended to every question; when None, what is usual for the data set or file that `problems`
                names, and nothing for problems that are given themselves. A problem or a set with one of its own takes that.

        Raises:
            SSGRError: There are no problems, no chat template, a prompt does not fit the context, or the journal belongs to
                another run.
        """
        config, engine = config or CalibrationConfig(), as_engine(engine)
        if engine.in_process:
            self._check_generates()
        problems, instruction = _load(problems, instruction)
        prompts = encode_prompts(self.tokenizer, problems, instruction, self.prompting)
        store = nullcontext()
        if journal_dir is not None:
            decided_by = rollout_fingerprint(self.model, self.tokenizer, config.sampling, engine, batch_size)
            store = open_rollout_store(journal_dir, decided_by)
        trust = self.trust_remote_code
        with open_engine(engine, self.model, self.tokenizer, config.sampling, batch_size, trust_remote_code=trust) as opened:
            graded = generate_rollouts(opened, self.tokenizer, problems, prompts, config, store, self.prompting)
        warn_of_unreadable(graded, model_name(self.model))
        return graded

    def measure_damage(
        self,
        rollouts: Sequence[GradedRollout],
        config: PruningConfig,
        calibration: CalibrationConfig,
        *,
        journal_dir: str | Path | None = None,
        activation_gb: float = 8.0,
        dense_nll: Path | None = None,
    ) -> tuple[list[GradedRollout], dict[str, Any]]:
        """Prune for a look at which correct traces it damages most, and give the model its weights back.

        It takes one pruning with random correct traces, two forward passes over all correct traces, and room for the model's
        blocks on disk, twice where the model is in memory.

        Args:
            rollouts: Rollouts of this model.
            config: How it is going to be pruned.
            calibration: Budget and seed of the random traces.
            journal_dir: Folder in which an interrupted measurement goes on; a temporary one when None. Several processes need
                one that all of them see.
            activation_gb: For a streamed model, most GB of hidden states to hold.
            dense_nll: File for what is measured of the dense model, which is read where it is there, so that it is measured
                once for several prunings.

        Returns:
            The rollouts with their damage, for the strategy `cover` with `damage`; and how it was measured, for the manifest.

        Raises:
            SSGRError: The model is pruned already, no rollout is correct, or the model cannot be pruned.
        """
        self._check_dense()
        if world_size() > 1 and journal_dir is None:
            raise ConfigError("several processes need a journal_dir that all of them see.")
        if not config.needs_calibration:
            raise ConfigError(f"the method {config.method} needs no calibration set, so there is nothing to select for it.")
        at_random = dataclasses.replace(calibration, strategy="self", damage=False, kind_shares=(), adaptive=False)
        probe = build_set(Sources(rollouts), at_random, describe_origin(self.model, self.tokenizer, {}))
        inputs = read_inputs(probe, config, self.model, self.tokenizer)
        measured = measure_damage(self.model, rollouts, inputs, config, journal_dir, self.streamed, activation_gb, dense_nll)
        return measured, {"pruning": config.to_dict(), "calibration": probe.manifest.content_hash}

    def select_calibration(
        self,
        rollouts: Sequence[GradedRollout] | None = None,
        config: CalibrationConfig | None = None,
        *,
        problems: ProblemSource | ProblemSets | None = None,
        text: TextSource | None = None,
        output_dir: str | Path | None = None,
        engine: str | EngineConfig = IN_PROCESS,
        batch_size: int = 64,
        instruction: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> CalibrationSet:
        """Select the sequences to calibrate on, without generating anything.

        Args:
            rollouts: Rollouts of this model, for the strategies that select among them.
            config: Strategy, windows, budget and seed; SSGR's defaults when None.
            problems: For the strategy `prompts`, as for `generate_rollouts`.
            text: For the strategies `text` and `mix`, what `load_documents` takes, or the documents themselves.
            output_dir: Folder to save the set in.
            engine: What generated the rollouts, for the manifest.
            batch_size: How many at a time, for the manifest.
            instruction: What was appended to the questions, for the manifest; for `prompts`, it is appended now. When None,
                what is usual for the data set or file that `problems` names; that of rollouts alone is not known.
            metadata: Further provenance for the manifest, such as where the problems come from.

        Raises:
            SSGRError: Something is missing, malformed or does not fit.
        """
        config = config or CalibrationConfig()
        if output_dir is not None:
            check_unused(output_dir)
        if config.strategy == "prompts" and problems is not None:
            problems, instruction = _load(problems, instruction)
        elif instruction is None and (problems is not None or rollouts is None):
            instruction = usual_instruction(problems)
        known = dict(metadata or {})
        if config.needs_rollouts:
            known |= {"engine": as_engine(engine).recorded, "batch_size": batch_size}
        inputs = {"problems": problems, "text": text, "instruction": instruction, "prompting": self.prompting}
        built = select_calibration(self.model, self.tokenizer, config, rollouts, **inputs, metadata=known)
        if output_dir is not None:
            built.save_to_disk(output_dir, dataset_card(built.manifest))
        return built

    def build_calibration(
        self,
        problems: ProblemSource | ProblemSets | None = None,
        config: CalibrationConfig | None = None,
        *,
        rollouts: Sequence[GradedRollout] | None = None,
        text: TextSource | None = None,
        output_dir: str | Path | None = None,
        journal_dir: str | Path | None = None,
        engine: str | EngineConfig = IN_PROCESS,
        batch_size: int = 64,
        instruction: str | None = None,
        pruning: PruningConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> CalibrationSet:
        """Make the sequences to calibrate on: `generate_rollouts` where the strategy needs them, then `select_calibration`.

        Args:
            problems: As for `generate_rollouts`; not needed by the strategy `text` nor when `rollouts` are given. The shares of
                several sets become `config.kind_shares`.
            config: Strategy, sampling and selection; SSGR's defaults when None.
            rollouts: Rollouts of this model to select from, so that nothing is generated.
            text: See `select_calibration`.
            output_dir: Folder to save the set in.
            journal_dir: Folder for finished rollouts, see `generate_rollouts`.
            engine: See `generate_rollouts`.
            batch_size: See `generate_rollouts`.
            instruction: Text appended to every question, see `generate_rollouts`. It is noted in the manifest; when `rollouts`
                are given, it is what was appended to theirs.
            pruning: How the model is going to be pruned, to measure the damage that `config.damage` asks for; not needed where
                the rollouts have it.
            metadata: Further provenance for the manifest, such as where the problems come from.

        Raises:
            SSGRError: Something is missing, malformed or does not fit; before any generation where it can be known.
        """
        config = config or CalibrationConfig()
        if is_mixture(problems) and (shares := kind_shares(read_problem_sets(problems))):
            config = dataclasses.replace(config, kind_shares=shares)
        given = {"engine": engine, "batch_size": batch_size}
        if config.needs_rollouts and rollouts is None:
            if output_dir is not None:
                check_unused(output_dir)
            text = read_text(self.model, self.tokenizer, config, text)  # a mixture fails before hours of generation
            problems, instruction = _load(require_problems(problems, config), instruction)
            rollouts = self.generate_rollouts(problems, config, journal_dir=journal_dir, instruction=instruction, **given)
        if config.damage and pruning is not None:
            folder = None if journal_dir is None else Path(journal_dir) / "damage"
            rollouts, damage = self.measure_damage(rollouts, pruning, config, journal_dir=folder)
            metadata = {**(metadata or {}), "damage": damage}
        return self.select_calibration(
            rollouts,
            config,
            problems=problems,
            text=text,
            output_dir=output_dir,
            instruction=instruction,
            metadata=metadata,
            **given,
        )

    def prune(
        self,
        calibration: CalibrationSet | Dataset | str | Path | None = None,
        config: PruningConfig | None = None,
        *,
        journal_dir: str | Path | None = None,
        activation_gb: float = 8.0,
    ) -> PruningReport:
        """Prune the model in place, once: what is loaded and not streamed is no longer dense afterwards.

        Where the calibration set has rollouts of this model, and right ones of problems that it did not select, it is measured
        before and after how likely the model finds some of these; see `evaluation.traces`.

        Args:
            calibration: A calibration set, its folder or Hub id (`ID` or `ID@REVISION`), or a data set with a column
                `input_ids` and perhaps `token_weights` and `attention_mask`, whose tokens of mask 0 are left out; None for
                magnitude pruning.
            config: Method, sparsity or pattern.
            journal_dir: Folder for finished blocks: when the same call is made again after an interruption, it goes on there
                and ends with the same bits. A streamed model needs one; its pruned blocks stay there.
            activation_gb: For a streamed model, hidden states beyond so many GB go to disk.

        Raises:
            SSGRError: The model was pruned before, its architecture, the pattern or the calibration set does not fit, the
                journal belongs to another run, or the numbers are not usable.
        """
        config = config or PruningConfig()
        self._check_dense()
        check_generation_config(self.model)
        if self.streamed and journal_dir is None:
            raise ConfigError("a streamed model needs a journal_dir, where its pruned blocks are written.")
        config = config.resolve(streamed=self.streamed is not None)
        check_prunable(self.model, config)
        if isinstance(calibration, str | Path):
            kept = self.streamed is None and Path(calibration).is_dir()  # on the Hub, they would have to be downloaded
            calibration = load_calibration_set(calibration, with_rollouts=kept) if config.needs_calibration else None
        inputs = read_inputs(calibration, config, self.model, self.tokenizer)
        if not self.streamed:
            source = self._source or find_source(self.model, trust_remote_code=self.trust_remote_code)
            self._source = source if source and check_source(self.model, source) else None
        decided_by = describe_run(self.model, config)
        held_out = self._hold_out(calibration)
        dense = trace_nll(self.model, held_out, TRACE_BATCH)
        with open_run(journal_dir, decided_by, inputs, self.model, self.streamed, activation_gb) as (journal, store):
            self._begun, self._provenance = True, None
            layers = prune_layerwise(
                self.model,
                inputs.sequences,
                config,
                token_weights=inputs.token_weights,
                prompts=inputs.prompts,
                journal=journal,
                weights=self.streamed,
                store=store,
            )
        self._journal_dir = Path(journal_dir) if journal_dir else None
        report = PruningReport.of(self.model, layers)
        if held_out:
            measured = summarize_nll(trace_nll(self.model, held_out, TRACE_BATCH), dense)
            report = dataclasses.replace(report, held_out=measured)
        self._provenance = Provenance(
            **decided_by, calibration=inputs.manifest, sparsity=report.to_dict(), held_out=report.held_out
        )
        return report

    def evaluate(
        self,
        problems: ProblemSource,
        sampling: SamplingConfig | None = None,
        *,
        samples: int = 1,
        batch_size: int = 64,
        instruction: str | None = None,
    ) -> dict[str, Any]:
        """Measure accuracy with its standard error and 95 % interval, lengths, truncation and loops.

        Args:
            problems: What `load_problems` takes; of a data set, the split for evaluation is read.
            sampling: How to sample; T=0.6, top-p 0.95, 32,768 tokens when None.
            samples: Responses per problem.
            batch_size: Most responses in the making at a time.
            instruction: Text appended to every question; when None, what is usual for the data set or file that `problems`
                names, and nothing for problems that are given themselves.

        Returns:
            What `evaluation.metrics.summarize` returns.

        Raises:
            SSGRError: There are no problems, no chat template, a prompt does not fit the context, or the model is streamed.
        """
        self._check_generates()
        graded = evaluate(
            self.model,
            self.tokenizer,
            load_problems(problems, evaluation=True),
            sampling or SamplingConfig(),
            samples,
            batch_size,
            usual_instruction(problems) if instruction is None else instruction,
            self.prompting,
        )
        warn_of_unreadable(graded, model_name(self.model))
        return summarize(graded)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        evaluation: Sequence[EvaluationRow | Mapping[str, Any]] = (),
        calibration: CalibrationSet | None = None,
    ) -> None:
        """Save the pruned model, its tokenizer, `ssgr_config.json` and a card, which says how to load it.

        Args:
            folder: Where to write; must be new or empty.
            evaluation: What was measured on the dense and the sparse model, for the card: rows of `formats.EvaluationRow`, or
                of what its `from_dict` takes.
            calibration: The set that the model was pruned with, to be kept in the folder `calibration` of the checkpoint and
                pushed with it: the card and `ssgr_config.json` say so. For sets that are nowhere else.

        Raises:
            ConfigError: Nothing was pruned yet, it was pruned with another set, or the generation config cannot be saved.
            DataError: A row of the evaluation lacks something.
            OutputError: The folder is in use or cannot be written, or the checkpoint does not load back as it was.
        """
        if self._provenance is None:
            raise ConfigError("prune the model before saving it.")
        check_generation_config(self.model)
        inherited = self._read_inherited() if self._inherited is None else self._inherited
        rows = [row if isinstance(row, EvaluationRow) else EvaluationRow.from_dict(row) for row in evaluation]
        images = takes_images(self.model.config) or None
        provenance = dataclasses.replace(self._provenance, takes_images=images, inherited=inherited, evaluation=rows)
        if calibration is not None:
            if not provenance.calibration or provenance.calibration.content_hash != calibration.manifest.content_hash:
                raise ConfigError("the model was not pruned with this calibration set, so it cannot be kept with it.")
            provenance = dataclasses.replace(provenance, calibration_folder=CALIBRATION_FOLDER)

        def keep(checkpoint: Path) -> None:
            if calibration is not None:
                calibration.save_to_disk(checkpoint / CALIBRATION_FOLDER, dataset_card(calibration.manifest))

        rest = (provenance, model_card(provenance), self.trust_remote_code, keep)
        if self.streamed:
            with open_block_store(self._journal_dir) as journal:  # nobody else's while its blocks are taken over
                save_streamed(self.model, self.tokenizer, folder, self.streamed, journal.blocks(), *rest)
        else:
            save_checkpoint(self.model, self.tokenizer, folder, *rest, self._source)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        token: str | None = None,
        evaluation: Sequence[EvaluationRow | Mapping[str, Any]] = (),
        calibration: CalibrationSet | None = None,
    ) -> CommitInfo:
        """Publish the pruned model on the Hub, in one commit: weights, tokenizer, `ssgr_config.json` and card.

        The checkpoint is written to a temporary folder and checked first, as by `save_pretrained`; to keep it, save it and
        push its folder with `ssgr push`.

        Args:
            repo_id: NAMESPACE/NAME; created where it is missing.
            private: Whether a new repository is private (None: as the namespace has it).
            revision: Branch; `main` by default.
            create_pr: Open a pull request instead.
            token: Defaults to HF_TOKEN or the one that `hf auth login` saved.
            evaluation: See `save_pretrained`.
            calibration: See `save_pretrained`.

        Returns:
            The commit; the head of the branch where nothing differs from it.

        Raises:
            ConfigError: Nothing was pruned yet.
            HubError: The Hub refuses, or cannot be reached for minutes.
        """
        with TemporaryDirectory() as name:
            folder = Path(name) / "checkpoint"
            self.save_pretrained(folder, evaluation=evaluation, calibration=calibration)
            options = {"private": private, "revision": revision, "create_pr": create_pr, "token": token}
            return push_with_card(folder, repo_id, **options)

    def _hold_out(self, calibration: CalibrationSet | Dataset | None) -> list[GradedRollout]:
        """Draw right traces of this model's own that a calibration set did not select; none where there are too few."""
        is_runnable = not (self.streamed or self.model.get_input_embeddings().weight.is_meta)
        if not is_runnable or not isinstance(calibration, CalibrationSet) or calibration.rollouts is None:
            return []
        traces = hold_out(calibration, FEW_TRACES) if calibration.manifest.model == model_name(self.model) else []
        return traces if len(traces) > 1 else []  # of a single one there is no standard error

    def _check_dense(self) -> None:
        """Refuse to prune anew what an earlier call changed; a streamed model's files are as they were."""
        if self._begun and not self.streamed:
            if self._provenance is None:
                raise ModelError("pruning this model failed, so a part of it may be pruned; load it again.")
            raise ModelError(
                "this model is pruned already; load it again to prune it in another way, or save and load it to go on."
            )

    def _check_generates(self) -> None:
        if self.streamed:
            raise ConfigError(
                "a streamed model does not generate; load it without streaming, or serve it and name the server as the engine."
            )

    def _read_inherited(self, token: str | bool | None = None) -> dict[str, Any]:
        """Return what the card of the model states that also holds for what is made of it."""
        return inherited_metadata(source_of(model_name(self.model)), model_commit(self.model), token)
