# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Two processes of a CPU, which torchrun starts."""

import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]


def run_two(module: str, *arguments: str, **environment: str) -> None:
    """Run `python -m MODULE ARGUMENTS` twice, as ranks 0 and 1 of one group.

    Args:
        environment: added to this process's.

    Raises:
        AssertionError: one of them failed; with the end of what they said.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ran = subprocess.run(
        [*command, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
