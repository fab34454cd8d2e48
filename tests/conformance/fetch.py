# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Take the common test suites out of the source distribution of the installed transformers, and print their folder.

```bash
python -m tests.conformance.fetch build
```
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


def fetch(build: Path) -> Path:
    """The folder with the suites, made under `build` unless it is there already.

    Raises:
        subprocess.CalledProcessError: pip cannot download it; what it said stands on standard error.
        ValueError: the distribution holds no suites.
    """
    version = transformers.__version__
    folder = build / f"transformers-tests-{version}"
    if folder.exists():
        return folder
    build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as scratch:
        wanted = [f"transformers=={version}", "--no-deps", "--no-binary", "transformers", "--dest", scratch]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted], check=True, stdout=sys.stderr)
        (archive,) = Path(scratch).glob("transformers-*.tar.gz")
        with tarfile.open(archive) as content:
            content.extractall(scratch, filter="data")
        suites = Path(scratch) / f"transformers-{version}" / "tests"
        if not (suites / "test_modeling_common.py").is_file():
            raise ValueError(
                f"transformers {version}: its source distribution holds no tests/test_modeling_common.py."
            )
        (suites / "__init__.py").touch()  # one of them imports the folder it stands in
        suites.rename(folder)
    return folder


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1])))
