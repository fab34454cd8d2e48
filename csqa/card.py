# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The card of a CSQA dataset: what is in it, how its answers are spread, and what the words alone would tell."""

import hashlib
from pathlib import Path
from typing import Any

from polyv.csqa.selection import CAP, ENOUGH


_COLOURS = {
    "object_consistency": "#4477aa",
    "object_continuity": "#66ccee",
    "relation_interaction": "#ee6677",
    "relation_view_dependency": "#aa3377",
}
_LICENCES = {
    "pvsg": "PVSG's graphs annotate videos of VidOR, EPIC-KITCHENS and Ego4D, each with terms of its own.",
    "action_genome": "Action Genome annotates videos of Charades, which have a licence of their own.",
    "3dssg": "3DSSG annotates the scans of 3RScan, whose terms of use are to be signed by each user.",
}
# As the Hub has them.
_SIZES = ((100_000, "100K<n<1M"), (10_000, "10K<n<100K"), (1000, "1K<n<10K"), (0, "n<1K"))


def write_card(folder: Path, request: dict[str, Any], statistics: dict[str, Any]) -> None:
    """Write README.md and the figure it shows into a dataset's folder."""
    _draw(folder / "templates.png", statistics)
    rows, scenes = statistics["rows"], statistics["scenes"]
    total = sum(rows.values())
    is_world = request["source"] == "world"
    lines = [
        "---",
        "pretty_name: CSQA",
        "license: cc-by-4.0" if is_world else "license: other",
        "task_categories: [visual-question-answering]",
        "language: [en]",
        f"size_categories: [{next(name for least, name in _SIZES if total >= least)}]",
        "configs:",
        "- config_name: default",
        f"  version: {content_version(folder)}",
        "  data_files:",
        *(f"  - {{split: {split}, path: 'data/{split}-*.parquet'}}" for split in rows),
        "---",
        "",
        "# CSQA: questions across images, videos and 3D scenes",
        "",
        f"{total:,} questions on {sum(scenes.values()):,} scenes ({', '.join(f'{split} {n:,}' for split, n in rows.items())}; no scene is in two "
        "splits). Every answer was computed from a scene graph by the program in its row: `polyv csqa verify` executes all of "
        "them again.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'rows = load_dataset("DIR", split="train")  # streaming=True works, too',
        'print(rows[0]["question"], rows[0]["answer"])',
        "```",
        "",
        "    polyv train pretrain --model_name_or_path MODEL --dataset DIR --output_dir runs/mine",
        "",
        "| column | |",
        "| --- | --- |",
        "| `messages`, `images`, `videos`, `scenes` | a conversation, and the media that it shows, in TRL's convention |",
        "| `plain`, `wording` | the question in the words of its template, and whose words `question` has |",
        "| `question`, `answer`, `distractors` | the text, the true answer, and others that are true of something else in the scene |",
        "| `family`, `template` | the kind of question |",
        "| `shown`, `needed` | the media shown, and the one that the answer comes from: where it is not shown, it has to be inferred |",
        "| `program`, `support` | JSON: how the answer is computed, and the objects, relations, times and views that it rests on |",
        "| `scene_id`, `provenance` | which scene, and where it comes from; its graph is in `graphs/` |",
        "",
        *_words(statistics.get("wording")),
        "## Templates",
        "",
        "![rows of each template](templates.png)",
        "",
        "*Text prior*: how many answers of the test split (or validation, where there is none) the words of the question alone would give, by the best of six predictors "
        "fitted to the training split. Of questions that name two objects to choose from, half is chance. "
        f"{_capped(statistics['left_out'])}",
        "",
        "| family | template | shown | needed | rows | answers | most frequent | text prior | example |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(name, each) for name, each in statistics["templates"].items()),
        "",
        "## Where it comes from",
        "",
        *_origin(request, statistics),
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def content_version(folder: Path) -> str:
    """A version that changes with a dataset's files: `datasets` tells local folders of one name apart by it alone."""
    digest = hashlib.sha256()
    for file in sorted((folder / "data").glob("*.parquet")):
        digest.update(file.read_bytes())
    return f"1.0.{int.from_bytes(digest.digest()[:4], 'big')}"


def _words(wording: dict[str, Any] | None) -> list[str]:
    """What the card says of a language model's words."""
    if wording is None:
        return []
    rejected = wording["rejected"]
    causes = ", ".join(f"{cause} {count}" for cause, count in rejected.items())
    return [
        f"{wording['taken']} in the words of {wording['by']}, which was not told the answers; each was read back by a second request, as the "
        f"same question. {sum(rejected.values())} wordings did not hold{f' ({causes})' if causes else ''}: there "
        "the template's words stand. `plain` is always the template's question.",
        "",
    ]


def _capped(left_out: dict[str, float]) -> str:
    told = ", ".join(f"`{name}` ({prior:.2f})" for name, prior in left_out.items())
    return f"Templates of {ENOUGH} training rows and more are left out above {CAP:.2f} within the training split: {told or 'here, none'}."


def _line(name: str, template: dict[str, Any]) -> str:
    count = sum(template["rows"].values())
    answers = template["answers"]
    prior = template["text_prior"]
    question, answer = template["example"]
    return (
        f"| {template['family'].replace('_', ' ')} | `{name}` | {', '.join(template['shown'])} | {template['needed']} | {count} | "
        f"{len(answers)} | {max(answers.values()) / count:.2f} | {'' if prior is None else f'{prior:.2f}'} | {question} *{answer}* |"
    )


def _origin(request: dict[str, Any], statistics: dict[str, Any]) -> list[str]:
    if request["source"] == "world":
        return [
            f"A simulated world, made for this with seed {request['seed']} at {request['size']} pixels: its graphs are exact, and nothing in it is "
            "of third parties.",
            "",
            f"    polyv csqa build --source world --questions {request['questions']} --seed {request['seed']} --size {request['size']} --out DIR",
        ]
    lines = [
        f"Scene graphs, asked about with seed {request['seed']}:",
        "",
        "| source | scenes | media |",
        "| --- | --- | --- |",
    ]
    for name, source in statistics["sources"].items():
        held = "in here" if source["shared"] else "not in here: `polyv csqa fill` adds those that you have"
        lines.append(f"| {name} | {source['scenes']} | {held} |")
    notes = [_LICENCES[name] for name in statistics["sources"] if name in _LICENCES]
    return [*lines, "", *notes, "See to it that you may share what this holds before you publish it."]


def _draw(path: Path, statistics: dict[str, Any]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    templates = statistics["templates"]
    names = list(templates)[::-1]
    figure = Figure(figsize=(9, 0.24 * len(names) + 1.2), layout="constrained")
    counts, priors = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    colours = [_COLOURS.get(templates[name]["family"], "grey") for name in names]
    counts.barh(names, [sum(templates[name]["rows"].values()) for name in names], color=colours)
    counts.set_xlabel("rows")
    counts.tick_params(axis="y", labelsize=8)
    known = [(name, prior) for name in names if (prior := templates[name]["text_prior"]) is not None]
    priors.plot([prior for _, prior in known], [name for name, _ in known], "k|", markersize=8)
    priors.set_xlim(0, 1)
    priors.axvline(0.5, color="lightgrey", zorder=0)
    priors.set_xlabel("text prior")
    for family, colour in _COLOURS.items():
        counts.barh([names[0]], [0], color=colour, label=family.replace("_", " "))
    figure.legend(fontsize=8, loc="outside upper center", ncols=4)
    counts.margins(y=0.01)
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})


__all__ = ["content_version", "write_card"]
