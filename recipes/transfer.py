# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Data for cross-modal transfer: the same questions about the same contents, asked of one modality or of another.

```bash
python -m polyv.recipes.transfer --world data/train --out data/transfer/train
python -m polyv.recipes.transfer --world data/validation-600 --out data/transfer/validation
```

Two families of questions have answers that do not depend on the medium: what happens (asked of clips before a standing
camera, whose first frame is the image) and where things stand in space (but not from the camera), where all that is
asked about shows in the image. For each:

FAMILY-MODALITY.jsonl             conversations on one modality, with answers: what is labelled
FAMILY-MODALITY-silent.jsonl      the same contents and questions without answers, shown in the other modalities
FAMILY-MODALITY-questions.jsonl   one question a row, for testing
"""

import argparse
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from polyv.csqa.balance import Balance
from polyv.files import whole
from polyv.recipes.rows import MEDIA
from polyv.world.make import iter_records
from polyv.world.questions import SUITES, Question, ask_these
from polyv.world.records import WorldRecord
from polyv.world.sightings import Sight
from polyv.world.templates import Template


FAMILIES: dict[str, tuple[Template, ...]] = {
    "temporal": SUITES["general_video"],
    "spatial": tuple(
        template
        for template in (*SUITES["spatial_image"], *SUITES["situated_qa"])
        if template.name != "closer_to_camera"
    ),
}
"""Questions of which no answer depends on the medium that is shown."""
KINDS = ("", "-silent", "-questions")
_TURNS, _TRAINING_QUESTIONS, _TEST_QUESTIONS = 8, 3, 1


def prepare(world: str | os.PathLike, out: str | os.PathLike, seed: int = 0) -> dict[str, int]:
    """Write the files of all families and modalities into `out`, each whole or not at all.

    Returns:
        Rows of each file.
    """
    world, out = Path(world), Path(out)
    base = os.path.relpath(world.absolute(), out.absolute())
    names = [f"{family}-{kind}{what}.jsonl" for family in FAMILIES for kind in MEDIA for what in KINDS]
    counts = dict.fromkeys(names, 0)
    balances = {(family, what): Balance() for family in FAMILIES for what in KINDS}
    total = len(list((world / "scenes").iterdir()))
    with ExitStack() as stack:
        parts = {name: stack.enter_context(whole(out / name)) for name in names}
        files = {name: stack.enter_context(part.open("w", encoding="utf-8")) for name, part in parts.items()}
        for index, record in enumerate(
            tqdm(iter_records(world), total=total, desc="transfer questions", disable=None)
        ):
            sight = Sight(record)
            for family, templates in FAMILIES.items():
                if family == "spatial" and len(sight.in_image) < len(sight.solids):
                    continue  # something stands where the image does not show it
                rngs = (np.random.default_rng([seed, index, part]) for part in range(3))
                learned = ask_these(templates, record, next(rngs), balances[family, ""], _TRAINING_QUESTIONS)
                tested = ask_these(templates, record, next(rngs), balances[family, "-questions"], _TEST_QUESTIONS)
                order = next(rngs).permutation(len(learned))[:_TURNS]
                for kind in MEDIA:
                    rows = _rows(record, kind, base, [learned[i] for i in order], tested)
                    for what, row in rows:
                        name = f"{family}-{kind}{what}.jsonl"
                        files[name].write(json.dumps(row, ensure_ascii=False) + "\n")
                        counts[name] += 1
    return counts


def _rows(
    record: WorldRecord, kind: str, base: str, learned: list[Question], tested: list[Question]
) -> list[tuple[str, dict[str, Any]]]:
    media = {modality: os.path.join(base, getattr(record.media, modality)) for modality in MEDIA}
    content = {"video": media["video"], "scene": media["scene"]}
    common = {"scene_id": record.scene_id, "templates": sorted({question.template for question in learned})}
    rows: list[tuple[str, dict[str, Any]]] = []
    if learned:
        messages = [turn for n, q in enumerate(learned) for turn in _turn(q, kind, media if n == 0 else None)]
        rows.append(("", {"id": f"{record.scene_id}-{kind}", **common, "messages": messages, "content": content}))
        prompts = list(dict.fromkeys(question.question for question in learned))
        silent = {
            "id": f"{record.scene_id}-{kind}-silent",
            **common,
            "content": {other: medium for other, medium in media.items() if other != kind},
            "teachers": content,
            "prompts": prompts,
        }
        rows.append(("-silent", silent))
    for question in tested:
        row = {key: getattr(question, key) for key in ("suite", "template", "question", "answer")}
        name = f"{record.scene_id}-{question.suite}-{question.template}"
        named = {"id": name, "scene_id": record.scene_id, **row}
        rows.append(("-questions", {**named, "messages": _turn(question, kind, media)}))
    return rows


def _turn(question: Question, kind: str, media: dict[str, str] | None) -> list[dict[str, Any]]:
    shown = [] if media is None else [{"type": kind, kind: media[kind]}]
    return [
        {"role": "user", "content": [*shown, {"type": "text", "text": question.question}]},
        {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
    ]


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m polyv.recipes.transfer", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--world", required=True, help="a folder that `polyv world make` wrote")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of questions (default: %(default)s)")
    args = parser.parse_args(argv)
    for name, count in prepare(args.world, args.out, args.seed).items():
        print(f"{name}: {count} rows")


if __name__ == "__main__":
    main()
