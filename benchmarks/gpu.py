"""Speed on a GPU: a table that one command measures unattended, in about five minutes on an H200.

    python benchmarks/gpu.py [--seconds 2] [--pictures 32768] [--folder FOLDER] [--json gpu.json] [--markdown gpu.md]
    python benchmarks/gpu.py --rehearse

It measures training as `alexnet train` does it, in bfloat16, at batch 128 (the paper's) and 1024, with pictures from
temporary stores (raw and JPEG, 256 x 256, 1000 classes; 6.4 + 1 GB in --folder); the kernels of normalisation and of
the update rule; and an epoch of a CIFAR-10 net. Beside it, torchvision's AlexNet with autocast, channels_last,
torch.compile and the fused torch.optim.SGD, its pictures already on the GPU, in the faster of two modes of compilation;
torch's own normalisation and update; and the rates of a matrix product and a copy.

If a section fails, its rows give the error, and the other sections still run. Without a GPU every row is
"not measured: no GPU". --rehearse runs everything on the CPU with very small data, in about a minute, to see that
it runs; its numbers mean nothing.
"""

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gpu_sections
import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from gpu_sections import Session

from alexnet.utils.memory import keep_freed_memory


class _Row(NamedTuple):
    """A row of the table: its text, its unit, and the value that is the target."""

    text: str
    unit: str
    target: str = ""


def _rows(batch_sizes: tuple[int, int]) -> dict[str, _Row]:
    """Return the rows of the table, by the key that the sections use for their values."""
    first, second = batch_sizes
    rows = {
        "product": _Row("matrix product, bfloat16, 8192 x 8192", "TFLOP/s"),
        "copy": _Row("copy of 2 GB, read and written", "GB/s"),
        f"raw, batch {first}": _Row(f"training from a raw store, batch {first}", "pictures/s", "25,000 (aim 50,000)"),
        f"raw, batch {second}": _Row(f"training from a raw store, batch {second}", "pictures/s"),
        "JPEG": _Row(f"training from a JPEG store, batch {first}", "pictures/s", "25,000 (aim 50,000)"),
        "train": _Row(f"training by `train` itself from a raw store, batch {first}", "pictures/s"),
        "batches alone, raw": _Row("loading alone from the raw store", "pictures/s"),
        "batches alone, JPEG": _Row("loading alone from the JPEG store", "pictures/s"),
        "90 epochs": _Row(f"90 epochs of 1.28 million pictures from a raw store, batch {first}", "minutes", "(aim 38)"),
    }
    for size in batch_sizes:
        rows |= {
            f"step alone, batch {size}": _Row(f"steps on pictures on the GPU, batch {size}", "pictures/s"),
            f"torchvision, batch {size}": _Row(f"torchvision's AlexNet, compiled, batch {size}", "pictures/s"),
            f"against torchvision, batch {size}": _Row(
                f"training from a raw store, against torchvision's AlexNet, batch {size}", "times", "1 (aim 2)"
            ),
            f"share of product, batch {size}": _Row(
                f"training from a raw store, share of the matrix rate, batch {size}", "", "0.3 (aim 0.5)"
            ),
        }
    rows["CIFAR"] = _Row('CIFAR-10 "11%" net, an epoch', "seconds", "1.0 (aim 0.3)")
    for dtype in ("bfloat16", "float32"):
        text = f"ReLU + normalisation, (128, 96, 55, 55), forward and back, {dtype}"
        rows |= {
            f"norm {dtype}": _Row(text, "ms"),
            f"norm {dtype} against torch": _Row(f"{text}: against torch", "times"),
            f"norm {dtype} of copy": _Row(f"{text}: share of the rate of a copy", ""),
        }
    return rows | {
        "update": _Row("update of all parameters", "ms"),
        "update against torch": _Row("update of all parameters: against torch.optim.SGD, fused", "times"),
        "update of copy": _Row("update of all parameters: share of the rate of a copy", ""),
    }


class _Section(NamedTuple):
    """A section: its name, its function, and the beginnings of the keys of its rows."""

    name: str
    measure: Callable[[Session], None]
    key_prefixes: tuple[str, ...]


_SECTIONS = [
    _Section("roofline", gpu_sections.measure_roofline, ("product", "copy")),
    _Section(
        "normalisation, float32",
        partial(gpu_sections.measure_normalisation, dtype=torch.float32),
        ("norm float32",),
    ),
    _Section(
        "normalisation, bfloat16",
        partial(gpu_sections.measure_normalisation, dtype=torch.bfloat16),
        ("norm bfloat16",),
    ),
    _Section("update", gpu_sections.measure_update, ("update",)),
    _Section("training", gpu_sections.measure_training, ("step alone", "raw", "share of product", "90 epochs")),
    _Section("CIFAR-10", gpu_sections.measure_cifar10, ("CIFAR",)),
    _Section("JPEG", gpu_sections.measure_jpeg, ("JPEG", "batches alone")),
    _Section("torchvision", gpu_sections.measure_torchvision, ("torchvision", "against torchvision")),
    _Section("train", gpu_sections.measure_train, ("train",)),
]


def _run_sections(session: Session) -> tuple[dict[str, str], dict[str, float]]:
    """Run all sections.

    Returns:
        The reason for each row without a value, by its key, and the seconds of each section, by its name.
    """
    reasons: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for section in _SECTIONS:
        start = time.perf_counter()
        try:
            section.measure(session)
        except Exception as error:
            traceback.print_exc()
            message = next(iter(str(error).splitlines()), "")
            for key in _rows(session.batch_sizes):
                if key.startswith(section.key_prefixes) and key not in session.values:
                    reasons[key] = f"failed: {type(error).__name__}: {message}"
        seconds[section.name] = round(time.perf_counter() - start, 1)
        print(f"{section.name}: {seconds[section.name]} s", flush=True)
        if session.device.type == "cuda":
            torch.cuda.empty_cache()
    return reasons, seconds


def _write_report(
    session: Session, reasons: dict[str, str], info: dict[str, Any], json_path: Path, markdown_path: Path
) -> None:
    """Print the table, and write it as Markdown and JSON."""
    rows, cells = [], []
    for key, (text, unit, target) in _rows(session.batch_sizes).items():
        value = session.values.get(key)
        measured = _format_value(value) if value is not None else reasons.get(key, "not measured")
        rows.append({"row": text, "unit": unit, "wanted": target, "value": value,
                     "reason": None if value is not None else measured})  # fmt: skip
        cells.append((text, measured, unit, target))
    table = markdown_table(cells, ("measurement", "measured", "unit", "target"))
    if session.rehearsal:
        table = f"A rehearsal on the CPU: these numbers mean nothing.\n\n{table}"
    print(f"{info}\n\n{table}")
    write_json(json_path, {"machine": info, "rehearsal": session.rehearsal, "rows": rows})
    heading = ", ".join(f"{name} {value}" for name, value in info.items())
    markdown_path.write_text(f"{heading}\n\n{table}\n", encoding="utf-8")


def _format_value(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="least time of a measurement; default: %(default)s")
    parser.add_argument("--pictures", type=int, default=32768, help="in the raw store; default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where to write the stores; default: a temporary folder")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="the file to write the numbers to")
    parser.add_argument("--markdown", type=Path, default=Path("gpu.md"), help="the file to write the table to")
    parser.add_argument("--rehearse", action="store_true", help="run it on the CPU, to see that it runs")
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device("cpu" if options.rehearse or not torch.cuda.is_available() else "cuda")
    with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
        if options.rehearse:
            session = Session(device, 0.01, Path(folder), 24, (8, 16), rehearsal=True)
        else:
            session = Session(device, options.seconds, Path(folder), options.pictures, (128, 1024), rehearsal=False)
        if options.rehearse or device.type == "cuda":
            reasons, seconds = _run_sections(session)
        else:
            reasons, seconds = dict.fromkeys(_rows(session.batch_sizes), "not measured: no GPU"), {}
    info = environment_info(device) | {"section_seconds": seconds}
    _write_report(session, reasons, info, options.json, options.markdown)


if __name__ == "__main__":
    main()
