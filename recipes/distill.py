# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Stage 2a, coarse: `<synergy>` learns to foresee what frozen teachers make of a content's video and of its 3D scene.

```bash
for t in temporal spatial; do
    polyv teachers cache --teacher checkpoints/teacher-$t --dataset data/train/contents.jsonl --regions 2 2 2 --out runs/targets-$t-regions
done
polyv train distill --config recipes/polyv-nano/distill.yaml
```

L = L_coarse + α·L_aux. A row names one content: `{"content": {"image": "1.png", "video": "1.mp4", "scene": "1/"},
"prompts": ["What happens?"]}`, any of the modalities. The student sees one of them, drawn at random; terms whose
modality a row lacks are left out. Rows with messages may stand among them, and then L_ce is added on their answers.

Source: paper, section on training, stage 2; SPEC §3.
"""

from trl import SFTConfig

from polyv.recipes.stage import DataArguments, ModelArguments, parse, run
from polyv.recipes.synergy import SynergyArguments


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    arguments, data, synergy, training = parse(
        "distill", (ModelArguments, DataArguments, SynergyArguments, SFTConfig), argv
    )
    if synergy.temporal_targets is None and synergy.spatial_targets is None:
        raise ValueError("temporal_targets, spatial_targets: got neither. Make a cache with `polyv teachers cache`.")
    run(arguments, data, training, synergy)


if __name__ == "__main__":
    main()
