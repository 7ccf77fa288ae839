"""Errors a user can mend: one plain sentence that says what is wrong and what to do."""


class SSGRError(Exception):
    """Something the user can put right; the command line shows it as one line, without a traceback."""


class ConfigError(SSGRError):
    """A setting is out of range, unknown or at odds with another."""


class DataError(SSGRError):
    """Problems, rollouts or a calibration set are missing, empty or malformed."""


class ModelError(SSGRError):
    """The model or its tokenizer cannot be used for what was asked."""


class NumericalError(SSGRError):
    """A layer could not be pruned because its numbers are not usable."""


class OutputError(SSGRError):
    """The result cannot be written where the user wants it."""


class HubError(SSGRError):
    """The Hugging Face Hub cannot be reached, or does not allow or hold what was asked for."""
