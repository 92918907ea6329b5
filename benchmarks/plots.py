"""Draw the figures as SVG files in which text stays text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

OURS, OTHERS, INK = "#c8501e", "#9fb3c8", "#334e68"
mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # readable, searchable, small
        "svg.hashsalt": "skillq",  # the same figures make the same file
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": OTHERS,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

Panels = Mapping[
    str, tuple[Sequence[float], str]
]  # by title: a value for each name, and the format of the values


def draw_comparison(report: dict[str, Any], folder: Path) -> None:
    results = report["results"]
    names = [f"{one['name']}, {one['variant']}" for one in results]
    cpu = [
        _median(one, "app_cpu_ms") + _median(one, "broker_cpu_ms") + _median(one, "database_cpu_ms")
        for one in results
    ]
    panels: Panels = {
        "tasks per second": ([_median(one, "tasks_per_second") for one in results], "{:,.0f}"),
        "ms for one at a time, median": ([_median(one, "p50_ms") for one in results], "{:.1f}"),
        "CPU ms per task, all together": (cpu, "{:.2f}"),
    }
    draw_bars(names, panels, folder / "comparison.svg")


def draw_bars(names: Sequence[str], panels: Panels, file: Path) -> None:
    colours = [OURS if name.startswith("skillq") else OTHERS for name in names]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(11, 0.34 * len(names) + 1.1), sharey=True, squeeze=False
    )
    for axis, (title, (values, number_format)) in zip(axes[0], panels.items(), strict=True):
        _bars(axis, names, values, colours, number_format)
        axis.set_title(title, fontsize=10)
    _save(figure, file)


def draw_lines(
    title: str,
    points: Sequence[tuple[float, float]],
    labels: tuple[str, str],
    file: Path,
) -> None:
    """Draw one line: x on a logarithmic scale, y from 0."""
    figure, axis = plt.subplots(figsize=(5.5, 3.2))
    axis.plot(*zip(*points, strict=True), color=OURS, marker="o")
    axis.set_xscale("log", base=10 if points[-1][0] > 1000 else 2)
    axis.set_xticks([x for x, _ in points], [f"{x:,.0f}" for x, _ in points])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(labels[0])
    axis.set_ylabel(labels[1])
    _save(figure, file)


def draw_ranked(
    series: Mapping[str, Sequence[float]], ours: str, labels: tuple[str, str], file: Path
) -> None:
    """Draw each series sorted by its values."""
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    for name, values in series.items():
        share = [100 * (i + 1) / len(values) for i in range(len(values))]
        style = {"color": OURS, "linewidth": 2.2} if name == ours else {"linewidth": 1.1}
        axis.plot(share, sorted(values), label=name, **style)
    axis.set_xlabel(labels[0])
    axis.set_ylabel(labels[1])
    axis.set_ylim(bottom=1)
    axis.legend(frameon=False)
    _save(figure, file)


def _median(one: dict[str, Any], name: str) -> float:
    return float(one[name]["median"]) if name in one else 0.0


def _bars(
    axis: Any,
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    number_format: str,
) -> None:
    bars = axis.barh(names, values, color=colours, height=0.7)
    axis.bar_label(bars, [number_format.format(value) for value in values], padding=3, fontsize=8)
    axis.margins(x=0.18)
    axis.invert_yaxis() if axis.get_subplotspec().is_first_col() else None
    axis.tick_params(left=False, bottom=False, labelbottom=False)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
