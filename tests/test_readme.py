# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""README.md tells the truth: its snippets run as they stand, its tree and its links are there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What a test cannot have (a 7B from the Hub) or wait for. Everything else runs as it is printed.
SMALLER = {
    "Qwen/Qwen2.5-VL-7B-Instruct": "checkpoints/polyv-nano-backbone",
    "--max_steps 100": "--max_steps 2",
    "--n 300": "--n 2",
}


def test_the_tree_shows_what_is_there():
    tree = README.split("## The tree")[1].split("```")[1]
    folder = ROOT
    shown = set()
    for line in tree.strip().splitlines():
        names = re.findall(r"[\w./-]+(?:/|\.py)(?=\s|$)", line.split("   ")[0])
        assert names, line
        if not line.startswith(" "):
            folder = ROOT / names[0]
            assert folder.is_dir(), line
            shown.add(names[0].split("/")[0])
        else:
            assert all((folder / name).is_file() for name in names), line
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= shown


def test_links_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_every_make_command_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        for target in re.findall(r"^    make ([\w-]+)", text, re.MULTILINE):
            assert f"\n{target}: " in makefile


def test_what_is_replaced_is_there():
    assert all(text in README for text in SMALLER)


@pytest.mark.slow
def test_the_snippets_run(tmp_path):
    """In their order, in a folder that holds nothing but links to what a clone has."""
    for name in ("checkpoints", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    for language, code in blocks:
        for text, smaller in SMALLER.items():
            code = code.replace(text, smaller)
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "report.json").exists()
    assert (tmp_path / "exported" / "polyv-nano" / "modeling_polyv.py").exists()
