"""Token ids and texts that stay where they are stored until they are looked at."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from typing_extensions import Self


if TYPE_CHECKING:
    import numpy as np


class TokenIds(Sequence[int]):
    """Token ids, equal to a tuple of them and hashed as it is, but read anew from where they are stored whenever they are used.

    How many there are is known without reading.

    Args:
        read: Returns them, int32 [tokens].
        length: How many there are.
    """

    __slots__ = ("_length", "_read")

    def __init__(self, read: "Callable[[], np.ndarray]", length: int) -> None:
        self._read = read
        self._length = length

    @classmethod
    def hold(cls, ids: Sequence[int]) -> Self:
        """Store ids in memory, in four bytes each."""
        import numpy as np  # not by processes that compare answers alone

        held = np.array(ids, np.int32)
        held.flags.writeable = False
        return cls(lambda: held, len(held))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> "int | TokenIds":
        if isinstance(index, slice):
            return type(self)(lambda: self._read()[index], len(range(*index.indices(self._length))))
        return int(self._read()[index])

    def __iter__(self) -> Iterator[int]:
        return iter(self._read().tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray":
        import numpy as np

        return np.array(self._read(), dtype, copy=True) if copy else np.asarray(self._read(), dtype)

    def __add__(self, after: Sequence[int]) -> tuple[int, ...]:
        return (*self, *after)

    def __radd__(self, before: Sequence[int]) -> tuple[int, ...]:
        return (*before, *self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple | TokenIds):
            return NotImplemented
        return len(self) == len(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"TokenIds({self._read()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).hold, (self._read(),)  # a copy in another process holds them


class StoredText:
    """A text, equal to the string of it and hashed as it is, but read anew whenever `str` asks for it.

    Args:
        read: Returns the text.
    """

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def __str__(self) -> str:
        return self._read()

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, str | StoredText) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return repr(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)
