# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv world make`: render a split to disk. Uses all cores, can be interrupted, resumes.

OUT/manifest.json           what was asked for
OUT/scenes/000000/          image.png, moved.png, video.mp4, scene/ (ScanNet's layout), record.json
OUT/captions.jsonl, ...     conversations made from the records (polyv.world.conversations)
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

from tqdm import tqdm

from polyv.world.media import scene_name, write_scene
from polyv.world.records import SceneRecord
from polyv.world.scenes import SPLITS, Split, build


_VERSION = 1  # of the world: raise it whenever the same request gives other scenes
_SIZES = (32, 1024)


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
    interrupted run continues; a scene's folder appears complete or not at all.

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
    """
    request = _check(scenes, seed, size, split, workers)
    folder = Path(out)
    _claim(folder, request)
    for half in (folder / "scenes").glob(".*"):
        shutil.rmtree(half)
    missing = [index for index in range(scenes) if not (folder / "scenes" / scene_name(index)).exists()]
    one = partial(_make_scene, folder=folder, seed=seed, size=size, split=split)
    with tqdm(
        total=scenes, initial=scenes - len(missing), desc=f"{split} scenes", unit="scene", disable=not progress
    ) as bar:
        for _ in _run(one, missing, workers or _cores()):
            bar.update()
    from polyv.world.conversations import write_jsonl  # late: workers, which import this module, need none of it

    write_jsonl(folder, load_records(folder), seed)
    return folder


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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_records(folder: str | os.PathLike) -> list[SceneRecord]:
    """The records of a split that `make_world` wrote, in order.

    Raises:
        FileNotFoundError: there is no scene in `folder`.
    """
    paths = sorted(Path(folder).glob("scenes/[0-9]*/record.json"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no scenes/*/record.json there. Make some with `polyv world make`.")
    return [SceneRecord.model_validate_json(path.read_text(encoding="utf-8")) for path in paths]


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
    return {"scenes": scenes, "seed": seed, "size": size, "split": split, "version": _VERSION}


def _claim(folder: Path, request: dict) -> None:
    """Note in `folder` what it is for, or see that it is for just that."""
    manifest = folder / "manifest.json"
    if manifest.exists():
        present = json.loads(manifest.read_text(encoding="utf-8"))
        differing = [name for name in request if present.get(name) != request[name]]
        if differing:
            asked = ", ".join(f"{name} {request[name]}" for name in differing)
            there = ", ".join(f"{name} {present.get(name)}" for name in differing)
            raise ValueError(f"out: {folder} holds a world with {there}; asked for {asked}. Choose another folder.")
        return
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"out: {folder} is not empty and holds no manifest.json. Choose another folder.")
    (folder / "scenes").mkdir(parents=True)
    temporary = folder / ".manifest.json"
    temporary.write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")
    temporary.rename(manifest)


def _make_scene(index: int, folder: Path, seed: int, size: int, split: Split) -> None:
    name = scene_name(index)
    half, whole = folder / "scenes" / f".{name}", folder / "scenes" / name
    half.mkdir()
    write_scene(build(split, seed, index), half, size)
    half.rename(whole)
