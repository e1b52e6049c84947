"""The tables and the figure of the model in scaling_model.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.output import markdown_table
from scaling_model import DATASETS, GPU_COUNTS, BatchRule, Cluster, Dataset, Predictions, ScalingModel

from alexnet.architecture import Net
from alexnet.distributed.cost_model import SCHEMES, connect_all_towers, layer_sizes, traffic

SUMMARY_HEADS = ("set", "mode", "scheme", "efficiency of a half up to", "best at", "pictures/s at most", "which takes")


def format_duration(dataset: Dataset, speed: float) -> str:
    """Return the duration of a training at a speed in pictures/s, in a suitable unit."""
    seconds = dataset.count * dataset.epochs / speed
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} seconds"


def speed_table(dataset: Dataset, predictions: Predictions) -> str:
    """Return a table of pictures/s, efficiency and limits, for each number of GPUs and each scheme."""
    rows = []
    for count in GPU_COUNTS:
        steps = {scheme: predictions[scheme].get(count) for scheme in SCHEMES}
        cells = [f"{step.speed:,.0f} ({step.efficiency:.2f})" if step else "" for step in steps.values()]
        suitable = {scheme: step for scheme, step in steps.items() if step}
        if suitable:
            best = max(suitable, key=lambda scheme: suitable[scheme].speed)
            duration = format_duration(dataset, suitable[best].speed)
            rows.append((f"{count:,}", *cells, best if count > 1 else "", suitable[best].limit, duration))
    return markdown_table(rows, ("GPUs", *SCHEMES, "best", "limited by", "training takes"))


def summary_rows(dataset: Dataset, rule: BatchRule, predictions: Predictions) -> Iterator[tuple[str, ...]]:
    """Yield, for each scheme, where it stops paying: by efficiency, against the other schemes, and in pictures/s."""
    for scheme in SCHEMES:
        steps = predictions[scheme]
        efficient = [count for count in steps if all(step.efficiency >= 0.5 for n, step in steps.items() if n <= count)]
        fastest = max(steps, key=lambda count: steps[count].speed)
        best = [
            count
            for count in steps
            if count > 1
            and all(steps[count].speed >= other[count].speed for other in predictions.values() if count in other)
        ]
        speed = steps[fastest].speed
        yield (
            dataset.name,
            rule.name,
            scheme,
            _format_last(efficient),
            _format_counts(best),
            f"{speed:,.0f} at {fastest:,}",
            format_duration(dataset, speed),
        )


def _format_last(counts: Sequence[int]) -> str:
    """Return the last of some numbers of GPUs."""
    return f"{counts[-1]:,}" if counts else "never"


def _format_counts(counts: Sequence[int]) -> str:
    """Return some numbers of GPUs, as a range if no number in it is missing."""
    if counts and len(counts) != GPU_COUNTS.index(counts[-1]) - GPU_COUNTS.index(counts[0]) + 1:
        return ", ".join(f"{count:,}" for count in counts)
    return f"{counts[0]:,} to {counts[-1]:,}" if len(counts) > 1 else _format_last(counts)


def traffic_table(batch: int, activity_bytes: int) -> str:
    """Return a table of what one of two processes sends in a step of the paper's net, in kB."""
    towers, connected = (
        traffic(net, 1000, batch, "towers", 2, activity_bytes=activity_bytes)
        for net in (Net(), connect_all_towers(Net()))
    )
    data, hybrid = (
        traffic(Net(), 1000, batch, scheme, 2, activity_bytes=activity_bytes) for scheme in ("data", "hybrid")
    )
    columns = [
        [row.forward for row in towers],
        [row.backward for row in towers],
        [row.forward for row in connected],
        [row.backward for row in connected],
        [row.gradients for row in data],
        [row.forward for row in hybrid],
        [row.backward for row in hybrid],
        [row.gradients for row in hybrid],
    ]
    names = [*(row.layer for row in towers), "all"]
    cells = [[_format_kilobytes(count) for count in (*column, sum(column))] for column in columns]
    heads = ("layer", "towers: forward", "backward", "all towers connected: forward", "backward", "data: gradients",
             "hybrid: forward", "backward", "gradients")  # fmt: skip
    return markdown_table(list(zip(names, *cells, strict=True)), heads)


def _format_kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f}" if count else ""


def describe_step(model: ScalingModel) -> str:
    """Return a text that says where the time of one GPU goes, as far as arithmetic tells."""
    cluster, layers = model.cluster, layer_sizes(model.net, 1000)
    batch = int(cluster.speed_batch)
    work = model.work(layers, model.layout("data", 1), batch)
    conv1_flop = 2 * layers[0].multiplications * batch
    # The forward pass has half the arithmetic of the backward pass, except in conv1.
    backward_flop = work.conv_backward_flop
    conv_flop = backward_flop + (backward_flop - conv1_flop) / 2 + conv1_flop
    parameters = [layer.units * layer.parameters_per_unit for layer in layers]
    full_share = sum(n for n, layer in zip(parameters, layers, strict=True) if layer.full) / sum(parameters)
    conv_ms, full_ms = (1000 * flop / model.rate for flop in (conv_flop, work.flop - conv_flop))
    return (
        f"One GPU: {cluster.speed:,.0f} pictures/s at batch {batch}; this is an input, not a measurement. A step takes "
        f"{1000 * batch / cluster.speed:.2f} ms:\nconvolutions {conv_ms:.2f}, fully connected layers {full_ms:.2f} (at "
        f"{model.rate / 1e12:,.0f} TFLOP/s), reading and writing weights "
        f"{1000 * work.memory_bytes / cluster.memory:.2f},\nfixed costs {1000 * cluster.fixed:.2f}. The convolutions "
        f"have {conv_flop / work.flop:.1%} of the arithmetic, the fully connected layers {full_share:.1%} of the "
        "weights."
    )


def draw_figure(path: Path, predictions: dict[str, dict[str, Predictions]], cluster: Cluster) -> None:
    """Draw pictures/s over GPUs, one panel for each dataset.

    Args:
        path: The PNG file to write.
        predictions: The predictions by dataset and by batch rule.
        cluster: The inputs of the model.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    colours = dict(zip(SCHEMES, ("tab:blue", "tab:orange", "tab:green"), strict=True))
    styles = ("-", "--", ":")
    figure, panels = plt.subplots(1, len(predictions), figsize=(15, 5.2), sharey=True, layout="constrained")
    for panel, dataset in zip(panels, DATASETS, strict=True):
        by_rule = predictions[dataset.name]
        for style, by_scheme in zip(styles, by_rule.values(), strict=False):
            for scheme, steps in by_scheme.items():
                speeds = [step.speed for step in steps.values()]
                panel.plot(list(steps), speeds, style, color=colours[scheme], marker=".", markersize=5, linewidth=1.4)
        single = next(iter(by_rule.values()))["data"][1].speed
        for share, colour in ((1.0, "0.45"), (0.5, "0.75")):
            ideal = [share * single * count for count in GPU_COUNTS]
            panel.plot(GPU_COUNTS, ideal, color=colour, linewidth=0.8, zorder=0)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(GPU_COUNTS, [str(count) for count in GPU_COUNTS])
        panel.set_xlabel("GPUs")
        panel.set_title(dataset.title.replace(": ", "\n", 1), fontsize=10)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("pictures/s (predicted)")
    keys = [Line2D([], [], color=colour, label=scheme) for scheme, colour in colours.items()]
    keys += [Line2D([], [], color="k", linestyle=s, label=rule) for s, rule in zip(styles, by_rule, strict=False)]
    keys += [Line2D([], [], color="0.45", linewidth=0.8, label="efficiency 1"),
             Line2D([], [], color="0.75", linewidth=0.8, label="efficiency 1/2")]  # fmt: skip
    panels[0].legend(handles=keys, fontsize=8, loc="upper left")
    note = f"one GPU: {cluster.speed:,.0f} pictures/s at batch {cluster.speed_batch:,.0f} is given, not measured"
    figure.suptitle(f"Training the paper's net, predicted by benchmarks/scaling.py ({note})", fontsize=11)
    figure.savefig(path, dpi=110)
