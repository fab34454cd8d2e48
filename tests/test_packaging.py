# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The package as others get it: real files instead of links, one importable name, nothing of this machine."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
FOLDERS = ("configuration", "csqa", "evaluation", "hub", "modeling_polyv", "processing", "recipes", "world")


def tracked() -> list[Path]:
    """Files under version control, or that would be; skips where there is no git checkout (an sdist, say)."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.splitlines() if (path := ROOT / name).is_file() and not path.is_symlink()]


def test_the_package_links_every_folder_and_nothing_else():
    links = {path.name: path.resolve() for path in (ROOT / "src" / "polyv").iterdir() if path.is_symlink()}
    assert links == {name: ROOT / name for name in FOLDERS}


def test_no_machine_paths_are_tracked():
    """Paths of someone's machine in a file would break on every other, and tell whose it was."""
    pattern = re.compile(rb"(?<![\w.])/(?:root|home|Users|work|mnt|private|pyenv)/[\w.-]+")
    binary = {".png", ".mp4", ".safetensors", ".gif", ".jpg"}
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in tracked()
        if path.suffix not in binary and path != Path(__file__)
        for match in pattern.finditer(path.read_bytes())
    ]
    assert not found


def test_files_stay_readable_in_one_sitting():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked()
        if path.suffix == ".py"
        and (lines := path.read_text(encoding="utf-8").count("\n")) > 450
        # Exported code is a copy of files that are counted themselves.
        and "checkpoints" not in path.parts
    }
    assert not long


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools builds in the source tree: from a copy, so that a checkout stays clean and tests may run at once.
    source = folder / "source"
    for path in tracked():
        name = path.relative_to(ROOT)
        if name.parts[0] not in ("checkpoints", "docs", "tests"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(path.read_bytes())
    for name in FOLDERS:
        (source / "src" / "polyv" / name).symlink_to(Path("../..") / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=300)
    [built] = folder.glob("polyv-*.whl")
    return zipfile.ZipFile(built)


@pytest.mark.slow
def test_the_wheel_holds_real_files_under_one_name(wheel):
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"polyv"}
    expected = {f"polyv/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    expected |= {f"polyv/{path.name}" for path in (ROOT / "src" / "polyv").glob("*.py")} | {"polyv/py.typed"}
    assert expected <= set(names)
    for info in wheel.infolist():
        assert (info.external_attr >> 16) & 0o170000 in (0, 0o100000), f"{info.filename} is no regular file"
    for name in expected:
        source = ROOT / "src" / name
        assert wheel.read(name) == source.read_bytes(), name


@pytest.mark.slow
def test_the_wheel_holds_the_recipes_and_the_data_that_the_code_reads(wheel):
    names = wheel.namelist()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".yaml", ".json", ".jinja"):
                assert f"polyv/{path.relative_to(ROOT)}" in names


@pytest.mark.slow
def test_the_wheel_installs_alone_and_runs(wheel, tmp_path):
    """Into a folder of its own, used in an isolated Python: neither this checkout nor its install can help."""
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), wheel.filename]
    subprocess.run(command, check=True, timeout=300)
    tops = {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"polyv", "bin"}
    code = f"""
import sys
sys.path.insert(0, {str(target)!r})
import polyv
assert polyv.__file__.startswith({str(target)!r}), polyv.__file__
from polyv import PolyVConfig, PolyVModel, PolyVForConditionalGeneration, PolyVProcessor, PosedViews
print(PolyVConfig().model_type)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "polyv", done.stderr
