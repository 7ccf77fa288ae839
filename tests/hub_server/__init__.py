"""A Hugging Face Hub on loopback, for tests of the real clients."""

from .faults import Fault
from .server import HubServer


__all__ = ["Fault", "HubServer"]
