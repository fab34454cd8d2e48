# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Stage 2b, fine: questions across modalities (CSQA) align objects and relations.

```bash
polyv csqa build --questions 20000 --seed 0 --out csqa-world
polyv train align --config recipes/polyv-nano/align.yaml
```

L = L_ce + α·L_aux, as in the paper. With caches of teachers' features (`temporal_targets`, `spatial_targets`) L_coarse is
added, on the rows that have a video or a scene, each of which has to be in the cache.

Source: paper, section on training, stage 2; SPEC §3.
"""

from trl import SFTConfig

from polyv.recipes.stage import DataArguments, ModelArguments, parse, run
from polyv.recipes.synergy import SynergyArguments


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    arguments, data, synergy, training = parse(
        "align", (ModelArguments, DataArguments, SynergyArguments, SFTConfig), argv
    )
    run(arguments, data, training, synergy)


if __name__ == "__main__":
    main()
