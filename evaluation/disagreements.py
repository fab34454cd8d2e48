# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Where two arms of a study answer otherwise, and how often each is right: `polyv demo` draws one such question.

    python -m polyv.evaluation.disagreements --config recipes/polyv-nano/ablation.yaml --arms dense full

writes `FILE`, from the answers of one seed that lie under the study's `out`:

    {"study": …, "arms": ["dense", "full"], "seed": 0, "commits": ["1a2b3c4", "1a2b3c4"],
     "version": …, "world": {"split": "test", "seed": 1, "size": 112},
     "counts": {"both": …, "dense": …, "full": …, "neither": …},   # of all questions: who was right
     "questions": [{"suite": …, "question": …, "answer": …, "given": [of dense, of full],
                    "media": [{"type": "video", "video": "scenes/000002/video.mp4"}]}]}
"""

import argparse
import json
from pathlib import Path
from typing import Any

from polyv.evaluation.evaluate import write_whole
from polyv.evaluation.measurements import is_measured, read_commit
from polyv.evaluation.metrics import normalise
from polyv.evaluation.study import Run, Study


FILE = Path(__file__).with_name("disagreements.json")
"""What the demo draws from."""


def find_disagreements(study: Study, arms: list[str], seed: int) -> dict[str, Any]:
    """What `FILE` holds: of all questions that both arms were asked, those with different answers, in the test's order.

    Args:
        study: one whose test is a world.
        arms: names of two.
        seed: of the runs.

    Raises:
        ValueError: the study asks no world's questions; an arm is none of its; or was not measured here, or on others.
    """
    if "world" not in study.test:
        raise ValueError("study: its test is no world; expected one with `test: {world: …}`.")
    one, other = (_answers(study, name, seed) for name in arms)
    if [row["id"] for row in one] != [row["id"] for row in other]:
        raise ValueError(f"arms: {arms[0]} and {arms[1]} answered other questions; measure both anew.")
    world = Path(study.test["world"])
    manifest = json.loads((world / "manifest.json").read_text(encoding="utf-8"))
    with open(world / "questions.jsonl", encoding="utf-8") as lines:
        media = {row["id"]: row["messages"][0]["content"] for row in map(json.loads, lines)}
    who = {(True, True): "both", (True, False): arms[0], (False, True): arms[1], (False, False): "neither"}
    right = dict.fromkeys(who.values(), 0)
    differ = []
    for row, theirs in zip(one, other, strict=True):
        given = [row["given"], theirs["given"]]
        first, second = (normalise(text) == normalise(row["answer"]) for text in given)
        right[who[first, second]] += 1
        if normalise(given[0]) != normalise(given[1]):
            shown = [part for part in media[row["id"]] if part["type"] != "text"]
            kept = {name: row[name] for name in ("suite", "question", "answer")}
            differ.append({**kept, "given": given, "media": shown})
    return {
        "arms": arms,
        "seed": seed,
        "commits": [read_commit(_run(study, name, seed)) for name in arms],
        "version": manifest["version"],
        "world": {name: manifest[name] for name in ("split", "seed", "size")},
        "counts": right,
        "questions": differ,
    }


def _run(study: Study, name: str, seed: int) -> Run:
    found = [run for run in study.runs() if run.step["name"] == name and run.seed == seed and run.tests()]
    if not found:
        raise ValueError(f"arms: the study has no arm {name} of seed {seed}.")
    return found[0]


def _answers(study: Study, name: str, seed: int) -> list[dict[str, Any]]:
    run = _run(study, name, seed)
    (test,) = run.tests()
    file = test.answers
    if not file.is_file() or not is_measured(run, test, {}):
        raise ValueError(f"arms: {name} of seed {seed} was not measured here; {file} is missing. Run `polyv ablate`.")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def main(given: list[str] | None = None) -> None:
    """The command in this module's first lines."""
    parser = argparse.ArgumentParser(
        prog="python -m polyv.evaluation.disagreements", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--config", required=True, metavar="YAML", help="a study whose test is a world")
    parser.add_argument("--arms", required=True, nargs=2, metavar="NAME", help="two of its arms, measured here")
    parser.add_argument("--seed", type=int, default=0, help="of their runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FILE, metavar="FILE", help="JSON (default: the demo's own)")
    args = parser.parse_args(given)
    try:
        found = find_disagreements(Study.read(args.config), args.arms, args.seed)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    write_whole(args.out, json.dumps({"study": args.config, **found}) + "\n")
    print(f"{args.out}: {len(found['questions'])} questions; right: {found['counts']}")


if __name__ == "__main__":
    main()


__all__ = ["FILE", "find_disagreements"]
