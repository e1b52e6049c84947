"""The model of scaling in benchmarks/scaling.py, against numbers computed by hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet.architecture import Net
from alexnet.distributed.cost_model import layer_sizes, traffic

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"
Output = tuple[str, dict[str, Any]]
"""What the script prints, and its JSON file."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    """The output of the script."""
    path = tmp_path_factory.mktemp("scaling") / "scaling.json"
    command = [sys.executable, str(SCRIPT), "--json", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_docs_have_the_tables_that_the_command_prints(output: Output) -> None:
    text = (SCRIPT.parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert output[0].strip() in text


def test_the_model_starts_from_the_given_speed_and_counts_the_bytes_of_a_step(output: Output) -> None:
    inputs, predicted = output[1]["given"], output[1]["predicted"]["ImageNet-1K"]
    weak_scaling = predicted["batch of 128 a GPU"]
    assert weak_scaling["data"]["1"]["speed"] == pytest.approx(inputs["speed"])
    # 1,024 GPUs, 25 MB at a time: each sends the bytes of a ring, less what the convolutions' backward pass hides.
    step = weak_scaling["data"]["1024"]
    total = sum(row.gradients for row in traffic(Net(), 1000, 128 * 1024, "data", 1024))
    forward = sum(2 * layer.multiplications for layer in layer_sizes(Net(), 1000) if not layer.full)
    conv1 = 2 * layer_sizes(Net(), 1000)[0].multiplications
    hidden = inputs["overlap"] * 128 * (2 * forward - conv1) / output[1]["flop_per_s"]
    latency = 2 * (7 * inputs["nvlink_latency"] + 7 * inputs["network_latency"])
    buckets = -(-60_965_224 * 4 // 2**20 // 25)
    transfer = total / min(inputs["nvlink"], 8 * inputs["network"])
    assert step["averaged"] == pytest.approx(max(0, buckets * (inputs["launch"] + latency) + transfer - hidden))
    assert step["exchanged"] == 0


def test_a_scheme_that_does_not_suit_the_number_of_gpus_is_left_out(output: Output) -> None:
    predicted = output[1]["predicted"]["ImageNet-1K"]
    assert "1024" not in predicted["batch of 128 a GPU"]["hybrid"]  # fewer classes than GPUs
    assert "256" not in predicted["batch of 128 over all GPUs"]["data"]  # fewer pictures than GPUs
    assert "256" in predicted["batch of 128 over all GPUs"]["towers"]
