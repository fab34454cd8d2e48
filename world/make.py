# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv world make`: render a split to disk. Uses all cores, can be interrupted, resumes.

OUT/manifest.json           what was asked for, and the version of the questions once they are written
OUT/scenes/000000/          image.png, moved.png, video.mp4, scene/ (ScanNet's layout), record.json
OUT/captions.jsonl, ...     conversations made from the records (polyv.world.conversations)
OUT/.lock                   names the process that works on the folder while one does
"""

import fcntl
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

from tqdm import tqdm

from polyv.csqa.records import SPLITS, Split
from polyv.files import write_whole
from polyv.world.media import scene_name, write_scene
from polyv.world.records import WorldRecord
from polyv.world.scenes import build


VERSION = 1  # of the scenes: raise it whenever the same request renders others. Questions have their own
_SIZES = (32, 1024)
_LOCK, _MANIFEST = ".lock", "manifest.json"


def make_world(
    out: str | os.PathLike,
    scenes: int,
    seed: int,
    size: int = 112,
    split: Split = "train",
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render `scenes` scenes of a split into the folder `out`, then write their conversations.

    The same arguments give the same bytes on the same machine. Scenes that `out` already holds are kept, so that an
    interrupted run continues; a scene's folder appears complete or not at all. The conversations are written anew
    where `out` is not yet complete, or where today's programs ask other questions than those that it holds
    (`has_current_questions`); the scenes stay as they are.

    Args:
        out: folder, made if needed.
        scenes: how many.
        seed: scenes of two seeds, or of two splits with one seed, have nothing in common.
        size: width and height of all pictures, pixels; even, 32 to 1024.
        split: "train", "validation" or "test".
        workers: processes; None takes all cores.
        progress: show a progress bar.

    Returns:
        `out` as a path.

    Raises:
        ValueError: an argument out of range, or `out` holds what another request made.
        BlockingIOError: another process is making a world in `out`.
    """
    request = _check(scenes, seed, size, split, workers)
    folder = Path(out)
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, "polyv world make"):
        _claim(folder, request)
        _make_scenes(folder, scenes, seed, size, split, workers, progress)
        _write_conversations(folder, request)
    return folder


def has_current_questions(folder: str | os.PathLike) -> bool:
    """Whether a world's JSONL files are all there and written by today's captions and question programs.

    If not, `make_world` with the world's own request (its manifest) mends it, in seconds. False where there is no
    world at all.
    """
    # Late, here and below: workers, which import this module, need none of it.
    from polyv.world.conversations import FILES, QUESTIONS_VERSION

    folder = Path(folder)
    if not (folder / _MANIFEST).is_file() or not all((folder / name).is_file() for name in FILES):
        return False
    return _manifest(folder).get("questions") == QUESTIONS_VERSION


def _make_scenes(
    folder: Path, scenes: int, seed: int, size: int, split: Split, workers: int | None, progress: bool
) -> None:
    """Render what is missing."""
    missing = [index for index in range(scenes) if not (folder / "scenes" / scene_name(index)).exists()]
    one = partial(make_scene, folder=folder, seed=seed, size=size, split=split)
    with tqdm(
        total=scenes, initial=scenes - len(missing), desc=f"{split} scenes", unit="scene", disable=not progress
    ) as bar:
        for _ in _run(one, missing, workers or _cores()):
            bar.update()


def _write_conversations(folder: Path, request: dict) -> None:
    """Write the JSONL files unless they are today's, and then note in the manifest which questions they hold."""
    from polyv.world.conversations import QUESTIONS_VERSION, write_jsonl

    if not has_current_questions(folder):
        write_jsonl(folder, load_records(folder), request["seed"])
        _write_manifest(folder, {**request, "questions": QUESTIONS_VERSION})


def _run(one: Callable[[int], None], indices: list[int], workers: int) -> Iterator[None]:
    """Call `one` for each index, in this process or in several; yields as they finish."""
    if workers == 1 or len(indices) < 2:
        yield from map(one, indices)
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers as they start: they are as many as the cores already
    try:
        with ProcessPoolExecutor(min(workers, len(indices)), get_context("spawn"), _start_worker) as pool:
            try:
                yield from pool.map(one, indices)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it ends: a pool's workers outlive a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cores() -> int:
    """Those that this process may use; where the system does not tell (macOS), all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_records(folder: str | os.PathLike) -> list[WorldRecord]:
    """The records of a split that `make_world` wrote, in order.

    Raises:
        FileNotFoundError: there is no scene in `folder`.
    """
    return list(iter_records(folder))


def iter_records(folder: str | os.PathLike) -> Iterator[WorldRecord]:
    """The same, one by one: a thousand of them take more than a gigabyte."""
    paths = sorted(Path(folder).glob("scenes/[0-9]*/record.json"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no scenes/*/record.json there. Make some with `polyv world make`.")
    for path in paths:
        yield WorldRecord.model_validate_json(path.read_text(encoding="utf-8"))


def _check(scenes: int, seed: int, size: int, split: Split, workers: int | None) -> dict:
    if scenes < 1:
        raise ValueError(f"scenes: got {scenes}, expected 1 or more.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed}, expected a whole number from 0 to 2**32 - 1.")
    if not _SIZES[0] <= size <= _SIZES[1] or size % 2:
        raise ValueError(
            f"size: got {size}, expected an even number from {_SIZES[0]} to {_SIZES[1]} (the video codec halves it)."
        )
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: got {workers}, expected 1 or more, or None for all cores.")
    return {"scenes": scenes, "seed": seed, "size": size, "split": split, "version": VERSION}


def _refuse_foreign(folder: Path) -> None:
    """Write nothing among files that are not a world's."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if _MANIFEST not in names and not names <= {_LOCK, f".{_MANIFEST}"}:
        raise ValueError(f"out: {folder} is not empty and holds no {_MANIFEST}. Choose another folder.")


@contextmanager
def alone_in(folder: Path, command: str) -> Iterator[None]:
    """Keep other processes out of `folder`: they would take each other's half scenes for leftovers.

    The system itself lets go of the lock when its holder ends, however that happens: there are no stale ones. The
    file stays, for to remove it while another opens it would let both in.
    """
    with (folder / _LOCK).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise BlockingIOError(
                f"out: {folder} is in use by another `{command}` (process {holder}). "
                "Wait until it ends, or choose another folder."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def _claim(folder: Path, request: dict) -> None:
    """Note in `folder` what it is for, or see that it is for just that."""
    if (folder / _MANIFEST).exists():
        present = _manifest(folder)
        differing = [name for name in request if present.get(name) != request[name]]
        if differing:
            asked = ", ".join(f"{name} {request[name]}" for name in differing)
            there = ", ".join(f"{name} {present.get(name)}" for name in differing)
            raise ValueError(f"out: {folder} holds a world with {there}; asked for {asked}. Choose another folder.")
    else:
        _write_manifest(folder, request)
    (folder / "scenes").mkdir(exist_ok=True)


def _manifest(folder: Path) -> dict:
    return json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))


def _write_manifest(folder: Path, content: dict) -> None:
    write_whole(folder / _MANIFEST, json.dumps(content, indent=2) + "\n")


def make_scene(index: int, folder: Path, seed: int, size: int, split: Split) -> None:
    """Render one scene of a world into `folder`/scenes, whole or not at all; a half one, left by a run that was killed, is
    made anew.

    Args:
        index: which of the split's scenes of that seed; they do not depend on how many a world has.
        folder, seed, size, split: as for `make_world`.
    """
    name = scene_name(index)
    half, whole = folder / "scenes" / f".{name}", folder / "scenes" / name
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    write_scene(build(split, seed, index), half, size)
    half.rename(whole)
