"""Vectors of sixteen numbers for Numba's loops, where LLVM does not vectorise by itself or does it badly.

A compiled function (`alexnet.kernels.compile.jit`) calls `load` and `store`. In between it computes with + - * / and
the functions below, on vectors and single numbers. LLVM maps them to the vector registers of the machine: one of
AVX-512, or several smaller ones, whose computations then overlap.

Arrays are one-dimensional: float32, float64, or 16 bits wide. NumPy and Numba have no arithmetic for 16-bit floats:
uint16 holds bfloat16, int16 holds float16. In vectors these are float32; `store` rounds to the nearest, ties to even. A
processor that rounds to bfloat16 itself makes subnormal numbers zero. Vectors of uint8 hold indices: they are selected
and compared, not computed with.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import extending
from numba.core import cgutils, types
from numba.extending import models, overload, register_model

from alexnet.kernels.compile import constexpr, jit_without_wrapper

LANES = 16  # numbers of a vector
_intrinsic: Any = extending.intrinsic  # its own type asks callers for the first argument, the context

_I16, _I32, _F32 = (ir.VectorType(lane, LANES) for lane in (ir.IntType(16), ir.IntType(32), ir.FloatType()))
Code = tuple[Any, Callable[..., Any]]  # what an intrinsic returns: its signature and the function that emits its code


class _Vector(types.Type):
    """The Numba type of a vector: LANES numbers of type `lane`."""

    def __init__(self, lane: Any) -> None:
        self.lane = lane
        super().__init__(f"vector({lane})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: _Vector) -> None:
        lane = {types.float64: ir.DoubleType(), types.uint8: ir.IntType(8)}.get(vector.lane, ir.FloatType())
        super().__init__(manager, vector, ir.VectorType(lane, LANES))


def _vector_of(number: Any) -> _Vector:
    """Return the type of the vector that numbers of an array's type are loaded as."""
    return _Vector(number if number in (types.float64, types.uint8) else types.float32)


def _constant(vector: Any, value: float) -> ir.Constant:
    """Return the constant of a vector type whose numbers are all `value`."""
    return ir.Constant(vector, [value] * LANES)


def _broadcast(builder: Any, value: Any) -> Any:
    """Emit a vector whose numbers are all `value`."""
    first = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined), value, ir.IntType(32)(0)
    )
    return builder.shuffle_vector(first, first, _constant(_I32, 0))


def _from_float16(builder: Any, half: Any) -> Any:
    """Emit float32 from the bits of float16, in 32-bit integers; a product rebases exponents, subnormals too."""
    magnitude = builder.shl(builder.and_(half, _constant(_I32, 0x7FFF)), _constant(_I32, 13))
    finite = builder.bitcast(builder.fmul(builder.bitcast(magnitude, _F32), _constant(_F32, 2.0**112)), _I32)
    is_finite = builder.icmp_unsigned("<", magnitude, _constant(_I32, 0x7C00 << 13))
    bits = builder.select(is_finite, finite, builder.or_(magnitude, _constant(_I32, 0x7F800000)))
    sign = builder.shl(builder.and_(half, _constant(_I32, 0x8000)), _constant(_I32, 16))
    return builder.bitcast(builder.or_(bits, sign), _F32)


def _to_float16(builder: Any, value: Any) -> Any:
    """Emit the bits of float16, in 32-bit integers, from float32."""
    bits = builder.bitcast(value, _I32)
    sign = builder.and_(bits, _constant(_I32, 0x80000000))
    magnitude = builder.xor(bits, sign)
    odd = builder.and_(builder.lshr(magnitude, _constant(_I32, 13)), _constant(_I32, 1))
    rebased = builder.add(builder.add(magnitude, odd), _constant(_I32, (0xFFF - (112 << 23)) & 0xFFFFFFFF))
    normal = builder.lshr(rebased, _constant(_I32, 13))
    # Below float16's normal numbers, adding 1/2 rounds at the right bit.
    half = builder.bitcast(builder.fadd(builder.bitcast(magnitude, _F32), _constant(_F32, 0.5)), _I32)
    small = builder.sub(half, _constant(_I32, 0x3F000000))
    result = builder.select(builder.icmp_unsigned("<", magnitude, _constant(_I32, 113 << 23)), small, normal)
    is_nan = builder.icmp_unsigned(">", magnitude, _constant(_I32, 0x7F800000))
    large = builder.select(is_nan, _constant(_I32, 0x7E00), _constant(_I32, 0x7C00))
    result = builder.select(builder.icmp_unsigned(">=", magnitude, _constant(_I32, 0x47800000)), large, result)
    return builder.or_(result, builder.lshr(sign, _constant(_I32, 16)))


class _BFloat16(ir.Type):
    """LLVM's type bfloat, for which llvmlite has no class."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


def _to_bfloat16(builder: Any, value: Any) -> Any:
    """Emit the bits of bfloat16, in 32-bit integers, from float32."""
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _constant(_I32, 16)), _constant(_I32, 1))
    rounded = builder.lshr(builder.add(builder.add(bits, odd), _constant(_I32, 0x7FFF)), _constant(_I32, 16))
    return builder.select(builder.fcmp_unordered("uno", value, value), _constant(_I32, 0x7FC0), rounded)


def _unpack(builder: Any, array: Any, stored: Any) -> Any:
    """Emit the numbers to compute with from those stored in an array."""
    if array.dtype == types.uint16:
        return builder.bitcast(builder.shl(builder.zext(stored, _I32), _constant(_I32, 16)), _F32)
    return _from_float16(builder, builder.zext(stored, _I32)) if array.dtype == types.int16 else stored


def _rounds_to_bfloat16(context: Any) -> bool:
    """Return whether the target processor rounds to bfloat16 and LLVM can use that; else LLVM would call a function."""
    _, _, features = context.codegen().magic_tuple()
    return binding.llvm_version_info[0] >= 20 and "+avx512bf16" in features


def _pack(context: Any, builder: Any, array: Any, value: Any) -> Any:
    """Emit the numbers to store in an array from those computed with."""
    if array.dtype == types.uint16:
        if _rounds_to_bfloat16(context):
            return builder.bitcast(builder.fptrunc(value, ir.VectorType(_BFloat16(), LANES)), _I16)
        return builder.trunc(_to_bfloat16(builder, value), _I16)
    return builder.trunc(_to_float16(builder, value), _I16) if array.dtype == types.int16 else value


def _addresses(context: Any, builder: Any, array: Any, memory: Any, index: Any) -> tuple[Any, Any, Any, int]:
    """Emit the address of an array's element, as an element's and as a vector's.

    Returns:
        Both addresses, the type of the vector in memory, and the bytes of an element.
    """
    element = builder.gep(context.make_array(array)(context, builder, memory).data, [index])
    stored_type = ir.VectorType(context.get_data_type(array.dtype), LANES)
    return element, builder.bitcast(element, stored_type.as_pointer()), stored_type, array.dtype.bitwidth // 8


def full_vectors(count: int) -> tuple[int, ...]:
    """Return whether vectors divide a row of `count` numbers, 1 or 0, as a `constexpr`."""
    return constexpr(int(count % LANES == 0))


@jit_without_wrapper
def lane_count(remaining: int, full_vectors: tuple[int, ...]) -> int:
    """Return how many numbers of a vector to load or store.

    Args:
        remaining: Numbers that remain of the row.
        full_vectors: What `full_vectors` returns for the row: where vectors divide it the result is a constant, LANES.
    """
    return LANES if len(full_vectors) == 1 else remaining


@_intrinsic
def load(_context: Any, array: Any, index: Any, count: Any) -> Code:  # noqa: ARG001 (Numba passes all)
    """Return the numbers array[index : index + LANES]; zeros from the `count`th on."""
    result = _vector_of(array.dtype)

    def code(context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        memory, start, number = arguments
        element, vector, stored_type, size = _addresses(context, builder, array, memory, start)
        buffer = cgutils.alloca_once(builder, stored_type)
        with builder.if_else(builder.icmp_signed(">=", number, number.type(LANES))) as (full, partial):
            with full:
                full_vector = builder.load(vector, align=size)
                full_block = builder.block
            with partial:
                builder.store(ir.Constant(stored_type, [0] * LANES), buffer)
                lanes = builder.bitcast(buffer, element.type)
                with cgutils.for_range(builder, number) as loop:
                    builder.store(builder.load(builder.gep(element, [loop.index])), builder.gep(lanes, [loop.index]))
                partial_vector = builder.load(buffer)
                partial_block = builder.block
        stored = builder.phi(stored_type)
        stored.add_incoming(full_vector, full_block)
        stored.add_incoming(partial_vector, partial_block)
        return _unpack(builder, array, stored)

    return result(array, types.intp, types.intp), code


@_intrinsic
def store(_context: Any, array: Any, index: Any, value: Any, count: Any) -> Code:  # noqa: ARG001
    """Set array[index : index + LANES] = value; the first `count` of them only."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        memory, start, numbers, number = arguments
        element, vector, stored_type, size = _addresses(context, builder, array, memory, start)
        packed = _pack(context, builder, array, numbers)
        buffer = cgutils.alloca_once(builder, stored_type)
        with builder.if_else(builder.icmp_signed(">=", number, number.type(LANES))) as (full, partial):
            with full:
                builder.store(packed, vector, align=size)
            with partial:
                builder.store(packed, buffer)
                lanes = builder.bitcast(buffer, element.type)
                with cgutils.for_range(builder, number) as loop:
                    builder.store(builder.load(builder.gep(lanes, [loop.index])), builder.gep(element, [loop.index]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value, types.intp), code


@_intrinsic
def prefetch(_context: Any, array: Any, index: Any) -> Code:  # noqa: ARG001
    """Prefetch array[index] into the cache; the index may be beyond the array."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        element, *_ = _addresses(context, builder, array, *arguments)
        flag = ir.IntType(32)
        address = builder.bitcast(element, ir.IntType(8).as_pointer())
        signature = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        builder.call(function, [address, flag(0), flag(3), flag(1)])  # to read; to keep; data
        return context.get_dummy_value()

    return types.void(array, types.intp), code


def _elementwise(write: Callable[..., Any], *groups: Sequence[Any]) -> Code:
    """Return an intrinsic on vectors and numbers, which become vectors.

    Args:
        write: `write(builder, *vectors)` emits its instructions.
        groups: Types of the arguments. Those of a group have the same vector type; at least one of them is a vector.
            The result has the type of the last group.
    """
    vector_types = [next(argument for argument in group if isinstance(argument, _Vector)) for group in groups]
    arguments = [(argument, kind) for group, kind in zip(groups, vector_types, strict=True) for argument in group]

    def code(_context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        vectors = (
            value if isinstance(kind, _Vector) else _broadcast(builder, value)
            for kind, value in zip(signature.args, values, strict=True)
        )
        return write(builder, *vectors)

    signature = vector_types[-1](*(a if isinstance(a, _Vector) else kind.lane for a, kind in arguments))
    return signature, code


def _llvm_function(name: str) -> Callable[..., Any]:
    """Return a function that emits a call of LLVM's intrinsic of this name."""

    def write(builder: Any, *vectors: Any) -> Any:
        kind = vectors[0].type
        suffix = "f64" if isinstance(kind.element, ir.DoubleType) else "f32"
        signature = ir.FunctionType(kind, [kind] * len(vectors))
        function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{LANES}{suffix}")
        return builder.call(function, vectors)

    return write


def _overload_operator(function: Callable[..., Any], write: Callable[..., Any]) -> None:
    """Define an operator of two arguments where either is a vector."""

    @_intrinsic
    def operation(_context: Any, a: Any, b: Any) -> Code:
        return _elementwise(write, (a, b))

    @overload(function, strict=False)  # so that it may have annotations
    def overloaded(a: Any, b: Any) -> Callable[..., Any] | None:
        if isinstance(a, _Vector) or isinstance(b, _Vector):
            return lambda a, b: operation(a, b)
        return None


_overload_operator(operator.add, ir.IRBuilder.fadd)
_overload_operator(operator.sub, ir.IRBuilder.fsub)
_overload_operator(operator.mul, ir.IRBuilder.fmul)
_overload_operator(operator.truediv, ir.IRBuilder.fdiv)
_overload_operator(operator.pow, _llvm_function("pow"))


# These bits make the greatest error of the guess smallest, |1 - a * guess**4| < 0.124: found by trying all of them for
# float32. In float64 the exponent has another bias and is further left.
_GUESS_BITS = {ir.FloatType(): 0x4F581893, ir.DoubleType(): (0x4F581893 + ((1023 - 127) * 5 << 21)) << 29}


@_intrinsic
def guess_fourth_root(_context: Any, a: Any) -> Code:
    """Return a**-0.25 of positive finite numbers, to 4 %: shifting the exponent's bits by two divides it by four."""

    def write(builder: Any, a: Any) -> Any:
        bits = ir.VectorType(ir.IntType(32 if a.type == _F32 else 64), LANES)
        quarter = builder.lshr(builder.bitcast(a, bits), _constant(bits, 2))
        return builder.bitcast(builder.sub(_constant(bits, _GUESS_BITS[a.type.element]), quarter), a.type)

    return _elementwise(write, (a,))


@_intrinsic
def fma(_context: Any, a: Any, b: Any, c: Any) -> Code:
    """Return a * b + c, rounded once (fused multiply-add)."""
    return _elementwise(_llvm_function("fma"), (a, b, c))


@_intrinsic
def window_sums(_context: Any, before: Any, current: Any, after: Any, reach: Any, size: Any) -> Code:
    """Return the sum of a window for each number of `current`, in three consecutive vectors.

    Args:
        before, current, after: The vectors. No window may reach beyond them.
        reach: Numbers of the window before the current one, as a `constexpr`.
        size: Numbers of the window, as a `constexpr`.
    """

    def code(_context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        left, middle, right, *_ = arguments
        total = None
        for start in range(-len(reach), len(size) - len(reach)):
            a, b, offset = (left, middle, start + LANES) if start < 0 else (middle, right, start)
            shifted = builder.shuffle_vector(a, b, ir.Constant(_I32, list(range(offset, offset + LANES))))
            total = shifted if total is None else builder.fadd(total, shifted)
        return total

    return current(before, current, after, reach, size), code


@_intrinsic
def broadcast(_context: Any, value: Any) -> Code:
    """Return the vector whose numbers are all `value`, of its type."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        return _broadcast(builder, arguments[0])

    return _vector_of(value)(value), code


@_intrinsic
def maximum(_context: Any, a: Any, low: Any) -> Code:
    """Return a, but `low` where a is below it; NaN stays."""

    def write(builder: Any, a: Any, low: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", a, low), low, a)

    return _elementwise(write, (a, low))


@_intrinsic
def keep_first(_context: Any, value: Any, count: Any) -> Code:  # noqa: ARG001
    """Return `value`, but zero from the `count`th number on."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        vector, number = arguments
        indices = ir.Constant(_I32, list(range(LANES)))
        mask = builder.icmp_signed("<", indices, _broadcast(builder, builder.trunc(number, ir.IntType(32))))
        return builder.select(mask, vector, _constant(vector.type, 0.0))

    return value(value, types.intp), code


@_intrinsic
def where_above(_context: Any, a: Any, low: Any, value: Any) -> Code:
    """Return `value`, but zero where a <= low."""

    def write(builder: Any, a: Any, low: Any, value: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<=", a, low), _constant(value.type, 0.0), value)

    return _elementwise(write, (a, low, value))


@_intrinsic
def where_equal(_context: Any, indices: Any, index: Any, value: Any) -> Code:
    """Return `value` where a vector of uint8 equals `index`, zero elsewhere."""

    def write(builder: Any, indices: Any, index: Any, value: Any) -> Any:
        return builder.select(builder.icmp_unsigned("==", indices, index), value, _constant(value.type, 0.0))

    return _elementwise(write, (indices, index), (value,))


@_intrinsic
def where_greater(_context: Any, a: Any, b: Any, yes: Any, no: Any) -> Code:
    """Return `yes` where a > b or a is NaN, `no` elsewhere."""

    def write(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
        greater = builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a))
        return builder.select(greater, yes, no)

    return _elementwise(write, (a, b), (yes, no))
