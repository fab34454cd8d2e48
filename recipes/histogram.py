# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""How long rows are, drawn, for `polyv data check`."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from polyv.files import whole


if TYPE_CHECKING:
    from polyv.recipes.check import Report

_COLOURS = {"text": "#999999", "image": "#0077bb", "video": "#ee7733", "scene": "#009988", "mixed": "#ee3377"}


def spread_of(lengths: Sequence[int]) -> dict[str, int]:
    """Lengths that occur: the middle one, and the one that 95 % do not exceed."""
    values = np.quantile(lengths or [0], (0.5, 0.95, 1), method="inverted_cdf")
    return {"rows": len(lengths), **dict(zip(("median", "p95", "longest"), map(int, values), strict=True))}


def draw(report: "Report", path: Path) -> None:
    """Draw how many rows are how long, by what they show, as PNG."""
    lengths: dict[str, list[int]] = {kind: [] for kind in _COLOURS}
    for name, values in report.lengths.items():
        lengths[name if name in lengths else "mixed"] += values
    shown = {kind: values for kind, values in lengths.items() if values}
    spread = spread_of(list(chain(*shown.values())))
    figure = Figure(figsize=(9, 4.5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    if shown:
        wide = spread["longest"] > 20 * min(map(min, shown.values()))
        edges = _edges(min(map(min, shown.values())), spread["longest"], wide)
        labels = [f"{kind} ({len(values):,})" for kind, values in shown.items()]
        colours = [_COLOURS[kind] for kind in shown]
        axes.hist(list(shown.values()), edges, stacked=True, color=colours, label=labels)
        if wide:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if report.too_long:
            label = f"max_length {report.max_length:,}\n({len(report.too_long):,} longer)"
            axes.axvline(report.max_length, color="#222222", linestyle="--", linewidth=1, label=label)
        figure.legend(title="rows that show", loc="outside right upper", frameon=False)
    axes.set_title(
        f"{spread['rows']:,} rows, median {spread['median']:,} tokens, longest {spread['longest']:,}", fontsize=10
    )
    axes.set(xlabel="tokens of a row", ylabel="rows")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    with whole(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _edges(low: int, high: int, wide: bool) -> list[float]:
    """Of some 60 bins at most, half way between whole numbers: else some would hold more of these than others."""
    step = (high - low) // 60 + 1
    edges = np.geomspace(low, high + 1, 61).round() if wide else np.arange(low, high + step + 1, step)
    return (np.unique(edges) - 0.5).tolist()


__all__ = ["draw", "spread_of"]
