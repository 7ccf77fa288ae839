"""Where the hidden states between two blocks are kept: in memory up to a limit, on disk beyond it."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import OutputError


class ActivationStore:
    """Keeps activations in memory, and on disk once those in memory would exceed a limit.

    Args:
        folder: Where to write what does not fit; None keeps everything where it is computed.
        limit: Most bytes to hold in memory at a time.
    """

    def __init__(self, folder: Path | None = None, limit: int = 0) -> None:
        self.folder = folder
        self.limit = limit
        self.bytes = 0
        self.files = 0

    def clear(self) -> None:
        """Count from nothing again; what was kept before must not be used any more."""
        self.bytes = self.files = 0

    def add(self, value: torch.Tensor) -> "Activation":
        """Keep one more value."""
        self.bytes += value.nbytes
        if self.folder is None or self.bytes <= self.limit:
            return Activation(value, None, self.folder is not None)
        self.files += 1
        activation = Activation(value, self.folder / f"{self.files}.safetensors", True)
        activation.write(value)
        return activation


class Activation:
    """One tensor that is read and replaced as a whole.

    Args:
        value: The tensor; not kept when there is a path.
        path: File to keep it in; None keeps it in memory.
        on_cpu: Whether to hold it in the CPU's memory wherever it was computed.
    """

    def __init__(self, value: torch.Tensor, path: Path | None, on_cpu: bool) -> None:
        self.path = path
        self.on_cpu = on_cpu
        self.nbytes = value.nbytes
        self._value = None if path else value.cpu() if on_cpu else value

    def read(self, device: torch.device) -> torch.Tensor:
        """Return the tensor on a device."""
        value = self._value if self.path is None else load_file(self.path)["hidden"]
        return value.to(device)

    def write(self, value: torch.Tensor) -> None:
        """Replace the tensor.

        Raises:
            OutputError: The disk is full.
        """
        if self.path is None:
            self._value = value.cpu() if self.on_cpu else value
            return
        try:
            save_file({"hidden": value.cpu().contiguous()}, self.path)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"cannot keep activations in {self.path.parent}: {error}.") from error
