"""Pickles of arrays, read without trusting them: CIFAR's batches are such.

pickle's own reader builds what a file asks for. Even if that is confined to NumPy's arrays, a file can give a dtype
a state of its own and make NumPy follow a pointer. So nothing of NumPy's is built here before all of it was checked.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Refused", "read_pickle"]

_TYPES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT "
    "BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES "
    "BINBYTES8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS "
    "GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD"
)


class Refused(Exception):
    """A pickle asks for something that a file of arrays does not hold."""


def read_pickle(content: bytes) -> Any:
    """Return what a pickle holds: dicts, lists, tuples, text, bytes, numbers, None, and, as the whole or in its
    dict, arrays of plain numbers.

    Raises:
        Refused: It wants anything else; none of it has run.
        Exception: It is damaged, and raises whatever it does.
    """
    reader = _Reader(io.BytesIO(content), encoding="latin1")
    reader.budget = 2 * len(content) + 2**20  # what is made of a file's text is as long; a memo could multiply it
    return _finished(reader.load())


class _Dtype:
    """A dtype to be: what NumPy's pickles say of it, which must be no more than its name and byte order."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not _TYPES.fullmatch(name):
            raise Refused(f"it wants numpy.dtype({name!r:.60}), and a data file may hold arrays of plain numbers only")
        self.name = name

    def set(self, state: Any) -> None:
        _expect(isinstance(state, tuple) and len(state) == 8 and state[0] == 3, "dtype")
        _expect(state[1] in ("<", ">", "|", "=") and state[2:5] == (None, None, None) and state[5:] == (-1, -1, 0), "dtype")
        self.name = state[1] + self.name.lstrip("<>|=")


class _Array:
    """An array to be, empty as ``_reconstruct`` makes it, or filled at once."""

    def __init__(self, *content: Any) -> None:
        self.value: NDArray[Any] | None = None
        if content:
            self.fill(*content)

    def set(self, state: Any) -> None:
        _expect(isinstance(state, tuple) and len(state) == 5 and state[0] == 1, "ndarray")
        self.fill(state[4], state[2], state[1], "F" if state[3] else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any = "C") -> None:
        data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 wrote bytes
        _expect(isinstance(dtype, _Dtype) and isinstance(data, bytes) and order in ("C", "F"), "ndarray")
        _expect(isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 8, "ndarray")
        _expect(len(data) == math.prod(shape) * np.dtype(dtype.name).itemsize, "ndarray")
        self.value = np.frombuffer(data, np.dtype(dtype.name)).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    value: int | float | bool = _finished(_Array(data, dtype, ())).item()
    return value


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    _expect(isinstance(text, str) and encoding == "latin1", "_codecs.encode")
    return str(text).encode("latin1")


class _Function(NamedTuple):
    """What a pickle may call, and can do nothing else with."""

    call: Callable[..., Any]


_NUMPY = {
    "ndarray": _Function(lambda *_: _expect(False, "ndarray")),  # is named only as what _reconstruct is to make
    "dtype": _Function(_Dtype),
    "_reconstruct": _Function(lambda *_: _Array()),
    "_frombuffer": _Function(_Array),
    "scalar": _Function(_scalar),
}
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


class _Opcodes(dict[int, Any]):
    def __missing__(self, opcode: int) -> Any:
        raise Refused(f"it has opcode {opcode}, which no file of arrays needs")


_PurePython: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Reader(_PurePython):  # type: ignore[misc]
    """pickle's reader in Python, whose opcodes can be chosen: the one in C trusts sizes and nests without end."""

    stack: Any

    dispatch = _Opcodes(
        (opcode[0], _PurePython.dispatch[opcode[0]]) for opcode in (getattr(pickle, name) for name in _OPCODES.split())
    )

    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _NUMPY:
            return _NUMPY[name]
        if (module, name) == ("_codecs", "encode"):
            return _Function(_encoded)
        wanted = f"{module}.{name}"
        raise Refused(f"it wants {wanted!r:.80}, and a data file may hold arrays, lists, text and numbers only")

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        _expect(isinstance(function, _Function) and isinstance(arguments, tuple), "call")
        self.stack[-1] = made = function.call(*arguments)
        self._spend(len(made) if isinstance(made, bytes) else 0)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        _expect(isinstance(target, _Dtype | _Array), "object")
        target.set(state)
        self._spend(target.value.nbytes if isinstance(target, _Array) and target.value is not None else 0)

    def _spend(self, size: int) -> None:
        self.budget -= size
        _expect(self.budget >= 0, "file")

    def load_bytearray8(self) -> None:  # pickle's own makes an array of the size that is named before it reads
        size = int.from_bytes(self.read(8), "little")
        data = self.read(size)
        _expect(len(data) == size, "bytearray")
        self.append(data)

    def load_setitems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        # A tuple of tuples of tuples, each twice, takes as long to hash as it likes.
        _expect(type(target) is dict and all(type(key) in (str, bytes, int) for key in items[::2]), "dict")
        target.update(zip(items[::2], items[1::2], strict=True))

    def load_setitem(self) -> None:
        self.metastack.append(self.stack[:-2])
        self.stack = self.stack[-2:]
        self.load_setitems()

    def load_dict(self) -> None:
        self.metastack[-1].append({})
        self.load_setitems()

    dispatch |= {
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
    }


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(f"it gives a {what} a content that no data file has")


def _finished(value: Any) -> Any:
    """Return a value with its array, or those of its dict, in place of what stood for them."""
    if isinstance(value, _Array):
        _expect(value.value is not None, "ndarray")
        return value.value
    if type(value) is dict:
        return {key: _finished(item) if isinstance(item, _Array) else item for key, item in value.items()}
    return value
