"""Sixteen numbers at a time in Numba's loops, where LLVM does not find the vectors itself or finds poor ones.

A compiled function (`alexnet.kernels.jit`) calls `load` and `store` and computes in between with + - * / and the
functions below, on vectors and single numbers. LLVM makes them into whatever vectors the machine has: one of AVX-512's,
or several, whose computations then overlap.

Arrays are one-dimensional: float32, float64, or 16 bits wide, which NumPy and Numba know no arithmetic for: uint16
holds bfloat16, int16 holds float16. The latter are float32 in vectors, and are rounded to the nearest, ties to even,
when stored; a processor that rounds to bfloat16 itself makes subnormal numbers zeros. Vectors of uint8 hold names of
things: they are chosen among and compared, not computed with.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import extending
from numba.core import cgutils, types
from numba.extending import models, overload, register_model

from alexnet.kernels.compile import jit

LANES = 16
intrinsic: Any = extending.intrinsic  # its own type says that the first argument, the context, is to be given

_I16, _I32, _F32 = (ir.VectorType(lane, LANES) for lane in (ir.IntType(16), ir.IntType(32), ir.FloatType()))
Code = tuple[Any, Callable[..., Any]]  # what an intrinsic returns: its signature, and what writes its instructions


class Vector(types.Type):
    """The type of LANES numbers of type `lane`."""

    def __init__(self, lane: Any) -> None:
        self.lane = lane
        super().__init__(f"vector({lane})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        lane = {types.float64: ir.DoubleType(), types.uint8: ir.IntType(8)}.get(vector.lane, ir.FloatType())
        super().__init__(manager, vector, ir.VectorType(lane, LANES))


def _held(number: Any) -> Vector:
    """The vector that numbers of a type are loaded as."""
    return Vector(number if number in (types.float64, types.uint8) else types.float32)


def _all(vector: Any, value: float) -> ir.Constant:
    return ir.Constant(vector, [value] * LANES)


def _spread(builder: Any, value: Any) -> Any:
    """A vector of which every number is `value`."""
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, _all(_I32, 0))


def _from_float16(builder: Any, half: Any) -> Any:
    """Bits of float16, as 32-bit numbers, -> float32: the exponent is moved by a multiplication, subnormals too."""
    rest = builder.shl(builder.and_(half, _all(_I32, 0x7FFF)), _all(_I32, 13))
    finite = builder.bitcast(builder.fmul(builder.bitcast(rest, _F32), _all(_F32, 2.0**112)), _I32)
    is_finite = builder.icmp_unsigned("<", rest, _all(_I32, 0x7C00 << 13))
    bits = builder.select(is_finite, finite, builder.or_(rest, _all(_I32, 0x7F800000)))
    sign = builder.shl(builder.and_(half, _all(_I32, 0x8000)), _all(_I32, 16))
    return builder.bitcast(builder.or_(bits, sign), _F32)


def _to_float16(builder: Any, value: Any) -> Any:
    """float32 -> bits of float16, as 32-bit numbers."""
    bits = builder.bitcast(value, _I32)
    sign = builder.and_(bits, _all(_I32, 0x80000000))
    rest = builder.xor(bits, sign)
    odd = builder.and_(builder.lshr(rest, _all(_I32, 13)), _all(_I32, 1))
    moved = builder.add(builder.add(rest, odd), _all(_I32, (0xFFF - (112 << 23)) & 0xFFFFFFFF))
    normal = builder.lshr(moved, _all(_I32, 13))
    # Below float16's normal numbers the addition of 1/2 rounds at the right bit.
    half = builder.bitcast(builder.fadd(builder.bitcast(rest, _F32), _all(_F32, 0.5)), _I32)
    small = builder.sub(half, _all(_I32, 0x3F000000))
    result = builder.select(builder.icmp_unsigned("<", rest, _all(_I32, 113 << 23)), small, normal)
    is_nan = builder.icmp_unsigned(">", rest, _all(_I32, 0x7F800000))
    large = builder.select(is_nan, _all(_I32, 0x7E00), _all(_I32, 0x7C00))
    result = builder.select(builder.icmp_unsigned(">=", rest, _all(_I32, 0x47800000)), large, result)
    return builder.or_(result, builder.lshr(sign, _all(_I32, 16)))


class _BFloat16(ir.Type):
    """LLVM's type, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


def _to_bfloat16(builder: Any, value: Any) -> Any:
    """float32 -> bits of bfloat16, as 32-bit numbers."""
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _all(_I32, 16)), _all(_I32, 1))
    rounded = builder.lshr(builder.add(builder.add(bits, odd), _all(_I32, 0x7FFF)), _all(_I32, 16))
    return builder.select(builder.fcmp_unordered("uno", value, value), _all(_I32, 0x7FC0), rounded)


def _unpack(builder: Any, array: Any, stored: Any) -> Any:
    if array.dtype == types.uint16:
        return builder.bitcast(builder.shl(builder.zext(stored, _I32), _all(_I32, 16)), _F32)
    return _from_float16(builder, builder.zext(stored, _I32)) if array.dtype == types.int16 else stored


def _rounds_to_bfloat16(context: Any) -> bool:
    """Whether the processor that code is made for does, and LLVM knows how to ask it; else it would call a function."""
    _, _, features = context.codegen().magic_tuple()
    return binding.llvm_version_info[0] >= 20 and "+avx512bf16" in features


def _pack(context: Any, builder: Any, array: Any, value: Any) -> Any:
    if array.dtype == types.uint16:
        if _rounds_to_bfloat16(context):
            return builder.bitcast(builder.fptrunc(value, ir.VectorType(_BFloat16(), LANES)), _I16)
        return builder.trunc(_to_bfloat16(builder, value), _I16)
    return builder.trunc(_to_float16(builder, value), _I16) if array.dtype == types.int16 else value


def _place(context: Any, builder: Any, array: Any, memory: Any, index: Any) -> tuple[Any, Any, Any, int]:
    """The address of an array's element, the same as a vector's, that vector's type, and the element's bytes."""
    one = builder.gep(context.make_array(array)(context, builder, memory).data, [index])
    kind = ir.VectorType(context.get_data_type(array.dtype), LANES)
    return one, builder.bitcast(one, kind.as_pointer()), kind, array.dtype.bitwidth // 8


@jit
def lanes(rest, whole):  # type: ignore[no-untyped-def]
    """How many of a vector's numbers to load or store: those that there are, `rest`, or all where the tuple `whole` has
    an entry, so that it is known when the loop is compiled."""
    return LANES if len(whole) == 1 else rest


@intrinsic
def load(_context: Any, array: Any, index: Any, count: Any) -> Code:  # noqa: ARG001 (Numba gives all)
    """The numbers array[index : index + LANES]; zeros from the `count`th on."""
    result = _held(array.dtype)

    def code(context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        memory, at, number = arguments
        one, many, kind, size = _place(context, builder, array, memory, at)
        part = cgutils.alloca_once(builder, kind)
        with builder.if_else(builder.icmp_signed(">=", number, number.type(LANES))) as (whole, rest):
            with whole:
                all_of_it = builder.load(many, align=size)
                from_whole = builder.block
            with rest:
                builder.store(ir.Constant(kind, [0] * LANES), part)
                lanes = builder.bitcast(part, one.type)
                with cgutils.for_range(builder, number) as loop:
                    builder.store(builder.load(builder.gep(one, [loop.index])), builder.gep(lanes, [loop.index]))
                some_of_it = builder.load(part)
                from_rest = builder.block
        stored = builder.phi(kind)
        stored.add_incoming(all_of_it, from_whole)
        stored.add_incoming(some_of_it, from_rest)
        return _unpack(builder, array, stored)

    return result(array, types.intp, types.intp), code


@intrinsic
def store(_context: Any, array: Any, index: Any, value: Any, count: Any) -> Code:  # noqa: ARG001
    """array[index : index + LANES] = value; the first `count` of them only."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        memory, at, numbers, number = arguments
        one, many, kind, size = _place(context, builder, array, memory, at)
        packed = _pack(context, builder, array, numbers)
        part = cgutils.alloca_once(builder, kind)
        with builder.if_else(builder.icmp_signed(">=", number, number.type(LANES))) as (whole, rest):
            with whole:
                builder.store(packed, many, align=size)
            with rest:
                builder.store(packed, part)
                lanes = builder.bitcast(part, one.type)
                with cgutils.for_range(builder, number) as loop:
                    builder.store(builder.load(builder.gep(lanes, [loop.index])), builder.gep(one, [loop.index]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value, types.intp), code


@intrinsic
def fetch(_context: Any, array: Any, index: Any) -> Code:  # noqa: ARG001
    """Ask for array[index] to be brought to the cache; it need not exist."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        one, *_ = _place(context, builder, array, *arguments)
        flag = ir.IntType(32)
        address = builder.bitcast(one, ir.IntType(8).as_pointer())
        signature = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        builder.call(function, [address, flag(0), flag(3), flag(1)])  # to read; to keep; data
        return context.get_dummy_value()

    return types.void(array, types.intp), code


def _lanewise(write: Callable[..., Any], *groups: Sequence[Any]) -> Code:
    """An intrinsic on vectors and numbers; `write(builder, *vectors)` its instructions.

    Args:
        groups: The types of the arguments, those that are to be alike together, at least one of each a vector. The
            result is like the last.
    """
    alike = [next(argument for argument in group if isinstance(argument, Vector)) for group in groups]
    given = [(argument, kind) for group, kind in zip(groups, alike, strict=True) for argument in group]

    def code(_context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        vectors = (
            value if isinstance(kind, Vector) else _spread(builder, value)
            for kind, value in zip(signature.args, values, strict=True)
        )
        return write(builder, *vectors)

    return alike[-1](*(argument if isinstance(argument, Vector) else kind.lane for argument, kind in given)), code


def _by_name(name: str) -> Callable[..., Any]:
    """What writes a call of LLVM's function of this name."""

    def write(builder: Any, *vectors: Any) -> Any:
        kind = vectors[0].type
        suffix = "f64" if isinstance(kind.element, ir.DoubleType) else "f32"
        signature = ir.FunctionType(kind, [kind] * len(vectors))
        function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{LANES}{suffix}")
        return builder.call(function, vectors)

    return write


def _operator(function: Callable[..., Any], write: Callable[..., Any]) -> None:
    """Give an operator of two arguments its meaning where either is a vector."""

    @intrinsic
    def operation(_context: Any, a: Any, b: Any) -> Code:
        return _lanewise(write, (a, b))

    @overload(function, strict=False)  # so that it may have annotations
    def chosen(a: Any, b: Any) -> Callable[..., Any] | None:
        if isinstance(a, Vector) or isinstance(b, Vector):
            return lambda a, b: operation(a, b)
        return None


_operator(operator.add, ir.IRBuilder.fadd)
_operator(operator.sub, ir.IRBuilder.fsub)
_operator(operator.mul, ir.IRBuilder.fmul)
_operator(operator.truediv, ir.IRBuilder.fdiv)
_operator(operator.pow, _by_name("pow"))


# What makes the greatest error of `guess` smallest, |1 - a * guess**4| < 0.124, found by trying all for float32; in
# float64 the exponent has another offset and lies further left.
_GUESS = {ir.FloatType(): 0x4F581893, ir.DoubleType(): (0x4F581893 + ((1023 - 127) * 5 << 21)) << 29}


@intrinsic
def guess(_context: Any, a: Any) -> Code:
    """a**-0.25 of positive finite numbers, to 4 %: an exponent's quarter is a shift of the bits that hold it."""

    def write(builder: Any, a: Any) -> Any:
        bits = ir.VectorType(ir.IntType(32 if a.type == _F32 else 64), LANES)
        quarter = builder.lshr(builder.bitcast(a, bits), _all(bits, 2))
        return builder.bitcast(builder.sub(_all(bits, _GUESS[a.type.element]), quarter), a.type)

    return _lanewise(write, (a,))


@intrinsic
def fused(_context: Any, a: Any, b: Any, c: Any) -> Code:
    """a * b + c, rounded once."""
    return _lanewise(_by_name("fma"), (a, b, c))


@intrinsic
def around(_context: Any, before: Any, here: Any, after: Any, first: Any, size: Any) -> Code:
    """The sums of numbers side by side in three vectors: for each of `here`, `size` numbers from `first` before it on.

    Args:
        first, size: Tuples of that length, so that they are known when the loop is compiled; no window may reach
            further than the vectors beside.
    """

    def code(_context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        left, middle, right, *_ = arguments
        total = None
        for start in range(-len(first), len(size) - len(first)):
            a, b, offset = (left, middle, start + LANES) if start < 0 else (middle, right, start)
            shifted = builder.shuffle_vector(a, b, ir.Constant(_I32, list(range(offset, offset + LANES))))
            total = shifted if total is None else builder.fadd(total, shifted)
        return total

    return here(before, here, after, first, size), code


@intrinsic
def every(_context: Any, value: Any) -> Code:
    """The vector of which every number is `value`, of its type."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        return _spread(builder, arguments[0])

    return _held(value)(value), code


@intrinsic
def at_least(_context: Any, a: Any, low: Any) -> Code:
    """`low` where a is below it; NaN stays."""

    def write(builder: Any, a: Any, low: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", a, low), low, a)

    return _lanewise(write, (a, low))


@intrinsic
def first_of(_context: Any, value: Any, count: Any) -> Code:  # noqa: ARG001
    """`value`, but zero from the `count`th number on."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Sequence[Any]) -> Any:
        vector, number = arguments
        places = ir.Constant(_I32, list(range(LANES)))
        kept = builder.icmp_signed("<", places, _spread(builder, builder.trunc(number, ir.IntType(32))))
        return builder.select(kept, vector, _all(vector.type, 0.0))

    return value(value, types.intp), code


@intrinsic
def where_above(_context: Any, a: Any, low: Any, value: Any) -> Code:
    """`value`, but zero where a <= low."""

    def write(builder: Any, a: Any, low: Any, value: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<=", a, low), _all(value.type, 0.0), value)

    return _lanewise(write, (a, low, value))


@intrinsic
def where_named(_context: Any, names: Any, name: Any, value: Any) -> Code:
    """`value` where a vector of uint8 is `name`, zero elsewhere."""

    def write(builder: Any, names: Any, name: Any, value: Any) -> Any:
        return builder.select(builder.icmp_unsigned("==", names, name), value, _all(value.type, 0.0))

    return _lanewise(write, (names, name), (value,))


@intrinsic
def if_greater(_context: Any, a: Any, b: Any, yes: Any, no: Any) -> Code:
    """`yes` where a > b or a is NaN, `no` elsewhere."""

    def write(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
        greater = builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a))
        return builder.select(greater, yes, no)

    return _lanewise(write, (a, b), (yes, no))
