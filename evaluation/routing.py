# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv routing`: which experts the tokens of images, videos, scenes and text go to, and how far experts specialise.

Shape suffixes: B questions of a batch, T positions, E experts, L layers with experts, C kinds of token, M modalities,
Q questions, S what is summed of a token and an expert: its assignment, and its router probability (see `count`).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from transformers import AutoConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from polyv.ask import load
from polyv.evaluation.assignments import KINDS, count, token_kinds
from polyv.evaluation.evaluate import (
    ask_all,
    asked,
    check_at_least_one,
    check_out,
    check_world,
    default_world,
    make_request,
    questions_of,
)
from polyv.evaluation.specialisation import measure
from polyv.evaluation.suites import parse_suites
from polyv.files import whole, write_whole
from polyv.hub.adapters import check_whole
from polyv.processing.posed_views import PosedViews


SCOPES = {"all": ("text", "image", "video", "scene"), "visual": ("image", "video", "scene")}
"""Between which modalities specialisation is measured. `<synergy>`, a single token, is none of them."""

_SCOPE = {"all": "with text", "visual": "without text"}
_COLOURS, _INK = "RdBu_r", "#222222"


def run(
    models: Sequence[str],
    suites: str,
    seed: int,
    n: int,
    out: Path,
    world: Path | None = None,
    batch_size: int = 16,
) -> dict:
    """Feed the prompts of `n` test questions of each of `suites` to each of `models`, and report where their routers
    send the tokens: as JSON to `out`, as a picture beside it (`out` with the ending .png), and as a printed table.

    Several models are compared on the same questions. A trained model's numbers mean little without those of its
    upcycled start: tokens of different modalities differ, so that random routers send them apart already, far beyond
    chance. May be interrupted: the same call goes on where it stopped.

    Args:
        models: folders or Hub names of PolyV checkpoints.
        suites: "all", or names separated by commas.
        seed: of the test world, the choice of questions, the bootstrap and the shuffles.
        n: questions a suite.
        out: the report to write.
        world: folder of the test world, made where it is not there. Default: data/evaluation-`seed`-`n`.
        batch_size: questions a batch.

    Returns:
        What `out` holds: `{"models": [one dict each, see `summarise`], "suites", "n", "seed"}`.

    Raises:
        ValueError: a model has no experts; no model; an `out` that ends in .png; or as `evaluate.run` raises.
    """
    names = parse_suites(suites)
    check_at_least_one(n=n, batch_size=batch_size)
    picture = out.with_suffix(".png")
    if out == picture:
        raise ValueError(f"out={out}: the picture goes there. Give the JSON report another ending, such as .json.")
    for path in (out, picture):
        check_out(path)
    folder = world or default_world(seed, n)
    there = check_world(folder, seed)
    if not models:
        raise ValueError("models: got none, expected at least one PolyV checkpoint.")
    for model in models:
        _check_experts(model)
    logging.disable_progress_bar()
    questions = questions_of(folder, there, names, n, seed)
    partials = [out.with_name(f"{out.name}.routing-{index}.partial.jsonl") for index in range(len(models))]
    request = {"suites": names, "seed": seed, "n": n, "world": folder, "questions": questions}
    reports = [_route(model, request, batch_size, partial) for model, partial in zip(models, partials, strict=True)]
    report = {"models": reports, "suites": names, "n": n, "seed": seed}
    draw(report, picture)
    write_whole(out, json.dumps(report, indent=2) + "\n")
    for partial in partials:
        partial.unlink()
    print(table(report))
    print(f"seed {seed}, {n} questions a suite; written to {out} and {picture}")
    return report


def _route(model: str, request: dict[str, Any], batch_size: int, partial: Path) -> dict:
    """The report of one model, which leaves memory with the end of this."""
    loaded, processor = load(model)
    print(f"model {model}, {loaded.device}")
    questions, seed = request["questions"], request["seed"]
    counts = ask_all(
        questions, batch_size, make_request(model, loaded, **request), partial, _counter(loaded, processor)
    )
    counts_QSLCE = np.array([counts[row["id"]] for row in questions])
    suites_Q = np.array([row["suite"] for row in questions])
    config = loaded.config.text_config
    return {
        "model": model,
        **summarise(counts_QSLCE, suites_Q, config.moe_layers, config.num_experts_per_tok, seed),
    }


def summarise(
    counts_QSLCE: np.ndarray, suites_Q: np.ndarray, layers: Sequence[int], top_k: int, seed: int
) -> dict[str, Any]:
    """The routing of one model.

    Args:
        counts_QSLCE: `count` of each question.
        suites_Q: the suite of each question.
        layers: the index of each layer with experts.
        top_k: K.
        seed: of the bootstrap and the shuffles.

    Returns:
        `{"num_experts", "num_experts_per_tok", "specialisation": {scope: ...}, "layers": [{"layer", "specialisation":
        {scope: ...}, "suites": {suite or "all": {kind or "all": {"tokens", "load", "probability"}}}}]}`.

        "load" is the share of the assignments that goes to each expert, "probability" the mean router probability;
        kinds that a suite lacks are left out. For each of `SCOPES`, specialisation is "modalities" and what `measure`
        gives, or None where there are not two of its modalities.
    """
    measured = {scope: _measure(counts_QSLCE[:, 0], suites_Q, scope, top_k, seed) for scope in SCOPES}
    overall, *by_layer = [dict(zip(SCOPES, results, strict=True)) for results in zip(*measured.values(), strict=True)]
    return {
        "num_experts": counts_QSLCE.shape[-1],
        "num_experts_per_tok": top_k,
        "specialisation": overall,
        "layers": [
            {"layer": layer, "specialisation": of_layer, "suites": _loads(counts_QSLCE[:, :, index], suites_Q)}
            for index, (layer, of_layer) in enumerate(zip(layers, by_layer, strict=True))
        ],
    }


def _measure(load_QLCE: np.ndarray, suites_Q: np.ndarray, scope: str, top_k: int, seed: int) -> list[dict | None]:
    """Specialisation between the modalities of `scope`, over all layers and of each; None without two of them."""
    there_C = load_QLCE.sum((0, 1, 3)) > 0
    names = [name for name in SCOPES[scope] if there_C[KINDS.index(name)]]
    if len(names) < 2:
        return [None] * (1 + load_QLCE.shape[1])
    load_QLME = load_QLCE[:, :, [KINDS.index(name) for name in names]]
    return [{"modalities": names, **result} for result in measure(load_QLME, suites_Q, top_k, seed)]


def _loads(counts_QSCE: np.ndarray, suites_Q: np.ndarray) -> dict[str, dict[str, dict]]:
    """Of one layer: tokens, load and probability of each kind of token in each suite."""
    suites = {
        "all": np.ones(len(suites_Q), bool),
        **{name: suites_Q == name for name in dict.fromkeys(suites_Q.tolist())},
    }
    loads: dict[str, dict[str, dict]] = {}
    for suite, chosen_Q in suites.items():
        counts_SCE = counts_QSCE[chosen_Q].sum(0)
        kinds = {"all": counts_SCE.sum(1), **{kind: counts_SCE[:, index] for index, kind in enumerate(KINDS)}}
        loads[suite] = {
            kind: {"tokens": round(assigned_E.sum()), **_shares(assigned_E, probability_E)}
            for kind, (assigned_E, probability_E) in kinds.items()
            if assigned_E.any()
        }
    return loads


def _shares(assigned_E: np.ndarray, probability_E: np.ndarray) -> dict[str, list[float]]:
    return {
        "load": (assigned_E / assigned_E.sum()).tolist(),
        "probability": (probability_E / probability_E.sum()).tolist(),
    }


def _check_experts(model: str) -> None:
    """Refuse a model without experts before anything is made."""
    check_whole("model", model)
    config = AutoConfig.from_pretrained(model)
    if config.model_type == "qwen2_5_vl":
        raise ValueError(
            f"model={model} is dense: a Qwen2.5-VL, without experts to choose from. Expected a PolyV: upcycle it "
            f"(`polyv upcycle {model} DST`) and give DST."
        )
    if config.model_type != "polyv":
        raise ValueError(f"model={model} is of the family {config.model_type}. Expected a PolyV: give another.")
    if not config.text_config.moe_layers:
        raise ValueError(
            f"model={model} is dense: a PolyV with num_experts=0. Expected one with experts, as `polyv upcycle` makes "
            "them: give another."
        )


def _counter(model: PreTrainedModel, processor: ProcessorMixin) -> Callable[[list[dict]], list]:
    """What feeds questions to `model`, and gives `count` of each as nested lists."""

    @torch.inference_mode()
    def count_batch(questions: list[dict]) -> list:
        conversations, pictures = _open_scenes([asked(row) for row in questions], processor)
        inputs: Any = processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        inputs = inputs.to(model.device)
        outputs = model(**inputs, use_cache=False, output_router_logits=True, logits_to_keep=1)
        kinds_BT = token_kinds(inputs, pictures, model.config)
        return count(outputs.router_logits, kinds_BT, model.config.text_config.num_experts_per_tok).tolist()

    return count_batch


def _open_scenes(conversations: list[list[dict]], processor: ProcessorMixin) -> tuple[list[list[dict]], list[str]]:
    """The conversations with their scenes read, and in their order "image" for each image, "scene" for each view."""
    pictures: list[str] = []

    def open_one(entry: dict) -> dict:
        if entry["type"] == "image":
            pictures.append("image")
        if entry["type"] != "scene":
            return entry
        views = PosedViews.load(entry["scene"], processor.scenes_kwargs["num_views"], processor.max_image_pixels)
        pictures.extend(["scene"] * len(views))
        return {**entry, "scene": views}

    opened = [
        [{**message, "content": [open_one(entry) for entry in message["content"]]} for message in messages]
        for messages in conversations
    ]
    return opened, pictures


def table(report: dict) -> str:
    """The report as aligned text: for each model and layer the load by kind of token, then the specialisation."""
    lines = []
    for model in report["models"]:
        experts = "".join(f"{f'expert {index}':>10}" for index in range(model["num_experts"]))
        lines.append(f"{model['model']}: share of the assignments that go to each expert, in %")
        lines.append(f"{'layer':>5}  {'kind':<10} {'tokens':>9}{experts}")
        for layer in model["layers"]:
            for kind, row in layer["suites"]["all"].items():
                shares = "".join(f"{100 * share:>10.1f}" for share in row["load"])
                lines.append(f"{layer['layer']:>5}  {kind:<10} {row['tokens']:>9}{shares}")
        lines.append("")
    width = max(len(model["model"]) for model in report["models"])
    lines.append("specialisation: 0 if experts know nothing of modalities, 1 if as much as top-k routing allows")
    lines.append(
        f"{'model':<{width}} {'layer':>5}  {'between':<26} {'value':>6} {'95 % interval':>15} {'by chance':>15}"
    )
    for model in report["models"]:
        for row in [*model["layers"], {**model, "layer": "mean"}]:
            start = f"{model['model']:<{width}} {row['layer']:>5}"
            lines += [
                f"{start}  {', '.join(result['modalities']):<26} {result['value']:>6.3f} "
                f"{_span(result['interval']):>15} {_span(result['chance_interval']):>15}"
                for result in row["specialisation"].values()
                if result
            ]
    return "\n".join(lines)


def _span(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3f} - {interval[1]:.3f}"


def draw(report: dict, path: Path) -> None:
    """Draw the load as heat maps: a column a model, a row a layer; experts by kind of token, and by suite."""
    models, suites = report["models"], report["suites"]
    depth = max(len(model["layers"]) for model in models)
    widths = [_right(model["num_experts"]) + model["num_experts"] for model in models]
    size = (0.4 + sum(1.5 + 0.38 * width for width in widths), 1.3 + depth * (1.9 + 0.22 * len(suites)))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.suptitle("Share of assignments to each expert, in %", fontsize=11, weight="bold")
    # White is an even share, whatever the number of experts.
    norm = TwoSlopeNorm(1, 0, max(1.5, *(model["num_experts"] / model["num_experts_per_tok"] for model in models)))
    grid = figure.subplots(depth, len(models), squeeze=False, width_ratios=widths)
    for column, model in enumerate(models):
        most = 4 * widths[column]
        name = model["model"] if len(model["model"]) <= most else f"…{model['model'][1 - most :]}"
        grid[0, column].set_title(name, fontsize=10, weight="bold", loc="left", pad=24)
        for axes in grid[len(model["layers"]) :, column]:
            axes.axis("off")
        for axes, layer in zip(grid[:, column], model["layers"], strict=False):
            _draw_layer(axes, layer, suites, norm)
    bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=grid, location="bottom", aspect=40, shrink=0.5, pad=0.01)
    bar.set_label("times an even share", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    with whole(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _right(num_experts: int) -> int:
    """In which column the heat map of `<synergy>` begins: the heading of the one before it takes five."""
    return max(num_experts + 1, 5)


def _draw_layer(axes: Axes, layer: dict, suites: Sequence[str], norm: TwoSlopeNorm) -> None:
    """Kinds of token above suites; the suites once with all of their tokens, once with `<synergy>` alone."""
    loads, first = layer["suites"], len(KINDS) + 1
    num_experts = len(loads["all"]["all"]["load"])
    right, last = _right(num_experts), first + len(suites)
    blocks = [(row, 0, "all", kind) for row, kind in enumerate(KINDS)]
    blocks += [(row, 0, suite, "all") for row, suite in enumerate(suites, first)]
    blocks += [(row, right, suite, "<synergy>") for row, suite in enumerate(suites, first)]
    load = np.full((last, right + num_experts), np.nan)
    for row, column, suite, kind in blocks:
        if kind in loads[suite]:
            load[row, column : column + num_experts] = loads[suite][kind]["load"]
    axes.imshow(load * num_experts, cmap=_COLOURS, norm=norm, aspect="auto")
    for (row, column), share in np.ndenumerate(load):
        if not np.isnan(share):
            ink = "white" if abs(norm(share * num_experts) - 0.5) > 0.33 else _INK
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_yticks([*range(len(KINDS)), *range(first, last)], [*KINDS, *suites], fontsize=8)
    experts = range(num_experts)
    axes.set_xticks(
        [*experts, *(right + index for index in experts)], [str(index) for index in experts] * 2, fontsize=8
    )
    axes.set_xlabel("expert", fontsize=8)
    axes.set_ylabel(f"layer {layer['layer']}", fontsize=10, weight="bold")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    notes = [(0, 0, "each kind of token"), (0, first, "all tokens of a suite"), (right, first, "its <synergy> alone")]
    for column, row, text in notes:
        axes.text(column - 0.5, row - 0.6, text, va="bottom", fontsize=8, color=_INK)
    text = "\n".join(["specialisation, 0 to 1", *_values(layer["specialisation"])])
    axes.text(right - 0.5, len(KINDS) / 2 - 0.5, text, va="center", fontsize=9, color=_INK, linespacing=1.5)


def _values(scopes: dict[str, dict | None]) -> list[str]:
    """Specialisation in words, and the most that chance would give."""
    measured = {scope: result for scope, result in scopes.items() if result}
    chance = max((result["chance_interval"][1] for result in measured.values()), default=0)
    return [
        *(f"{result['value']:.3f} {_SCOPE[scope]}" for scope, result in measured.items()),
        f"{chance:.3f} by chance",
    ]
