"""Compile Triton's kernels for an H200 on any machine, and print what the machine code has, as JSON.

    python tests/kernels/compile_for_h200.py

A script, since Triton's own functions are interpreted for good in a process that has once used its interpreter.
"""

import json
import os
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from alexnet.kernels import (
    dropout_triton,
    map_norm_triton,
    pool_triton,
    response_norm_triton,
    space_to_depth_triton,
    update_triton,
)

H200 = GPUTarget("cuda", 90, 32)  # as an H100
ALIGNED = [["tt.divisibility", 16]]


def ptx_of(kernel: Any, types: dict[str, Any], constants: dict[str, Any], aligned: tuple[str, ...] = ()) -> str:
    """Return a kernel's code in PTX.

    Args:
        kernel: The kernel.
        types: Types of arguments; the others are 32-bit integers.
        constants: Arguments that are constant; names that the kernel does not have are ignored.
        aligned: Arguments that 16 divides.
    """
    index = {name: (i,) for i, name in enumerate(kernel.arg_names)}
    constants = {name: value for name, value in constants.items() if name in index}
    types = dict.fromkeys(index, "i32") | types | dict.fromkeys(constants, "constexpr")
    signature = {name: types[name] for name in index}
    fixed = {index[name]: value for name, value in constants.items()}
    attributes = {index[name]: ALIGNED for name in aligned if name in index}
    return str(triton.compile(ASTSource(kernel, signature, fixed, attributes), target=H200).asm["ptx"])


def compile_pool() -> list[str]:
    """Return the code of max pooling, forward and backward, of the paper's first layer."""
    sizes = {"height": 55, "width": 55, "out_height": 27, "out_width": 27, "channels": 96, "size": 3, "stride": 2}
    types = dict.fromkeys(("x", "y", "g", "dx"), "*bf16") | {"winners": "*u8"}
    kernels = (pool_triton.forward_kernel, pool_triton.backward_kernel)
    return [ptx_of(kernel, types, sizes | {"positions": 32, "block": 32}, tuple(types)) for kernel in kernels]


def compile_space_to_depth() -> list[str]:
    """Return the code that cuts the paper's pictures into squares."""
    sizes = {"height": 224, "width": 224, "channels": 3, "rows": 57, "columns": 57, "side": 4}
    kernel, types = space_to_depth_triton.space_to_depth_kernel, {"x": "*bf16", "y": "*bf16"}
    return [ptx_of(kernel, types, sizes | {"vectors": 256, "length": 4}, ("x", "y"))]


def compile_dropout() -> list[str]:
    """Return the code of dropout in bfloat16 and in float32."""
    constants = {"SHIFT": 0, "QUADS": dropout_triton.QUADS, "column_stride": 1}
    aligned = ("x", "y", "columns", "row_stride")
    types = {"key": "*i64", "threshold": "i64"}
    return [
        ptx_of(dropout_triton.dropout_kernel, types | {"x": number, "y": number}, constants, aligned)
        for number in ("*bf16", "*fp32")
    ]


def compile_response_norm() -> list[str]:
    """Return the code of response normalisation, forward and backward."""
    constants = {"before": 2, "after": 2, "relu": True, "square_roots": True, "rows": 16, "padded": 64}
    types = dict.fromkeys(("x", "y", "g", "dx"), "*bf16") | dict.fromkeys(("k", "alpha", "beta"), "fp32")
    kernels = (response_norm_triton.forward_kernel, response_norm_triton.backward_kernel)
    return [ptx_of(kernel, types, constants) for kernel in kernels]


def compile_map_norm() -> list[str]:
    """Return the code of normalisation within maps: forward, and backward in two kernels."""
    constants = {"before": 2, "after": 2, "square_roots": True, "block": 1024}
    types = dict.fromkeys(("x", "y", "g", "dx"), "*bf16") | dict.fromkeys(("direct", "terms"), "*fp32")
    types |= dict.fromkeys(("k", "alpha", "beta", "factor"), "fp32")
    kernels = (
        map_norm_triton.forward_kernel,
        map_norm_triton.backward_terms_kernel,
        map_norm_triton.backward_sums_kernel,
    )
    return [ptx_of(kernel, types, constants) for kernel in kernels]


def compile_update() -> list[str]:
    """Return the code of the update of three parameters, with products that are fused with sums and without."""
    signature: dict[str, Any] = dict.fromkeys(("weights", "velocities", "gradients"), ("*fp32",) * 3)
    signature |= {"coefficients": ("*fp64",) * 3, "sizes": ("i32",) * 3}
    signature |= {"COUNT": "constexpr", "BLOCK": "constexpr"}
    attributes = {(i, j): ALIGNED for i in (0, 1, 2, 4) for j in range(3)}
    source = ASTSource(update_triton.update_kernel, signature, {(5,): 3, (6,): update_triton.BLOCK}, attributes)
    options = ({"enable_fp_fusion": fused} for fused in (True, False))
    return [str(triton.compile(source, target=H200, options=option).asm["ptx"]) for option in options]


def describe(ptx: str) -> dict[str, Any]:
    """Return what the tests ask of a kernel's code."""
    return {
        "loads": sorted({word for word in ptx.split() if word.startswith("ld.global.")}),
        "stores": sorted({word for word in ptx.split() if word.startswith("st.global.")}),
        "vector loads": ptx.count("ld.global.v4"),
        "fused": ptx.count("fma.rn.f32"),
        "shared memory": "shared" in ptx,
    }


if __name__ == "__main__":
    compiled = {
        "pool": compile_pool(),
        "space_to_depth": compile_space_to_depth(),
        "dropout": compile_dropout(),
        "response_norm": compile_response_norm(),
        "map_norm": compile_map_norm(),
        "update": compile_update(),
    }
    print(json.dumps({name: [describe(ptx) for ptx in kernels] for name, kernels in compiled.items()}))
