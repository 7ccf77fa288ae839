"""What is installed with an extra of the package only, and the sentence for whoever lacks it."""

from importlib.util import find_spec

from .errors import ConfigError


def missing_extra(module: str, extra: str, what: str) -> str | None:
    """Say how to install a library that is missing; None where it is there. Nothing is imported.

    Args:
        module: The library, as it is imported.
        extra: The extra of this package that installs it.
        what: What needs it, in the plural, such as "plots".
    """
    if find_spec(module) is not None:
        return None
    return f"{what} need {module}; install it with `pip install 'optimum-ssgr[{extra}]'`."


def require_extra(module: str, extra: str, what: str) -> None:
    """Refuse to begin what will need a library that is missing; takes what `missing_extra` takes.

    Raises:
        ConfigError: It is missing.
    """
    sentence = missing_extra(module, extra, what)
    if sentence is not None:
        raise ConfigError(sentence)
