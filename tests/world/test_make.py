# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Making a world: the same bytes whatever happens on the way, and no half scene anywhere."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyv.world import conversations, make
from polyv.world.conversations import FILES, QUESTIONS_VERSION
from polyv.world.make import has_current_questions, load_records, make_world


REQUEST = {"scenes": 4, "seed": 5, "size": 32, "split": "validation"}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Made in one go, by one process."""
    return make_world(tmp_path_factory.mktemp("world") / "validation", **REQUEST, workers=1, progress=False)


def test_folder_holds_what_was_asked_for(world):
    assert json.loads((world / "manifest.json").read_text()) == {
        **REQUEST,
        "version": make.VERSION,
        "questions": QUESTIONS_VERSION,
    }
    records = load_records(world)
    assert [record.scene_id for record in records] == ["000000", "000001", "000002", "000003"]
    for record in records:
        assert (record.split, record.seed, record.image_camera.width) == ("validation", 5, 32)
        for path in record.media.model_dump(include={"image", "moved", "video", "scene"}).values():
            assert (world / path).exists()
    for name in ("captions", "general", "suites", "questions"):
        assert (world / f"{name}.jsonl").exists()


def test_two_workers_give_the_same_bytes(world, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["polyv"])  # spares the workers, which inherit it, the import of torch
    make_world(tmp_path / "two", **REQUEST, workers=2, progress=False)
    assert digests(tmp_path / "two") == digests(world)


def test_killed_run_continues_to_the_same_bytes(world, tmp_path):
    out = tmp_path / "killed"
    program = f"import sys; sys.argv[0] = 'polyv'\nfrom polyv.world.make import make_world\nmake_world({str(out)!r}, **{REQUEST!r}, workers=1)"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "scenes" / "000000").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = {path.name for path in (out / "scenes").glob("0*")}
    assert there and len(there) < REQUEST["scenes"]
    make_world(out, **REQUEST, workers=1, progress=False)
    assert digests(out) == digests(world)


def test_interrupt_leaves_only_whole_scenes(world, tmp_path, monkeypatch):
    out = tmp_path / "interrupted"
    write_scene = make.write_scene

    def interrupted(scene, folder, size):
        record = write_scene(scene, folder, size)
        if scene.index == 2:
            raise KeyboardInterrupt
        return record

    monkeypatch.setattr(make, "write_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_world(out, **REQUEST, workers=1, progress=False)
    monkeypatch.undo()
    assert sorted(path.name for path in (out / "scenes").glob("0*")) == ["000000", "000001"]
    assert len(load_records(out)) == 2
    make_world(out, **REQUEST, workers=1, progress=False)
    assert digests(out) == digests(world)


def test_finished_world_is_left_alone(world, monkeypatch):
    before = digests(world)
    monkeypatch.setattr(make, "write_scene", lambda *arguments: pytest.fail("a scene was made again"))
    make_world(world, **REQUEST, workers=1, progress=False)
    assert digests(world) == before


def test_other_questions_are_written_anew_and_scenes_kept(world, tmp_path, monkeypatch):
    out = tmp_path / "stale"
    shutil.copytree(world, out)
    assert has_current_questions(out)
    monkeypatch.setattr(conversations, "QUESTIONS_VERSION", QUESTIONS_VERSION + 1)
    assert not has_current_questions(out)
    for name in FILES:
        (out / name).write_text("yesterday's\n")
    monkeypatch.setattr(make, "write_scene", lambda *arguments: pytest.fail("a scene was made again"))
    make_world(out, **REQUEST, workers=1, progress=False)
    assert has_current_questions(out)
    assert json.loads((out / "manifest.json").read_text())["questions"] == QUESTIONS_VERSION + 1
    written, expected = digests(out), digests(world)
    assert {name for name in expected if written[name] != expected[name]} == {"manifest.json"}


def test_worlds_of_before_there_were_versions_of_questions_are_stale(world, tmp_path):
    assert not has_current_questions(tmp_path / "nowhere")
    out = tmp_path / "old"
    shutil.copytree(world, out)
    (out / "manifest.json").write_text(json.dumps({**REQUEST, "version": make.VERSION}))
    assert not has_current_questions(out)
    make_world(out, **REQUEST, workers=1, progress=False)
    assert digests(out) == digests(world)


def test_a_lost_file_is_written_again(world, tmp_path):
    out = tmp_path / "lost"
    shutil.copytree(world, out)
    (out / "general.jsonl").unlink()
    assert not has_current_questions(out)
    make_world(out, **REQUEST, workers=1, progress=False)
    assert digests(out) == digests(world)


def test_two_at_once_in_one_folder_are_refused(tmp_path):
    """The second leaves the first one's half scenes alone, and says who is at work."""
    out = tmp_path / "busy"
    program = f"from polyv.world.make import make_world\nmake_world({str(out)!r}, **{REQUEST!r}, workers=1)"
    first = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("scenes/.0*")) and time.monotonic() < deadline:
        assert first.poll() is None
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    at_work = set((out / "scenes").iterdir())
    try:
        with pytest.raises(BlockingIOError, match=rf"busy is in use by another .*process {first.pid}\)"):
            make_world(out, **REQUEST, workers=1, progress=False)
        assert set((out / "scenes").iterdir()) == at_work
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(120) == 0 and len(load_records(out)) == REQUEST["scenes"]
    assert (out / ".lock").read_text() == ""


def test_without_affinity_all_cores_are_taken(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS has none
    assert make._cores() == os.cpu_count()


@pytest.mark.parametrize("change", [{"seed": 6}, {"size": 34}, {"scenes": 5}, {"split": "test"}])
def test_another_request_into_the_same_folder_is_refused(world, change):
    before = digests(world)
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=rf"{name} {REQUEST[name]}; asked for {name} {value}"):
        make_world(world, **{**REQUEST, **change}, workers=1, progress=False)
    assert digests(world) == before


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty and holds no manifest\.json"):
        make_world(tmp_path, **REQUEST, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenes": 0}, "scenes: got 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 2**32}, "seed: got 4294967296"),
        ({"size": 33}, "size: got 33"),
        ({"size": 16}, "size: got 16"),
        ({"size": 4096}, "size: got 4096"),
        ({"split": "dev"}, "split: got 'dev'"),
        ({"workers": 0}, "workers: got 0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_world(tmp_path / "new", **{**REQUEST, "progress": False, **change})
    assert not (tmp_path / "new").exists()


def test_load_records_says_where_it_found_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="polyv world make"):
        load_records(tmp_path)
