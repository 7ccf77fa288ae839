"""From a page's settings to what answers in each column."""

from .backends import Backend
from .settings import ChatSettings


def open_backends(settings: ChatSettings) -> list[Backend]:
    """Open a backend for every model.

    Args:
        settings: Models, and where they run.

    Raises:
        ModelError: A model that is to run in this process cannot be loaded.
        ConfigError: An address is not one.
    """
    if settings.addresses:
        from .server import ServerBackend  # a page in front of servers need not load torch

        addresses = settings.addresses * (len(settings.models) if len(settings.addresses) == 1 else 1)
        return [
            ServerBackend(address, model, settings.time_limit, settings.prompting)
            for address, model in zip(addresses, settings.models, strict=True)
        ]
    from .local import LocalBackend

    return [
        LocalBackend.load(model, settings.dtype, settings.device_map, settings.trust_remote_code, settings.prompting)
        for model in settings.models
    ]
