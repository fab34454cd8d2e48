# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The table of a study: what its arms reached so far, as JSON, Markdown and a picture."""

import json
from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from polyv.evaluation.compare import compare_all
from polyv.evaluation.measurements import gather
from polyv.evaluation.study import Run, Study, Test
from polyv.files import whole, write_whole
from polyv.recipes.rows import MEDIA


def write_results(study: Study, command: str) -> dict[str, Any]:
    """Write what the study's measured arms reached; returns what the JSON file holds.

    Of a study on a world: {"arms": {arm: {seed: {suite: accuracy}}}, "prior": {suite: …}, "n": {suite: …}}. Of one on
    files of questions: {"results": [{the fields of the case, "arm", "seed", "suite", "accuracy", "n", "prior"}],
    "templates": [the same, with "template"]}. Of both {"flops": {arm: …}, "seconds": {arm: {seed: …}}, "command",
    "commit"}. Of a study with `against` also "compared", what `polyv.evaluation.compare` gives.
    """
    found = gather(study)
    results = (_of_world if "world" in study.test else _of_questions)(found)
    seconds: dict[str, dict[str, float]] = defaultdict(dict)
    flops = {}
    for run, _, measured in found:
        seconds[_label(run)][str(run.seed)] = measured["seconds"]
        flops[_label(run)] = measured.get("flops")  # lines of other days have none
    commits = sorted({measured["commit"] for _, _, measured in found if measured["commit"]})  # untuned has none
    results |= {"flops": flops, "seconds": seconds, "command": command, "commit": ", ".join(commits) or "?"}
    if study.against:
        results["compared"] = compare_all(found, study.against)
    out = Path(study.results)
    write_whole(out, json.dumps(results, indent=1) + "\n")
    if found:
        write_whole(out.with_suffix(".md"), to_markdown(results))
        draw(results, out.with_suffix(".png"))
    across = [row for row in results.get("compared", []) if row["base"] == study.against[0] and "labelled" in row]
    cells = {tuple(row.get(name) for name in ("arm", "teacher", "labelled", "tested")) for row in across}
    if across and len(cells) == len(across):  # not where cases differ in more, as in shares of labels
        draw_matrix(across, out.with_name(f"{out.stem}-matrix.png"))
    return results


def _label(run: Run) -> str:
    return " ".join([*run.case.values(), run.step["name"]])


def _of_world(found: list[tuple[Run, Test, dict]]) -> dict[str, Any]:
    arms: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    prior, n = {}, {}
    for run, _, measured in found:
        suites = measured["suites"]
        arms[run.step["name"]][str(run.seed)] = {name: suite["accuracy"] for name, suite in suites.items()}
        prior = {name: suite["prior"] for name, suite in suites.items()}
        n = {name: suite["n"] for name, suite in suites.items()}
    return {"arms": arms, "prior": prior, "n": n}


def _of_questions(found: list[tuple[Run, Test, dict]]) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {"results": [], "templates": []}
    for run, test, measured in found:
        common = {**run.case, **test.fields, "arm": run.step["name"], "seed": run.seed}
        for name, scores in {**measured["suites"], **measured["templates"]}.items():
            suite, _, template = name.partition("/")
            named = {"suite": suite, "template": template} if template else {"suite": suite}
            told = {key: scores[key] for key in ("accuracy", "n", "prior")}
            rows["templates" if template else "results"].append({**common, **named, **told})
    return rows


_SAID = {"arm", "seed", "suite", "template", "accuracy", "n", "prior"}
"""Of a row of results; its other fields are those of the case and of the test."""


def above_prior(accuracy: float, prior: float) -> float:
    """(accuracy − prior) / (1 − prior): 0 is what words alone give, 1 is all."""
    return (accuracy - prior) / (1 - prior)


def to_markdown(results: dict[str, Any]) -> str:
    """The table as Markdown; ± is the standard deviation over seeds, of which there are so many in parentheses where
    other arms have more."""
    lines = _world_lines(results) if "arms" in results else _question_lines(results)
    if results.get("compared"):
        lines += ["", *_compared_lines(results["compared"]), "", *_kind_lines(results["compared"])]
    return "\n".join([*lines, "", f"`{results['command']}`, commit {results['commit']}", ""])


def _spread(values: list[float], most: int | None = None) -> str:
    """Mean and standard deviation, and how many seeds where others have more."""
    if not values:
        return ""
    few = "" if most in (None, len(values)) else f" ({len(values)})"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "") + few


def _world_lines(results: dict[str, Any]) -> list[str]:
    suites = list(results["prior"])
    head = ["arm", "seeds", "mean", "above the prior", "MFLOPs a token", "minutes", *suites]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    priors = [
        "prior",
        "",
        f"{mean(results['prior'].values()):.3f}",
        "0",
        "",
        "",
        *map("{:.2f}".format, results["prior"].values()),
    ]
    for arm, seeds in results["arms"].items():
        means = [mean(accuracies.values()) for accuracies in seeds.values()]
        above = [mean(above_prior(a[s], results["prior"][s]) for s in suites) for a in seeds.values()]
        minutes = mean(results["seconds"][arm].values()) / 60
        flops = results["flops"].get(arm)
        each = [f"{mean(accuracies[suite] for accuracies in seeds.values()):.2f}" for suite in suites]
        cells = [
            arm,
            str(len(seeds)),
            _spread(means),
            _spread(above),
            f"{flops / 1e6:.2f}" if flops else "",
            f"{minutes:.0f}",
            *each,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, f"| {' | '.join(priors)} |"]


def _question_lines(results: dict[str, Any]) -> list[str]:
    rows = results["results"]
    if not rows:
        return []
    fields = [name for name in rows[0] if name not in _SAID]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    cases = {tuple(row[name] for name in fields): None for row in rows}
    groups: dict[tuple, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:  # each with its questions below
        for row in [*rows, *results["templates"]]:
            if tuple(row[name] for name in fields) == case:
                groups[*case, row.get("template", f"all of {row['suite']}")][row["arm"]].append(row)
    head = [*fields, "question", "n", "prior", *arms]
    most = len({row["seed"] for row in rows})
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for key, by_arm in groups.items():
        one = next(iter(by_arm.values()))[0]
        cells = [_spread([row["accuracy"] for row in by_arm.get(arm, [])], most) for arm in arms]
        cells = [*key, str(one["n"]), f"{one['prior']:.2f}", *cells]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _compared_lines(rows: list[dict[str, Any]]) -> list[str]:
    fields = _fields(rows)
    gaps = ["gap closed", "95 % over scenes"] if any("gap" in row for row in rows) else []
    head = [*fields, "arm", "against", "seeds", "difference", "95 % over scenes", "over seeds ±", "won", "lost", *gaps]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [*(row[name] for name in fields), row["arm"], row["base"], row["seeds"], f"{row['difference']:+.3f}"]
        cells += [_between(row["interval"], "+.3f"), "" if row["spread"] is None else f"{row['spread']:.3f}"]
        cells += [row["wins"], row["losses"]]
        if gaps:
            closed = row.get("closed")
            seeds = "" if row.get("gap_seeds") == row["seeds"] else f", {row.get('gap_seeds')} seed(s)"
            cells += ["" if closed is None else f"{closed:.0%} of {row['gap']:.3f}{seeds}"]
            cells += [_between(row.get("closed_interval"), ".0%")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _kind_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The differences by kind of question."""
    fields = _fields(rows)
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))
    lines = [f"| {' | '.join([*fields, 'arm', 'against', *kinds])} |", "|" + "---|" * (len(fields) + 2 + len(kinds))]
    for row in rows:
        cells = [*(row[name] for name in fields), row["arm"], row["base"]]
        for kind in kinds:
            told = row["kinds"].get(kind)
            cells.append("" if told is None else f"{told['difference']:+.3f} ({_between(told['interval'], '+.3f')})")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


_COMPARED = {"arm", "base", "seeds", "n", "difference", "interval", "spread", "wins", "losses", "kinds"}
_COMPARED |= {"gap", "gap_seeds", "closed", "closed_interval"}


def _fields(rows: list[dict[str, Any]]) -> list[str]:
    """Of what two arms are compared on: the case, and the test."""
    return [name for name in rows[0] if name not in _COMPARED]


def _between(interval: list[float] | None, form: str) -> str:
    return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def draw(results: dict[str, Any], path: Path) -> None:
    """Each arm as a row: its seeds as dots, their mean as a line."""
    if "arms" in results:
        panels = {
            "mean of ten suites": {
                arm: [mean(a.values()) for a in seeds.values()] for arm, seeds in results["arms"].items()
            }
        }
        priors = {"mean of ten suites": mean(results["prior"].values())}
    else:
        panels, priors = _question_panels(results["results"])
    figure = Figure(figsize=(7, 0.8 + sum(0.5 + 0.28 * len(arms) for arms in panels.values())), layout="constrained")
    heights = [1 + len(arms) for arms in panels.values()]
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
    for axes, (title, arms) in zip(grid[:, 0], panels.items(), strict=True):
        for place, values in enumerate(arms.values()):
            axes.plot(values, [place] * len(values), "o", color="#0077bb", alpha=0.6, markersize=5)
            axes.plot([mean(values)] * 2, [place - 0.35, place + 0.35], color="#0077bb", linewidth=2)
        axes.axvline(priors[title], color="#999999", linestyle="--", linewidth=1)
        axes.set_yticks(np.arange(len(arms)), list(arms))
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    grid[-1, 0].set_xlabel("accuracy; dots are seeds, dashed is what words alone give")
    with whole(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


def draw_matrix(rows: list[dict[str, Any]], path: Path) -> None:
    """How far each arm is above the first base, by the modality that was labelled and the one that was asked about: a
    matrix for each teacher and arm. Bold: the interval over test scenes does not hold 0. Empty: not measured."""
    kinds = [kind for kind in MEDIA if any(kind in (row["labelled"], row["tested"]) for row in rows)]
    teachers = list(dict.fromkeys(row.get("teacher", "") for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure = Figure(figsize=(1.2 + 1.75 * len(arms), 0.6 + 1.9 * len(teachers)), layout="constrained")
    grid = figure.subplots(len(teachers), len(arms), squeeze=False, sharex=True, sharey=True)
    for axes, (teacher, arm) in zip(grid.flat, product(teachers, arms), strict=True):
        matrix = np.full((len(kinds), len(kinds)), np.nan)
        for row in (row for row in rows if (row.get("teacher", ""), row["arm"]) == (teacher, arm)):
            place = kinds.index(row["labelled"]), kinds.index(row["tested"])
            matrix[place] = row["difference"]
            sure = row["interval"][0] > 0 or row["interval"][1] < 0
            text = f"{row['difference']:+.3f}\n{row['seeds']} seed{'s' * (row['seeds'] > 1)}"
            weight = "bold" if sure else "normal"
            axes.text(*reversed(place), text, ha="center", va="center", fontsize=8, weight=weight)
        axes.imshow(matrix, cmap="RdBu", vmin=-0.06, vmax=0.06)
        axes.set_xticks(range(len(kinds)), kinds, fontsize=8)
        axes.set_yticks(range(len(kinds)), kinds, fontsize=8, rotation=90, va="center")
        axes.set_title(arm if teacher == teachers[0] else "", fontsize=9)
    for axes, teacher in zip(grid[:, 0], teachers, strict=True):
        axes.set_ylabel(f"{teacher}\nlabelled".strip(), fontsize=9)
    figure.supxlabel(f"asked about; accuracy less that of {rows[0]['base']}", fontsize=9)
    with whole(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


def _question_panels(rows: list[dict[str, Any]]) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    by_run: dict[tuple[str, str, int], list[dict]] = defaultdict(list)
    for row in rows:
        title = ", ".join(f"{name}: {value}" for name, value in row.items() if name not in _SAID)
        by_run[title, row["arm"], row["seed"]].append(row)
    panels: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    priors: dict[str, float] = {}
    for (title, arm, _), suites in by_run.items():
        panels[title][arm].append(mean(row["accuracy"] for row in suites))
        priors[title] = mean(row["prior"] for row in suites)
    return panels, priors


__all__ = ["above_prior", "draw", "draw_matrix", "to_markdown", "write_results"]
