# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What `<synergy>` is to foresee: teachers' features of training media, computed once and kept.

```bash
polyv teachers cache --teacher runs/teacher-temporal --dataset data/train/contents.jsonl --out runs/targets-temporal
```

CACHE/cache.json               which teacher, on which regions
CACHE/features-HASH.safetensors  "features" [n, R, D], and in its metadata the keys: hashes of what the media hold
CACHE/statistics.safetensors   of the features when the cache was first whole: mean [D], components [D, D] and their
                               variances [D]. They stay, however it grows: heads that were trained foresee in these terms

Media are known by their content, so that a cache outlives moved and renamed files, and a changed file is a new one.
"""

import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from polyv.files import whole, write_whole
from polyv.processing.posed_views import PosedViews
from polyv.processing.still_images import fetch, is_address
from polyv.recipes.teachers import Teacher


MANIFEST, STATISTICS = "cache.json", "statistics.safetensors"
SHARD, MINUTES = 1024, 5  # a file has so many media, or those of so long: what a kill may cost
FEW = 100  # media, of which statistics are worth a warning
FLOOR = 1e-9  # of the largest variance: what is below is none


def content_hash(medium: Any) -> str:
    """32 hexadecimal digits of what a medium holds: a file's bytes, or the same bytes in memory; of a folder, all its files; of a scene's
    `transforms.json`, all files beside and below it; or the arrays of `PosedViews`."""
    if isinstance(medium, bytes):
        return hashlib.sha256(hashlib.sha256(medium).digest()).hexdigest()[:32]  # as `_hash_files` of one
    if isinstance(medium, PosedViews):
        digest = hashlib.sha256()
        for array in (medium.images, medium.depths, medium.intrinsics, medium.image_intrinsics, medium.poses):
            digest.update(repr(array.shape).encode() + array.tobytes())
        return digest.hexdigest()[:32]
    path = os.fspath(medium)
    if is_address(path):
        return content_hash(fetch(path, "video")) if path.startswith("data:") else _hash_address(path)
    if path.endswith(".json"):
        path = os.path.dirname(path) or "."
    stamps = tuple((file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in _files(path))
    return _hash_files(path, stamps)


@functools.lru_cache(maxsize=1 << 16)
def _hash_address(address: str) -> str:
    """Of what was there when it was first asked for: each batch would fetch it anew."""
    return content_hash(fetch(address, "video"))


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)


@functools.lru_cache(maxsize=1 << 20)
def _hash_files(path: str, stamps: tuple) -> str:
    """`stamps` makes a file that has changed since a new one."""
    digest = hashlib.sha256()
    for file, _, _ in stamps:
        if file != path:
            digest.update(os.path.relpath(file, path).encode() + b"\0")
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:32]


def pool(features: torch.Tensor, regions: Sequence[int]) -> torch.Tensor:
    """Means over the regions of a grid: [T or V, H, W, D] → [R, D] with R = t·h·w of `regions` (t, h, w); (1, 1, 1) is
    the mean of all, as in the paper."""
    time, height, width = regions
    pooled = nn.functional.adaptive_avg_pool3d(features.movedim(-1, 0)[None], (time, height, width))[0]
    return pooled.flatten(1).T.contiguous()


def build_cache(
    teacher: Teacher, media: Sequence[Any], out: str | os.PathLike, regions: Sequence[int] = (1, 1, 1)
) -> Path:
    """Compute what is missing of the features of `media`, then, if there are none yet, the statistics of all.

    May be interrupted: what was computed is kept, and the same call goes on. Media of one content are computed once.

    Args:
        teacher: computes them.
        media: videos or scenes, as the teacher takes them; each is taken twice, once to be hashed.
        out: folder of the cache, made if needed.
        regions: along time (or views), height and width; see `pool`.

    Returns:
        `out`.

    Raises:
        ValueError: `out` holds another teacher's features or other regions; or there are no media.
    """
    out = Path(out)
    if len(regions) != 3 or min(regions) < 1:
        raise ValueError(
            f"regions={list(regions)}: expected three numbers of 1 or more, along time, height and width."
        )
    manifest = {
        "teacher": teacher.name,
        "fingerprint": teacher.fingerprint,
        "modality": teacher.modality,
        "size": teacher.size,
        "regions": list(regions),
    }
    _claim(out, manifest)
    have = {key for file in _shards(out) for key in _keys(file)}
    wanted: dict[str, int] = {}
    for place in tqdm(range(len(media)), desc=f"hashing {teacher.modality}s", disable=None):
        wanted.setdefault(content_hash(media[place]), place)
    if not wanted:
        raise ValueError(f"dataset: it names no {teacher.modality} for the teacher {teacher.name} to see.")
    missing = {key: place for key, place in wanted.items() if key not in have}
    done: dict[str, torch.Tensor] = {}
    written = time.monotonic()
    try:
        for key, place in tqdm(missing.items(), desc=f"features of {teacher.modality}s", disable=None):
            done[key] = pool(teacher(media[place]), regions)
            if len(done) == SHARD or time.monotonic() - written > 60 * MINUTES:
                _write_shard(out, done)
                done, written = {}, time.monotonic()
    finally:
        if done:
            _write_shard(out, done)
    if not (out / STATISTICS).is_file():
        _write_statistics(out)
        if len(have) + len(missing) < FEW:
            print(
                f"{out}: mean and components are of {len(have) + len(missing)} {teacher.modality}s, and stay so when more are "
                f"added. Before training on more, delete {out / STATISTICS}, and run this again on all of them."
            )
    elif missing:
        print(
            f"{out}: {len(have) + len(missing)} features; mean and components stay those of when it was first whole, in "
            f"which trained heads foresee. For those of all, delete {out / STATISTICS} before anything is trained on it."
        )
    return out


def _claim(out: Path, manifest: dict[str, Any]) -> None:
    path = out / MANIFEST
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in manifest if key != "teacher" and there.get(key) != manifest[key]]
        if differing:
            kinds = "; ".join(f"{key} {there.get(key)}, not {manifest[key]}" for key in differing)
            raise ValueError(f"out={out}: it holds other features ({kinds}). Give another folder, or delete it.")
        return
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out={out}: the folder holds something else. Give another, or an empty one.")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(manifest, indent=2) + "\n")


def _shards(out: Path) -> list[Path]:
    return sorted(out.glob("features-*.safetensors"))


def _keys(file: Path) -> list[str]:
    with safe_open(file, "pt") as shard:
        return json.loads(shard.metadata()["keys"])


def _write_shard(out: Path, features: dict[str, torch.Tensor]) -> None:
    # By what it holds: two that write at once do not write over each other.
    digest = hashlib.sha256("".join(features).encode()).hexdigest()
    path = out / f"features-{digest[:16]}.safetensors"
    tensors = {"features": torch.stack(list(features.values()))}
    with whole(path) as partial:
        save_file(tensors, partial, metadata={"keys": json.dumps(list(features))})


def _write_statistics(out: Path) -> None:
    """Mean and principal components of all features, regions counted as samples; in float64, as they are sums."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for file in _shards(out):
        with safe_open(file, "pt") as shard:
            features = shard.get_tensor("features").flatten(0, 1).double()
        count, total, products = count + len(features), total + features.sum(0), products + features.T @ features
    mean = total / count
    covariance = products / count - mean[:, None] * mean
    variances, components = torch.linalg.eigh(covariance)
    tensors = {
        "mean": mean.float(),
        "deviation": covariance.diagonal().clamp(min=0).sqrt().float(),
        "components": components.flip(1).T.contiguous().float(),  # rows, of falling variance
        "variances": variances.flip(0).clamp(min=0).float(),
    }
    with whole(out / STATISTICS) as partial:
        save_file(tensors, partial, metadata={"count": str(count)})


class Targets:
    """Features of a cache, normalised, by the media that they are of.

    Args:
        folder: that `polyv teachers cache` wrote.
        components: None gives every dimension mean 0 and variance 1 (SPEC §3). A number K gives the first K principal
            components, each of variance 1, which weighs what varies little, such as motion, like what varies most.

    Raises:
        FileNotFoundError: `folder` holds no finished cache.
        ValueError: `components` exceeds the feature size.
    """

    def __init__(self, folder: str | os.PathLike, components: int | None = None):
        self.folder = Path(folder)
        if not (self.folder / STATISTICS).is_file():
            raise FileNotFoundError(
                f"{folder}: no finished cache of features is there. Make it with `polyv teachers cache`, or let it finish."
            )
        manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        self.modality, self.regions, self.teacher = manifest["modality"], manifest["regions"], manifest["teacher"]
        if components is not None and not 1 <= components <= manifest["size"]:
            raise ValueError(
                f"components={components}: expected 1 to {manifest['size']}, the feature size of {manifest['teacher']}."
            )
        self.size = components or manifest["size"]
        self._files = _shards(self.folder)
        self._where = {key: (file, row) for file in self._files for row, key in enumerate(_keys(file))}
        with safe_open(self.folder / STATISTICS, "pt") as statistics:
            self._mean = statistics.get_tensor("mean")
            variances = statistics.get_tensor("variances")[:components]
            axes = statistics.get_tensor("components")[:components].T
            if components is None:
                variances = statistics.get_tensor("deviation").square()
                axes = torch.eye(len(variances))
            # What did not vary when the statistics were made is rounding: blown up to as much as the others, it would
            # be all that there is to foresee of features that came later. It is 0.
            varies = variances > FLOOR * variances.max() + 1e-12
            self._scale = axes * torch.where(varies, variances, torch.inf).rsqrt()

    def __len__(self) -> int:
        return len(self._where)

    @property
    def num_regions(self) -> int:
        """R."""
        return self.regions[0] * self.regions[1] * self.regions[2]

    def __call__(self, medium: Any) -> torch.Tensor:
        """float32 [R, size] of a medium.

        Raises:
            ValueError: the cache does not hold it.
        """
        found = self._where.get(content_hash(medium))
        if found is None:
            named = f"of {len(medium):,} bytes" if isinstance(medium, bytes) else f"{medium!s:.200}"
            raise ValueError(
                f"{self.modality} {named}: the cache {self.folder} holds no features of it. Run `polyv teachers "
                "cache` on this dataset, with the same --out; it computes only what is missing."
            )
        file, row = found
        with safe_open(file, "pt") as shard:
            features = shard.get_slice("features")[row]
        return (features - self._mean) @ self._scale

    def all(self) -> Iterator[torch.Tensor]:
        """Every feature of the cache, [n, R, size] at a time."""
        for file in self._files:
            with safe_open(file, "pt") as shard:
                yield (shard.get_tensor("features") - self._mean) @ self._scale


__all__ = ["Targets", "build_cache", "content_hash", "pool"]
