# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What every input has to end in: an answer whose shapes are right, or an error of ours that names the argument."""

import functools
import os
import re
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil, floor, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings

import polyv


# `make fuzz` sets both: how many inputs of each kind, and after how many seconds to try no more.
FUZZ = settings(
    deadline=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    derandomize="FUZZ_EXAMPLES" not in os.environ,  # what fails here must fail everywhere
    suppress_health_check=list(HealthCheck),
)
END = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "inf"))


def fuzz(*strategies: Any, share: int = 1) -> Callable:
    """A test over `strategies`, as `given`, of one `share`-th of the inputs that `make fuzz` asks for. Past the time it
    sets, inputs are counted as untried instead; a test that has no time for a single one fails."""

    def decorate(test: Callable) -> Callable:
        tried = []

        @settings(FUZZ, max_examples=max(FUZZ.max_examples // share, 1))
        @given(*strategies)
        @functools.wraps(test)
        def run(*arguments: Any, **fixtures: Any) -> None:
            if time.monotonic() > END and tried:
                VERDICTS["not tried, out of time"] += 1
                return
            tried.append(1)
            test(*arguments, **fixtures)

        return run

    return decorate


SECONDS, BYTES = 20, 2 << 30
"""What one input may take: of time, and of address space above what the process holds already."""

OURS = Path(polyv.__file__).parent
VERDICTS: Counter = Counter()


class Hung(BaseException):
    """Raised where an input takes longer than it may; no `OSError`, which TimeoutError is."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raises `Hung` or MemoryError in code that takes too long or too much."""

    def give_up(*_) -> None:
        raise Hung(f"took longer than {SECONDS} s")

    statm = Path("/proc/self/statm")
    before = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    if statm.exists():  # on Linux, where the limit is kept, too
        held = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def judge(call: Callable[[], Any], names: str) -> Any:
    """What `call` returns; None where it refuses its input as it should: by a ValueError, TypeError or OSError that is
    raised in our code, and whose message the pattern `names` finds an argument in.

    Raises:
        AssertionError: it refuses in another way.
    """
    try:
        with bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = call()
    except (ValueError, TypeError, OSError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        assert OURS in Path(place.filename).parents, f"raised by {place.filename}:{place.lineno}: {error!r}"
        assert re.search(names, str(error)), f"names no argument ({names}): {error!r}"
        VERDICTS["refused"] += 1
        return None
    VERDICTS["answered"] += 1
    return answer


def resized(height: int, width: int, factor: int, low: int, high: int) -> tuple[int, int]:
    """The size that Qwen2.5-VL scales a picture to: multiples of `factor`, between `low` and `high` pixels."""
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > high:
        scale = sqrt(height * width / high)
        rows, columns = (max(factor, floor(side / scale / factor) * factor) for side in (height, width))
    elif rows * columns < low:
        scale = sqrt(low / (height * width))
        rows, columns = (ceil(side * scale / factor) * factor for side in (height, width))
    return rows, columns


def image_grid(processor: Any, height: int, width: int) -> list[int]:
    """The grid of patches that a picture of this size makes."""
    return [1, *_patches(processor.image_processor, height, width)]


def video_grid(processor: Any, frames: int, height: int, width: int) -> list[int]:
    """The grid of patches that so many frames of this size make."""
    videos = processor.video_processor
    return [ceil(frames / videos.temporal_patch_size), *_patches(videos, height, width)]


def _patches(part: Any, height: int, width: int) -> tuple[int, int]:
    """Down and across, by the image or the video processor."""
    size, patch = part.size, part.patch_size
    rows, columns = resized(height, width, patch * part.merge_size, size["shortest_edge"], size["longest_edge"])
    return rows // patch, columns // patch


def check_batch(processor: Any, batch: Any) -> None:
    """Placeholders, grids, patches and coordinates count alike, and hold numbers."""
    ids, types = torch.as_tensor(batch["input_ids"]), torch.as_tensor(batch["mm_token_type_ids"])
    merge = processor.image_processor.merge_size**2
    size = 3 * processor.image_processor.temporal_patch_size * processor.image_processor.patch_size**2
    for value, kind, pixels in ((1, "image", "pixel_values"), (2, "video", "pixel_values_videos")):
        token = getattr(processor, f"{kind}_token_id")
        grids = batch.get(f"{kind}_grid_thw", torch.zeros(0, 3, dtype=torch.long))
        patches = int(grids.prod(-1).sum())
        assert (types == value).equal(ids == token)
        assert int((ids == token).sum()) * merge == patches
        assert (grids > 0).all()
        if patches:
            assert batch[pixels].shape == (patches, size) and batch[pixels].isfinite().all()
    if "video_grid_thw" in batch:
        seconds = torch.as_tensor(batch["second_per_grid_ts"])
        assert len(seconds) == len(batch["video_grid_thw"]) and (seconds > 0).all() and seconds.isfinite().all()
    if "image_coords" in batch:
        coordinates = batch["image_coords"]
        assert coordinates.shape == (int((ids == processor.image_token_id).sum()), 3)
        assert np.isin(coordinates.isnan().sum(-1), (0, 3)).all() and not coordinates.isinf().any()
