# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Stage 1b: instructions about one modality train all feed-forward networks, which are to become one expert a layer.

```bash
for modality in image video scene; do
  polyv train instruct --config recipes/polyv-nano/instruct.yaml --modality $modality --output_dir runs/polyv-nano-$modality
done
polyv merge runs/polyv-nano-caption runs/polyv-nano-merged --image runs/polyv-nano-image --video runs/polyv-nano-video \\
    --scene runs/polyv-nano-scene
```

Of the rows, those are taken whose media are all of the modality. All layers train, so that whatever placement of experts
is chosen later, `polyv merge` takes its layers from the same run.

Source: paper, section on training, stage 1; SPEC §3.
"""

import json
from dataclasses import dataclass, field

from datasets import Dataset
from trl import SFTConfig

from polyv.recipes.rows import MEDIA, RowError
from polyv.recipes.stage import DataArguments, ModelArguments, parse, run


@dataclass
class InstructArguments(ModelArguments):
    trainable: str = field(default="ffn", metadata={"help": "What trains, see polyv.recipes.trainable."})
    modality: str | None = field(default=None, metadata={"help": f"Whose rows to train on: {', '.join(MEDIA)}."})

    def __post_init__(self):
        super().__post_init__()
        if self.modality not in MEDIA:
            raise ValueError(f"modality={self.modality}: expected one of {', '.join(MEDIA)}.")


def of_modality(rows: Dataset, modality: str) -> Dataset:
    """The rows that show media of `modality` and of no other.

    Raises:
        RowError: there are none.
    """
    kept = [index for index, text in enumerate(rows["messages"]) if modalities(json.loads(text)) == {modality}]
    print(f"{len(kept):,} of {len(rows):,} rows show only {modality}s, and train", flush=True)
    if not kept:
        raise RowError(f"dataset: of {len(rows)} rows, none shows only {modality}s. Give data that has some.")
    return rows.select(kept)


def modalities(messages: list[dict]) -> set[str]:
    """Of the media that a conversation shows."""
    return {entry["type"] for message in messages for entry in message["content"]} & set(MEDIA)


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    arguments, data, training = parse("instruct", (InstructArguments, DataArguments, SFTConfig), argv)
    run(arguments, data, training, keep=lambda rows: of_modality(rows, arguments.modality), rows_of=arguments.modality)


if __name__ == "__main__":
    main()
