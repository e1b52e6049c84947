"""`benchmarks/gpu.py` on a machine without a GPU: it runs unattended and says what it has not measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
REASON = "not measured: no GPU"


def test_without_a_gpu_every_row_says_so_and_both_files_are_written(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
    )
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    targets = {row["row"]: row["wanted"] for row in rows}
    assert targets["training from a raw store, batch 128"] == "25,000 (aim 50,000)"
    assert {row["reason"] for row in rows} == {REASON}
    assert {row["value"] for row in rows} == {None}
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"| {row['row']} " in table for row in rows)
    assert table.count(REASON) == len(rows)
