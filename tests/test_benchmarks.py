"""The one benchmark that must run anywhere, unattended: the GPU's."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def test_without_a_gpu_every_row_says_so_and_both_files_are_written(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
    )
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    wanted = "25,000 (aim 50,000)"
    assert any(row["row"] == "training from a raw store, batch 128" and row["wanted"] == wanted for row in rows)
    assert {row["reason"] for row in rows} == {"not measured: no GPU"}
    assert {row["value"] for row in rows} == {None}
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"| {row['row']} " in table for row in rows)
    assert table.count("not measured: no GPU") == len(rows)
