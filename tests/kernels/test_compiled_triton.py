"""Triton's kernels compiled for an H200, which a machine without a GPU can do as well."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet.kernels.compile import has_triton

SCRIPT = Path(__file__).with_name("compile_for_h200.py")
pytestmark = [
    pytest.mark.skipif(not has_triton(), reason="triton is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux"),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What the code of each operation's kernels has."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}  # empty: it does compile
    result = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    contents: dict[str, list[dict[str, Any]]] = json.loads(result.stdout)
    return contents


def test_normalisation_compiles(compiled: dict[str, list[dict[str, Any]]]) -> None:
    kernels = compiled["response_norm"] + compiled["map_norm"]
    assert len(kernels) == 5
    for kernel in kernels:
        assert kernel["loads"]
        assert kernel["stores"]
        assert kernel["fused"] > 0


def test_max_pooling_loads_and_stores_vectors(compiled: dict[str, list[dict[str, Any]]]) -> None:
    for kernel in compiled["pool"]:
        assert "ld.global.v4.b32" in kernel["loads"]
        assert "st.global.v4.b32" in kernel["stores"]


def test_space_to_depth_loads_and_stores_vectors_only(compiled: dict[str, list[dict[str, Any]]]) -> None:
    (kernel,) = compiled["space_to_depth"]
    assert kernel["loads"] == ["ld.global.v2.b32"]
    assert kernel["stores"] == ["st.global.v2.b32"]


def test_dropout_moves_vectors_and_needs_no_shared_memory(compiled: dict[str, list[dict[str, Any]]]) -> None:
    kernels = compiled["dropout"]
    assert len(kernels) == 2
    for kernel in kernels:
        assert kernel["vector loads"] > 0
        assert kernel["stores"] == ["st.global.v4.b32"]
        assert not kernel["shared memory"]


def test_the_update_rounds_each_product_and_loads_vectors(compiled: dict[str, list[dict[str, Any]]]) -> None:
    fused, unfused = compiled["update"]
    assert fused["fused"] > 0  # without the option it would fuse
    assert unfused["fused"] == 0
    assert unfused["vector loads"] >= 9  # three tensors of three parameters, in vectors of four
