# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Caches of teachers' features: computed once, resumed, known by content, normalised."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyv.processing.posed_views import PosedViews
from polyv.recipes import targets as module
from polyv.recipes.targets import Targets, build_cache, content_hash, pool
from tests.recipes.conftest import pan


class Counting:
    """Features that follow from a file's bytes, and a count of how often it was asked."""

    name, fingerprint, modality, size = "counting", "a", "video", 6

    def __init__(self):
        self.calls = 0

    def __call__(self, medium: Any) -> torch.Tensor:
        self.calls += 1
        if medium.read_bytes() == b"bad":
            raise ValueError("video: damaged")
        generator = torch.Generator().manual_seed(int(medium.read_bytes()))
        return torch.randn(2, 2, 2, self.size, generator=generator) * torch.arange(1, self.size + 1) + 3


@pytest.fixture
def media(tmp_path):
    files = [tmp_path / f"{index}.mp4" for index in range(7)]
    for index, file in enumerate(files):
        file.write_bytes(str(index).encode())
    return files


def test_pooling_over_everything_is_the_mean_and_over_regions_their_means():
    grid = torch.randn(4, 2, 6, 5)
    assert torch.allclose(pool(grid, (1, 1, 1)), grid.mean((0, 1, 2))[None], atol=1e-6)
    regions = pool(grid, (2, 1, 3))
    assert regions.shape == (6, 5)
    assert torch.allclose(regions[0], grid[:2, :, :2].mean((0, 1, 2)), atol=1e-6)
    assert torch.allclose(regions[5], grid[2:, :, 4:].mean((0, 1, 2)), atol=1e-6)


def test_features_are_normalised_by_the_statistics_of_all(media, tmp_path):
    build_cache(Counting(), media, tmp_path / "cache")
    targets = Targets(tmp_path / "cache")
    found = torch.stack([targets(medium)[0] for medium in media])
    assert found.mean(0).abs().max() < 1e-5 and (found.std(0, correction=0) - 1).abs().max() < 1e-4
    raw = torch.stack([pool(Counting()(medium), (1, 1, 1))[0] for medium in media])
    assert torch.allclose(found, (raw - raw.mean(0)) / raw.std(0, correction=0), atol=1e-4)
    assert torch.allclose(torch.cat(list(targets.all()))[:, 0].sum(0), found.sum(0), atol=1e-4)


def test_principal_components_are_uncorrelated_and_of_variance_one(media, tmp_path):
    build_cache(Counting(), media, tmp_path / "cache")
    found = torch.stack([Targets(tmp_path / "cache", components=3)(medium)[0] for medium in media])
    assert found.shape == (7, 3)
    assert torch.allclose(found.T @ found / 7, torch.eye(3), atol=1e-3)


@pytest.mark.parametrize(("components", "regions", "varied"), [(None, (1, 1, 1), 0), (6, (2, 1, 1), 1)])
def test_what_did_not_vary_is_not_blown_up(media, tmp_path, capsys, components, regions, varied):
    """A cache begun on one video, then grown: what that one does not tell apart is left out, and it is said."""
    build_cache(Counting(), media[:1], tmp_path / "cache", regions)  # of two samples one direction varies
    assert "mean and components are of 1 videos" in capsys.readouterr().out
    build_cache(Counting(), media, tmp_path / "cache", regions)
    targets = Targets(tmp_path / "cache", components)
    found = torch.stack([targets(medium) for medium in media])
    assert (found.abs().amax((0, 1)) > 0).sum() == varied and found.abs().max() < 100


@pytest.mark.parametrize("components", [0, 7])
def test_more_components_than_there_are_dimensions_are_refused(media, tmp_path, components):
    build_cache(Counting(), media, tmp_path / "cache")
    with pytest.raises(ValueError, match=f"components={components}: expected 1 to 6"):
        Targets(tmp_path / "cache", components=components)


def test_what_is_there_is_not_computed_again(media, tmp_path):
    teacher = Counting()
    build_cache(teacher, media[:4], tmp_path / "cache")
    shutil.copy(media[0], tmp_path / "copy.mp4")  # another name for the same content
    build_cache(teacher, [*media, media[5], tmp_path / "copy.mp4"], tmp_path / "cache")
    assert teacher.calls == 7 and len(Targets(tmp_path / "cache")) == 7
    media[0].write_bytes(b"99")
    with pytest.raises(ValueError, match=r"0\.mp4: the cache .* holds no features of it. Run `polyv teachers cache`"):
        Targets(tmp_path / "cache")(media[0])
    with pytest.raises(ValueError, match="video of 3 bytes: the cache"):  # held by a dataset
        Targets(tmp_path / "cache")(b"new")


def test_two_may_write_the_same_at_once(media, tmp_path):
    """Each of the processes has a temporary file of its own, and the last one stays."""
    code = f"""
import torch
from pathlib import Path
from polyv.recipes.targets import _write_shard
for _ in range(200):
    _write_shard(Path({str(tmp_path)!r}), {{"a": torch.ones(1, 6)}})
"""
    writers = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    assert [path.suffix for path in tmp_path.glob("*features*")] == [".safetensors"]


def test_media_are_read_one_at_a_time(tmp_path):
    """A dataset's own media need not fit in memory together."""
    read = []

    class Media(Sequence):
        def __len__(self):
            return 5

        def __getitem__(self, place):
            read.append(place)
            return bytes([place % 2])

    class Bytes(Counting):
        def __call__(self, medium):
            return torch.full((1, 1, 1, 6), float(medium[0]))

    build_cache(Bytes(), Media(), tmp_path / "cache")
    assert read == [0, 1, 2, 3, 4, 0, 1] and len(Targets(tmp_path / "cache")) == 2


def test_an_interrupted_run_goes_on_and_ends_like_one_that_was_not(media, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD", 2)
    build_cache(Counting(), media, tmp_path / "whole")
    media[4].write_bytes(b"bad")
    teacher = Counting()
    with pytest.raises(ValueError, match="damaged"):
        build_cache(teacher, media, tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="no finished cache"):
        Targets(tmp_path / "cut")
    media[4].write_bytes(b"4")
    build_cache(teacher, media, tmp_path / "cut")
    assert teacher.calls == 8  # the one that failed was asked twice
    whole, cut = Targets(tmp_path / "whole"), Targets(tmp_path / "cut")
    assert all(torch.equal(whole(medium), cut(medium)) for medium in media)
    assert not list((tmp_path / "cut").glob(".*"))


def test_a_cache_that_grows_keeps_its_terms(media, tmp_path, capsys):
    """Else a head that was trained would foresee along components that have turned meanwhile."""
    build_cache(Counting(), media[:4], tmp_path / "cache")
    before = [Targets(tmp_path / "cache", components=2)(medium) for medium in media[:4]]
    assert "7 features" not in capsys.readouterr().out
    build_cache(Counting(), media, tmp_path / "cache")
    assert "7 features; mean and components stay those of when it was first whole" in capsys.readouterr().out
    grown = Targets(tmp_path / "cache", components=2)
    assert len(grown) == 7 and all(torch.equal(grown(one), old) for one, old in zip(media, before, strict=False))
    (tmp_path / "cache" / "statistics.safetensors").unlink()
    build_cache(Counting(), media, tmp_path / "cache")
    anew = Targets(tmp_path / "cache", components=2)
    assert torch.stack([anew(medium) for medium in media]).mean(0).abs().max() < 1e-5
    assert not torch.equal(anew(media[0]), before[0])


def test_what_is_computed_is_written_every_few_minutes(media, tmp_path, monkeypatch):
    """A kill cannot be caught: what it costs is what no file holds."""
    monkeypatch.setattr(module, "MINUTES", -1)

    class Watching(Counting):
        def __call__(self, medium):
            assert len(list((tmp_path / "cache").glob("features-*.safetensors"))) == self.calls
            return super().__call__(medium)

    build_cache(Watching(), media, tmp_path / "cache")
    assert len(Targets(tmp_path / "cache")) == 7


def test_another_teacher_or_other_regions_do_not_mix(media, tmp_path):
    build_cache(Counting(), media, tmp_path / "cache")
    other = Counting()
    other.fingerprint = "b"
    with pytest.raises(ValueError, match="fingerprint a, not b"):
        build_cache(other, media, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"regions \[1, 1, 1\], not \[2, 1, 1\]"):
        build_cache(Counting(), media, tmp_path / "cache", (2, 1, 1))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds something else"):
        build_cache(Counting(), media, tmp_path / "mine")
    with pytest.raises(ValueError, match="names no video"):
        build_cache(Counting(), [], tmp_path / "empty")


def test_a_scene_is_known_by_all_its_files(tmp_path):
    pan(3).save(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "two")
    file = next(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert content_hash(file) == content_hash(file.read_bytes())
    pose = sorted((tmp_path / "two" / "pose").iterdir())[0]
    pose.write_text(pose.read_text().replace("1", "2", 1))
    assert content_hash(tmp_path / "one") != content_hash(tmp_path / "two")
    views = PosedViews.load(tmp_path / "one")
    assert content_hash(views) == content_hash(PosedViews.load(tmp_path / "one"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=2, max_size=8))
def test_content_alone_decides(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("contents")
    hashes = []
    for index, content in enumerate(contents):
        (folder / f"{index}").write_bytes(content)
        hashes.append(content_hash(folder / f"{index}"))
    same = np.array([[a == b for a in contents] for b in contents])
    assert (np.array([[a == b for a in hashes] for b in hashes]) == same).all()


def test_the_manifest_names_the_teacher(media, tmp_path):
    build_cache(Counting(), media, tmp_path / "cache", (2, 1, 1))
    manifest = json.loads((tmp_path / "cache" / "cache.json").read_text())
    assert manifest == {
        "teacher": "counting", "fingerprint": "a", "modality": "video", "size": 6, "regions": [2, 1, 1],
    }  # fmt: skip
    assert Targets(tmp_path / "cache")(media[0]).shape == (2, 6)
