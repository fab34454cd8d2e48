# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A study for tests, and measurements as if its arms had been trained."""

import json

from polyv.evaluation.study import Run, Test


SETTINGS = {
    "out": "runs",
    "results": "results.json",
    "test": {"questions": "{labelled}-{tested}.jsonl", "tested": ["image", "{labelled}"]},
    "seeds": [0, 1],
    "cases": [{"labelled": "video"}, {"labelled": "scene"}],
    "steps": [
        {"name": "base", "stage": "caption", "from": "start", "config": "recipe.yaml"},
        {"name": "swapped", "stage": "control", "set": {"control": "blind", "dataset": "{labelled}.jsonl"}},
        {"name": "untuned", "from": "start", "arm": True},
        {
            "name": "full", "stage": "align", "from": "base", "config": "recipe.yaml", "arm": True, "seeds": [1],
            "set": {"dataset": ["{swapped}"], "max_steps": 7, "{labelled}_field": 1}, "cases": {"labelled": "video"},
        },
    ],
}  # fmt: skip


def report(accuracy: float, test: Test) -> str:
    suites = {name: {"accuracy": accuracy, "prior": 0.5, "n": 4} for name in ("one", "two")}
    templates = {f"{name}/x": scores for name, scores in suites.items()}
    return json.dumps({"suites": suites, "templates": templates, **test.settings})


def put(run: Run, test: Test, accuracy: float) -> None:
    """As if an arm had been measured: two scenes, of two questions and of one, the first of them answered rightly."""
    test.report.parent.mkdir(parents=True, exist_ok=True)
    test.report.write_text(report(accuracy, test))
    run.beside("recipe").write_text(run.recipe())
    rows = [
        {"id": f"s-{n}", "scene_id": f"s{n // 2}", "suite": ("one", "two")[n % 2], "template": "x"}
        | {"question": "Is it?", "answer": "yes"}
        for n in range(3)
    ]
    given = [{**row, "given": "Yes." if n == 0 else "no"} for n, row in enumerate(rows)]
    test.answers.write_text("".join(json.dumps(row) + "\n" for row in given))
