# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Upcycling at full size: the memory it takes, and what a kill leaves behind."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from polyv.evaluation import bench_upcycle
from polyv.hub.weight_files import read_weights
from tests import tiny


@pytest.mark.slow
def test_a_published_size_passes_in_4_gib_and_survives_a_kill():
    """7B's shapes where the disk has room for them, else 3B's."""
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        shape = next((name for name in ("7b", "3b") if free > bench_upcycle.BYTES_NEEDED[name]), None)
        if shape is None:
            pytest.skip(
                f"{free / 1e9:.0f} GB are free, of {bench_upcycle.BYTES_NEEDED['3b'] / 1e9:.0f} GB that it takes"
            )
        source = bench_upcycle.make_checkpoint(
            bench_upcycle.make_config(shape, dtype="bfloat16"), Path(folder) / "source", progress=False
        )
        out, partial = Path(folder) / "out", Path(folder) / ".out.partial"

        command = [sys.executable, "-c", "from polyv.cli import main; main()", "upcycle", str(source), str(out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(partial.glob("model-*.safetensors"))) < 2:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
        first = min(partial.glob("model-*.safetensors"))
        written = first.stat().st_mtime_ns

        assert bench_upcycle.upcycle_apart(source, out) < 4 * 2**30
        assert (out / first.name).stat().st_mtime_ns == written, "what was whole was made again"
        assert not partial.exists()
        config = json.loads((out / "config.json").read_text())
        assert config["model_type"] == "polyv"
        weights = read_weights(source)
        index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
        name = "model.language_model.layers.3.mlp.experts.down_proj"
        with safe_open(out / index[name], "pt") as content:
            experts = content.get_slice(name)
            assert experts.get_shape()[0] == 4
            dense = weights["model.language_model.layers.3.mlp.down_proj.weight"].read()
            for expert in range(4):
                assert torch.equal(experts[expert : expert + 1][0], dense)


def test_the_report(tmp_path, monkeypatch, capsys):
    config = tiny.dense().config
    config.dtype = "bfloat16"
    config.text_config.dtype = config.vision_config.dtype = "bfloat16"
    monkeypatch.setattr(bench_upcycle, "make_config", lambda shape, dtype: config)
    monkeypatch.setattr(bench_upcycle, "BYTES_NEEDED", {"3b": 0})
    arguments = [
        "--shape",
        "3b",
        "--folder",
        str(tmp_path / "work"),
        "--repeats",
        "2",
        "--out",
        str(tmp_path / "report"),
    ]
    bench_upcycle.main(arguments)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["rounds"]) == 2 and report["written_GB"] > report["read_GB"] > 0
    assert 0.3 < report["peak_GiB"] < 4
    assert (tmp_path / "report.md").read_text() in capsys.readouterr().out
    assert list((tmp_path / "work").iterdir()) == []
    monkeypatch.setattr(bench_upcycle, "BYTES_NEEDED", {"3b": 1e18})
    with pytest.raises(SystemExit):
        bench_upcycle.main(arguments)
    assert "GB are free" in capsys.readouterr().err
