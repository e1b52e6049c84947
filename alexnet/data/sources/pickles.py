"""Read the plain data in a pickle without running it: numbers, text, lists, dictionaries and arrays of integers.

A pickle is a program that may import and call anything. Here its operations are listed by the standard library, which
runs none of them, and only those that build plain data are followed. Of the functions that a pickle names, the few that
NumPy's arrays need are known by their names and replaced by this module's own; any other name is an error.
"""

import pickletools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
_FUNCTIONS = {
    **dict.fromkeys(((module, "_reconstruct") for module in _NUMPY_MODULES), "new array"),
    **dict.fromkeys(((module, "_frombuffer") for module in _NUMERIC_MODULES), "array"),
    ("numpy", "ndarray"): "array type",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "bytes",  # Python 3 writes bytes so for Python 2
}
_DTYPES = frozenset(("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "uint8", "b1"))

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_STRINGS = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))  # of Python 2: bytes
_MEMO_READS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_MEMO_WRITES = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_MARK = object()


class _Function(NamedTuple):
    """A function or type that the pickle names: one of the values of `_FUNCTIONS`."""

    meaning: str


class _Dtype:
    """The type of an array's numbers."""

    def __init__(self, name: object) -> None:
        name = name.decode("latin-1") if isinstance(name, bytes) else name
        if name not in _DTYPES:
            raise ValueError(f"an array must be of integers; got numbers of type {name!r}")
        self.value = np.dtype(str(name))

    def set_state(self, state: Any) -> None:
        """Set the byte order, the second of the pickled attributes."""
        if state[1] in (">", b">"):
            self.value = self.value.newbyteorder(">")
        elif state[1] not in ("<", "|", "=", b"<", b"|", b"="):
            raise ValueError(f"a byte order must be '<', '>', '|' or '='; got {state[1]!r}")


class _Array:
    """An array, which is without contents until its state is set."""

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value

    def set_state(self, state: Any) -> None:
        """Set shape, type, order and contents, the pickled attributes after a version."""
        _, shape, dtype, is_fortran, contents = state
        self.value = _build_array(contents, dtype, shape, "F" if is_fortran else "C")


def read_pickle(contents: bytes) -> Any:
    """Return the plain data in a pickle. Strings of Python 2 are bytes.

    Args:
        contents: The pickle. Nothing in it is imported or called.

    Raises:
        ValueError: It is damaged, or contains anything but plain data; a function that it names is in the message.
    """
    reader = _Reader()
    try:
        for name, argument in _operations(contents):
            reader.run(name, argument)
        (value,) = reader.stack
    except (IndexError, KeyError, TypeError, OverflowError, AttributeError, RecursionError) as error:
        raise ValueError(f"a damaged pickle ({type(error).__name__}: {error}); download it again") from error
    return _unwrap(value)


def _operations(contents: bytes) -> Iterator[tuple[str, Any]]:
    """Yield the name of each operation of a pickle and its argument."""
    operations = pickletools.genops(contents)
    while True:
        try:
            operation, argument, _ = next(operations)
        except StopIteration:
            return
        except ValueError as error:
            raise ValueError(f"a damaged pickle ({error}); download it again") from error
        yield operation.name, argument


class _Reader:
    """Follows the operations of a pickle that build plain data."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Follow one operation.

        Raises:
            ValueError: The operation does not build plain data.
        """
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _STRINGS:
            stack.append(argument.encode("latin-1"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name in _MEMO_READS:
            stack.append(self._memo[int(argument)])
        elif name in _MEMO_WRITES:
            self._memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name == "MARK":
            stack.append(_MARK)
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._run_on_stack(name, argument)

    def _run_on_stack(self, name: str, argument: Any) -> None:
        """Follow an operation that takes values from the stack."""
        stack = self.stack
        if name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("TUPLE", "LIST"):
            values = self._pop_to_mark()
            stack.append(tuple(values) if name == "TUPLE" else values)
        elif name in ("APPEND", "APPENDS"):
            values = [stack.pop()] if name == "APPEND" else self._pop_to_mark()
            _require_type(stack[-1], list).extend(values)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            values = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._pop_to_mark()
            if name == "DICT":
                stack.append({})
            _require_type(stack[-1], dict).update(zip(values[::2], values[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_find_function(*argument.split(" ")))
        elif name == "STACK_GLOBAL":
            function = stack.pop()
            stack.append(_find_function(_require_type(stack.pop(), str), _require_type(function, str)))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_call(stack.pop(), _require_type(arguments, tuple)))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], (_Array, _Dtype)):
                raise ValueError("a pickle must contain plain data only; it sets the state of another object")
            stack[-1].set_state(state)
        else:
            raise ValueError(f"a pickle must contain plain data only; it has the operation {name}")

    def _pop_to_mark(self) -> list[Any]:
        """Remove and return the values after the last mark."""
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise IndexError("no mark")
        values = self.stack[position + 1 :]
        del self.stack[position:]
        return values


def _require_type(value: Any, expected: type) -> Any:
    """Return the value if it is of the expected type.

    Raises:
        TypeError: It is of another type.
    """
    if type(value) is not expected:
        raise TypeError(f"a {expected.__name__} was expected, not a {type(value).__name__}")
    return value


def _find_function(module: str, name: str) -> _Function:
    """Return what stands for a function or type.

    Raises:
        ValueError: It is none of those that arrays need.
    """
    if (module, name) not in _FUNCTIONS:
        raise ValueError(
            f"a pickle must contain plain data only; this one asks for {module[:80]}.{name[:80]}, which was not run: "
            "do not use the file, and tell where it comes from"
        )
    return _Function(_FUNCTIONS[module, name])


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Return what one of the functions that arrays need would return."""
    meaning = function.meaning if isinstance(function, _Function) else None
    if meaning == "new array" and arguments[0] == _Function("array type"):
        return _Array()
    if meaning == "dtype":
        return _Dtype(arguments[0])
    if meaning == "array":
        return _Array(_build_array(*arguments))
    if meaning == "bytes" and arguments[1:] in (("latin1",), ("latin-1",)):
        return arguments[0].encode("latin-1")
    raise ValueError("a pickle must contain plain data only; it calls a function with other arguments than arrays have")


def _build_array(contents: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """Return an array, a view of its contents.

    Raises:
        ValueError: The contents are no bytes, or of another size.
    """
    if not isinstance(contents, (bytes, bytearray)) or not isinstance(dtype, _Dtype):
        raise ValueError("an array must have bytes and a type of numbers")
    return np.frombuffer(contents, dtype.value).reshape(shape, order="F" if order == "F" else "C")


def _unwrap(value: Any) -> Any:
    """Return arrays in place of what stands for them: the value itself, or the values of a dictionary."""
    if isinstance(value, dict):
        return {key: _unwrap(item) if isinstance(item, _Array) else item for key, item in value.items()}
    return value.value if isinstance(value, _Array) else value
