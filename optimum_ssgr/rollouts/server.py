"""Stands in until the server engine is there."""


class ServerEngine:
    """Stands in."""
