# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a training tells of itself: the parts of its loss and the load of its experts, as numbers and as pictures.

Shape suffixes: N tokens, E experts, L layers with experts, C kinds of token, S assignments and probabilities (see
`count`), I logging intervals.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from polyv.evaluation.assignments import KINDS, count, token_kinds
from polyv.files import whole


LOAD = "load/"
"""How the names of experts' load in the log begin: `load/layer_3/image/expert_0` is a share of the assignments."""

_NAMES = [kind.strip("<>") for kind in KINDS]
_PARTS = {"aux_loss", "temporal_loss", "spatial_loss"}
_PANELS: tuple[tuple[str, dict[str, str], str | None], ...] = (
    ("loss", {"loss": "all", "ce_loss": "cross-entropy"}, None),
    ("balance loss", {"aux_loss": "mean of the layers"}, "even load"),
    ("loss of <synergy>", {"temporal_loss": "temporal", "spatial_loss": "spatial"}, "foresees the mean"),
    ("accuracy of answer tokens", {"mean_token_accuracy": "mean"}, None),
)
"""Of `loss.png`: what an axis shows, the curves on it with their names in the log, and what a value of 1 means."""


class Tally:
    """Sums over a logging interval, kept on the device until they are logged: the cross-entropy, what means are of, and
    how many tokens of each kind went to each expert.

    Args:
        config: of the model. Without experts there is no load.

    Attributes:
        names: of the means, in every process the same.
    """

    def __init__(self, config: Any):
        self.config = config
        self.layers: Sequence[int] = getattr(config.get_text_config(), "moe_layers", ())
        self.names: list[str] = []
        self.since: int | None = None

    @torch.no_grad()
    def add(
        self,
        cross_entropy: torch.Tensor,
        inputs: dict[str, torch.Tensor],
        router_logits: Sequence[torch.Tensor],
        step: int,
    ) -> None:
        """Count a micro-batch.

        Args:
            cross_entropy: its share of the step's.
            inputs: of the model.
            router_logits: one tensor [N, E] a layer with experts.
            step: how many steps were done before this one.
        """
        sums = cross_entropy.detach().float().reshape(1)
        if self.since is None:
            self.since, self.sums = step, sums.new_zeros(())
            self.means = {name: sums.new_zeros(2) for name in self.names}
        if self.layers:
            # The whole batch as one row: nobody asks for its rows one by one.
            kinds_1N = token_kinds(inputs, None, self.config).reshape(1, -1)
            counts_SLCE = count(router_logits, kinds_1N, self.config.text_config.num_experts_per_tok)[0]
            sums = torch.cat([sums, counts_SLCE[0].flatten().to(sums.device)])
        self.sums = self.sums + sums

    def note(self, name: str, total_and_count: torch.Tensor) -> None:
        """Add to a mean, after `add` of the same micro-batch: a sum of values [2], and how many they are."""
        self.means[name] += total_and_count.to(self.sums.device)

    def take(self, accelerator: Accelerator, step: int) -> dict[str, float]:
        """What to log after `step` steps, over all processes, and begin anew: `ce_loss`, the mean over the steps; the means
        of which there was anything; and of each layer and each kind of token that occurred, the share of the assignments
        that went to each expert."""
        if self.since is None:
            return {}
        sums = torch.cat([self.sums[:1], *self.means.values(), self.sums[1:]])
        cross_entropy, *counts = accelerator.reduce(sums, "sum").tolist()
        logs = {"ce_loss": cross_entropy / accelerator.num_processes / (step - self.since)}
        for name in self.names:
            total, number, *counts = counts
            logs |= {name: total / number} if number else {}
        self.since = None
        if self.layers:
            counts_LCE = np.reshape(counts, (len(self.layers), len(KINDS), -1))
            for layer, kind in np.argwhere(counts_LCE.any(-1)):
                shares_E = counts_LCE[layer, kind] / counts_LCE[layer, kind].sum()
                name = f"{LOAD}layer_{self.layers[layer]}/{_NAMES[kind]}"
                logs |= {f"{name}/expert_{expert}": share for expert, share in enumerate(shares_E.tolist())}
        return logs


class _WithoutLoad(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = {name: value for name, value in (logs or {}).items() if not name.startswith(LOAD)}
        super().on_log(args, state, control, logs=shown, **kwargs)


class BriefProgress(_WithoutLoad, ProgressCallback):
    """Trainer's progress bar, which would print dozens of loads with every line."""


class BriefPrinter(_WithoutLoad, PrinterCallback):
    """What prints the log where there is no progress bar."""


class Curves(TrainerCallback):
    """Draws `loss.png`, and `experts.png` where there are experts, into the output folder, at each checkpoint and at the
    end."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            draw_loss(state.log_history, os.path.join(args.output_dir, "loss.png"))
            draw_experts(state.log_history, os.path.join(args.output_dir, "experts.png"))

    on_train_end = on_save


def draw_loss(log_history: list[dict[str, float]], path: str) -> None:
    """Draw what Trainer logged against steps: the loss, and below it its parts and the accuracy of the answers' tokens."""
    logged = set().union(*log_history)
    if not logged & _PARTS:
        logged -= {"ce_loss"}  # then the cross-entropy is all of the loss
    panels = [panel for panel in _PANELS if "loss" in panel[1] or logged & panel[1].keys()]
    figure = Figure(figsize=(7, 0.6 + 2.2 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axes, (title, curves, meaning) in zip(grid, panels, strict=True):
        for name, label in curves.items():
            if name in logged:
                points = [(log["step"], log[name]) for log in log_history if name in log]
                axes.plot(*zip(*points, strict=True), label=label)
        if meaning:
            axes.axhline(1, color="black", linestyle="--", linewidth=1, label=meaning)
        axes.set_ylabel(title)
        if len(axes.lines) > 1:
            axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    with whole(path) as partial:
        figure.savefig(partial, format="png", dpi=100)


def draw_experts(log_history: list[dict[str, float]], path: str) -> None:
    """Draw the load of experts against steps, if any was logged: a panel for each layer (rows) and kind of token
    (columns), in which the shares of all experts are stacked."""
    logs = [log for log in log_history if any(name.startswith(LOAD) for name in log)]
    if not logs:
        return
    names = {tuple(name.split("/")[1:]) for log in logs for name in log if name.startswith(LOAD)}
    layers = sorted({layer for layer, _, _ in names}, key=lambda layer: int(layer.removeprefix("layer_")))
    kinds = [kind for kind in _NAMES if any(kind == other for _, other, _ in names)]
    num_experts = len({expert for _, _, expert in names})
    figure = Figure(figsize=(1 + 2.2 * len(kinds), 1.2 + 1.4 * len(layers)), layout="constrained")
    figure.suptitle("Share of assignments that goes to each expert, in %; dotted: even shares; white: no such tokens")
    figure.supxlabel("step")
    grid = figure.subplots(len(layers), len(kinds), squeeze=False, sharex=True, sharey=True)
    for (row, column), axes in np.ndenumerate(grid):
        _draw_load(axes, logs, f"{LOAD}{layers[row]}/{kinds[column]}", num_experts)
    for axes, layer in zip(grid[:, 0], layers, strict=True):
        axes.set_ylabel(layer.replace("_", " "))
    for axes, kind in zip(grid[0], kinds, strict=True):
        axes.set_title(kind)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", reverse=True)
    with whole(path) as partial:
        figure.savefig(partial, format="png", dpi=100)


def _draw_load(axes: Axes, logs: list[dict[str, float]], name: str, num_experts: int) -> None:
    """Stack the shares of experts that were logged under `name`, each as wide as the interval it was logged over."""
    steps = [log["step"] for log in logs]
    step_2I = np.column_stack([[0, *steps[:-1]], steps]).flatten()  # where each interval begins and ends
    share_EI = [[100 * log.get(f"{name}/expert_{index}", np.nan) for log in logs] for index in range(num_experts)]
    colours = colormaps["viridis"](np.linspace(0.2, 1, num_experts))  # not so dark that lines on it are lost
    labels = [f"expert {index}" for index in range(num_experts)]
    axes.stackplot(step_2I, np.repeat(share_EI, 2, axis=1), colors=colours, labels=labels, linewidth=0)
    for index in range(1, num_experts):
        axes.axhline(100 * index / num_experts, color="black", linestyle=":", linewidth=1)
    axes.set(xlim=(0, steps[-1]), ylim=(0, 100))
    axes.locator_params("x", nbins=4, prune="upper")
