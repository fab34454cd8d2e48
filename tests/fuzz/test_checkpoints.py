# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Weights that are damaged, cut short or hostile, through `from_pretrained` and `upcycle_to_disk`."""

import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file

from polyv import PolyVForConditionalGeneration
from polyv.hub.upcycle import upcycle_to_disk
from polyv.processing.posed_views import PosedViews
from tests import tiny
from tests.fuzz import inputs
from tests.fuzz.judge import bounded, fuzz, judge
from tests.recipes.conftest import pan


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny.save_dense(tiny.dense(), tmp_path_factory.mktemp("dense") / "source", max_shard_size="300KB")


@pytest.fixture(scope="module")
def polyv(source) -> Path:
    return upcycle_to_disk(source, source.with_name("polyv"), progress=False, synergy_token_id=tiny.SYNERGY)


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@fuzz(st.data(), share=4)
def test_a_dense_checkpoint_with_a_broken_file(source, data):
    """Upcycled to disk: refused by name with nothing left behind, or as good as whole."""
    with tempfile.TemporaryDirectory() as scratch:
        broken, out = Path(scratch) / "broken", Path(scratch) / "out"
        shutil.copytree(source, broken)
        file = data.draw(st.sampled_from(sorted(broken.glob("model*"))))
        kind = data.draw(st.sampled_from(["bytes", "head", "json", "remove", "other"]))
        content = file.read_bytes()
        if kind == "json" or file.suffix == ".json":
            file = broken / data.draw(st.sampled_from(["config.json", "model.safetensors.index.json"]))
            file.write_text(json.dumps(inputs.edited(json.loads(file.read_text()), data.draw)))
        elif kind == "head":  # its length and its table of contents
            file.write_bytes(data.draw(inputs.damaged(st.just(content[:600]))) + content[600:])
        elif kind == "remove":
            file.unlink()
        else:
            file.write_bytes(data.draw(inputs.damaged(st.just(content if kind == "bytes" else b"{}"))))
        made = judge(
            lambda: upcycle_to_disk(broken, out, progress=False, synergy_token_id=tiny.SYNERGY), r"broken|source"
        )
        assert out.exists() == (made is not None)
        if made is not None:
            _, info = PolyVForConditionalGeneration.from_pretrained(out, output_loading_info=True)
            assert not info["missing_keys"] and not info["mismatched_keys"]


@pytest.mark.parametrize("load", ["from_pretrained", "upcycle"])
def test_pickled_weights_run_no_code(source, tmp_path, load):
    folder, mark = tmp_path / "folder", tmp_path / "mark"
    shutil.copytree(source, folder)
    for file in folder.glob("model*"):
        file.unlink()
    torch.save({"model.embed_tokens.weight": Hostile(mark)}, folder / "pytorch_model.bin")
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    mark.rmdir()  # so it would have run
    with pytest.raises((OSError, ValueError, pickle.UnpicklingError)):
        if load == "upcycle":
            upcycle_to_disk(folder, tmp_path / "out", progress=False)
        else:
            PolyVForConditionalGeneration.from_pretrained(folder)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickled_depth_runs_no_code(tmp_path, suffix):
    scene, mark = pan(1), tmp_path / "mark"
    scene.save(tmp_path / "scene")
    pose = (scene.poses[0] * [1, -1, -1, 1]).tolist()
    depth = tmp_path / "scene" / "depth.npy"
    with depth.open("wb") as file:
        if suffix == "npy":
            np.save(file, np.array([Hostile(mark)], dtype=object), allow_pickle=True)
        else:
            np.savez(file, np.array([Hostile(mark)], dtype=object))
    frame = {"file_path": "color/0.png", "depth_file_path": "depth.npy", "transform_matrix": pose}
    content = {"fl_x": 60, "fl_y": 60, "cx": 32.5, "cy": 32.5, "frames": [frame]}
    (tmp_path / "scene" / "transforms.json").write_text(json.dumps(content))
    assert judge(lambda: PosedViews.load(tmp_path / "scene"), r"depth\.npy: not a NumPy array of numbers") is None
    assert not mark.exists()


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "..\\secret.png", "C:\\secret.png"]
)
@pytest.mark.parametrize("key", ["file_path", "depth_file_path"])
def test_a_scene_reads_nothing_outside_its_folder(tmp_path, key, path):
    scene = pan(1)
    scene.save(tmp_path / "scene")
    shutil.copy(tmp_path / "scene/color/0.png", tmp_path / "secret.png")
    pose = (scene.poses[0] * [1, -1, -1, 1]).tolist()
    frame = {"file_path": "color/0.png", "depth_file_path": "depth/0.png", "transform_matrix": pose, key: path}
    content = {"fl_x": 60, "fl_y": 60, "cx": 32.5, "cy": 32.5, "frames": [frame]}
    (tmp_path / "scene" / "transforms.json").write_text(json.dumps(content))
    assert judge(lambda: PosedViews.load(tmp_path / "scene"), "leads out of the folder") is None


@fuzz(st.data(), share=4)
def test_a_polyv_checkpoint_with_a_broken_file(source, polyv, data):
    """Loading is transformers' own, and so are the errors: of the kinds that a caller can expect, in bounded memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "polyv"
        shutil.copytree(polyv, folder)
        file = folder / "model.safetensors"
        content = file.read_bytes()
        head = data.draw(inputs.damaged(st.just(content[:600])))
        file.write_bytes(head + content[600 : data.draw(st.integers(600, len(content)))])
        try:
            with bounded():
                model, info = PolyVForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            assert str(error)
            return
        whole = load_file(polyv / "model.safetensors")
        told = info["missing_keys"] | {name for name, *_ in info["mismatched_keys"]}
        for name, value in model.state_dict().items():
            assert name in told or value.shape == whole[name].shape
