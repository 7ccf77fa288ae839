"""What a study compares and how; imports nothing heavy, so that mistakes are found at once."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from ..config import CalibrationConfig, EngineConfig, LoadingConfig, PromptConfig, SamplingConfig, as_engine
from ..errors import ConfigError
from ..problems.mixture import ProblemSet, ProblemSets, kind_shares, read_problem_sets
from ..problems.options import ProblemOptions
from ..problems.sources import find_source, is_endless
from ..rollouts.addresses import check_engine
from .cells import BANDS, DAMAGE, Cell, study_cells


@dataclass(frozen=True)
class StudyConfig:
    """Strategies, methods and sparsities against one another, on one model.

    Every seed has its own problems and rollouts, which all strategies share; all pruned models answer the same problems.

    Args:
        model: Hub id (`ID` or `ID@REVISION`), folder, or `tiny-reasoner`.
        problems: Problem set to calibrate on, named as for `load_problems`, or several, see `read_problem_sets`; the shares of
            several are met by the strategy `cover`.
        calibration: How rollouts are sampled and selected from; `num_tokens` says how much every set holds, `seed` is the
            first seed. Its strategy is replaced by each of `strategies` in turn.
        evaluation: How responses are sampled in evaluation.
        strategies: Calibration strategies; `cover+damage` is `cover` with `damage`.
        methods: Pruning methods, each perhaps with what refines it, such as `wanda+swaps+blocks`.
        sparsities: Shares of weights to remove; one half when there are no patterns either.
        patterns: N:M patterns.
        bands: `difficulty`, `length`: also calibrate on correct traces from thirds of each, with the first method.
        seeds: Repetitions, by the seeds from `calibration.seed` on.
        samples: Responses to each evaluation problem.
        evaluation_problems: Problem set to evaluate on; `problems`, each set by itself, if they have a split for it, when None.
        transfer_problems: Problem set of another domain to evaluate on as well.
        num_evaluation_problems: Most problems of each evaluation set.
        evaluation_split: Split of the evaluation sets; the one known to be for evaluation when None.
        text: General text for the strategies that take it, named as for `load_documents`.
        engine: See `EvaluationConfig`; it generates the rollouts.
        batch_size: Most responses in the making at a time.
        reading: How the problems to calibrate on are read.
        prompting: System message, variables of the chat template, and how thinking is delimited.
        loading: How the model is loaded.
        threads: Processor threads of each process; decides the bits.
        keep_checkpoints: Keep the models that the first method prunes to the first target with the first seed in
            `checkpoints/`, each with the sequences it was calibrated on, and the calibration set of the first strategy with its
            rollouts in `calibration/`.

    Raises:
        ConfigError: A name is unknown or named twice, a number is out of range, or something that is needed is missing.
    """

    model: str
    problems: str | ProblemSets
    calibration: CalibrationConfig
    evaluation: SamplingConfig
    strategies: tuple[str, ...] = ("cover", "text")
    methods: tuple[str, ...] = ("sparsegpt",)
    sparsities: tuple[float, ...] = ()
    patterns: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    seeds: int = 3
    samples: int = 1
    evaluation_problems: str | None = None
    transfer_problems: str | None = None
    num_evaluation_problems: int | None = None
    evaluation_split: str | None = None
    text: str | None = None
    engine: str | EngineConfig = field(default_factory=EngineConfig)
    batch_size: int = 64
    reading: ProblemOptions = field(default_factory=ProblemOptions)
    prompting: PromptConfig = field(default_factory=PromptConfig)
    loading: LoadingConfig = field(default_factory=LoadingConfig)
    threads: int = 1
    keep_checkpoints: bool = False

    def __post_init__(self) -> None:
        for name in ("seeds", "threads", "samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        unknown = [name for name in self.bands if name not in BANDS]
        if unknown:
            raise ConfigError(f"unknown bands '{unknown[0]}'; choose among {', '.join(BANDS)}.")
        if self.kind_shares and "cover" not in self.strategies:
            raise ConfigError("shares of the problem sets are met by the strategy cover; add it to --strategies.")
        cells = self.cells
        if self.bands and not any(cell.calibration for cell in cells):
            raise ConfigError("--bands needs a method that calibrates; none of --methods does.")
        if len(set(cells)) < len(cells):
            raise ConfigError("a strategy, method, sparsity, pattern or band is named twice.")
        for cell in cells:
            _ = cell.pruning  # which checks itself
        object.__setattr__(self, "engine", as_engine(self.engine))
        check_engine(self.engine, self.batch_size)
        for name in self.strategies:
            if self.calibration_for(name).needs_text and self.text is None:
                raise ConfigError(f"the strategy {name} needs --text.")
        if self.calibration.num_tokens is None:
            raise ConfigError("strategies are compared at equal numbers of tokens; set --num-tokens.")
        names = self.evaluation_names
        shorts = list(map(short_name, names))
        if twice := next((name for name in shorts if shorts.count(name) > 1), None):
            raise ConfigError(f"both sets to evaluate on would be called {twice} in the report; rename one of them.")
        for name in names:
            is_asked_twice = name in self.calibration_names and not is_endless(name)
            if is_asked_twice and find_source(name).evaluation_split is None:
                raise ConfigError(
                    f"{name} has no split that is known to be for evaluation; name a set with --evaluation-problems."
                )

    @property
    def problem_sets(self) -> list[ProblemSet]:
        """The problem sets to calibrate on."""
        names = [self.problems] if isinstance(self.problems, str) else self.problems
        return read_problem_sets(names, self.reading)

    @property
    def kind_shares(self) -> tuple[tuple[str, float], ...]:
        """The shares of the tokens that kinds of problems have in the sets that `cover` selects."""
        return kind_shares(self.problem_sets) or self.calibration.kind_shares

    @property
    def calibration_names(self) -> list[str]:
        """Names of the problem sets to calibrate on."""
        return [one.name for one in self.problem_sets]

    @property
    def seed_range(self) -> range:
        """The seeds of the repetitions."""
        return range(self.calibration.seed, self.calibration.seed + self.seeds)

    @property
    def targets(self) -> list[str]:
        """The sparsities and patterns to prune to."""
        return [*(f"{sparsity:g}" for sparsity in self.sparsities), *self.patterns] or ["0.5"]

    @property
    def cells(self) -> list[Cell]:
        """The pruned models of the study."""
        return list(study_cells(self.strategies, self.methods, self.targets, self.seed_range, self.bands))

    @property
    def calibrations(self) -> list[str]:
        """Strategies and bands to make calibration sets by."""
        return list(dict.fromkeys(cell.calibration for cell in self.cells if cell.calibration))

    @property
    def needs_rollouts(self) -> bool:
        """Whether anything is selected among generated traces."""
        return any(self.calibration_for(name).needs_rollouts for name in self.calibrations)

    def calibration_for(self, name: str) -> CalibrationConfig:
        """Return the settings of a strategy or of a band; bands are windows of `ssgr`."""
        if name == DAMAGE:
            return dataclasses.replace(self.calibration, strategy="cover", damage=True, kind_shares=self.kind_shares)
        shares = self.kind_shares if name == "cover" else ()
        return dataclasses.replace(self.calibration, strategy="ssgr" if ":" in name else name, kind_shares=shares)

    @property
    def evaluation_names(self) -> list[str]:
        """Names of the problem sets to evaluate on."""
        own = [self.evaluation_problems] if self.evaluation_problems else self.calibration_names
        return [*own, *([self.transfer_problems] if self.transfer_problems else [])]

    def instruction_for(self, name: str) -> str:
        """Return the text to add to every question of a set to evaluate on: as in calibration, if it is calibrated on."""
        own = next((one.reading for one in self.problem_sets if one.name == name), self.reading)
        return own.instruction_for(name)

    def keeps(self, cell: Cell) -> bool:
        """Tell whether a cell's checkpoint is kept."""
        first = (self.methods[0], self.targets[0], self.calibration.seed)
        return self.keep_checkpoints and (cell.method, cell.target, cell.seed) == first


def short_name(name: str) -> str:
    """Return a name for reports: without the folders of a local path."""
    return Path(name).name if Path(name).exists() else name
