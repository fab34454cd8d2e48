# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What upcycling on disk takes: its peak memory, and its time beside that of `cp` for the bytes it writes.

```bash
python -m polyv.evaluation.bench_upcycle --shape 7b --folder /somewhere/with/70GB --out docs/bench-upcycle
```

The checkpoint has random weights and the true shapes. Both sides read from the disk, not from memory, and bring each file to
the disk before the next.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from polyv.evaluation.bench import write_report
from polyv.evaluation.benchmarks import peak_resident
from polyv.evaluation.shapes import make_config


BYTES_NEEDED = {"3b": 31e9, "7b": 69e9}
"""Of disk: the checkpoint, the result, and its copy."""


def make_checkpoint(config: Qwen2_5_VLConfig, folder: Path, progress: bool = True) -> Path:
    """A dense checkpoint of random bfloat16 weights, written shard by shard."""
    with torch.device("meta"):
        weights = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16).state_dict()
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    # Numbers drawn once and repeated from another start in each weight: to draw billions of them would take minutes.
    drawn = torch.empty(2**24 + 3).normal_(std=0.02, generator=torch.Generator().manual_seed(0)).bfloat16()
    split = split_torch_state_dict_into_shards(weights, max_shard_size="4GB")
    folder.mkdir(parents=True)
    for file, names in tqdm(split.filename_to_tensors.items(), desc=f"making {folder.name}", disable=not progress):
        shard = {}
        for index, name in enumerate(names):
            count = weights[name].numel()
            repeats = -(-count // len(drawn))
            shard[name] = drawn.roll(1000 * index).repeat(repeats)[:count].view(weights[name].shape).clone()
        save_file(shard, folder / file, metadata={"format": "pt"})
    index_of = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_of))
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    config.save_pretrained(folder)
    return folder


def upcycle_apart(source: Path, out: Path) -> int:
    """Upcycle in a process of its own, and return the peak of that process's memory in bytes, mapped files included.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    ran = subprocess.run(
        [sys.executable, "-m", "polyv.evaluation.bench_upcycle", "--child", str(source), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(ran.stdout.splitlines()[-1])


def copy_bytes(folder: Path, scratch: Path) -> None:
    """`cp` of each weight file of `folder` into the folder `scratch`, and `sync` of it, as upcycling does with each."""
    for file in sorted(folder.glob("*.safetensors")):
        subprocess.run(["cp", file, scratch], check=True)
        subprocess.run(["sync", scratch / file.name], check=True)


def seconds(run: Callable[[], Any], *read: Path) -> tuple[float, Any]:
    """The time that `run` takes to be on the disk, where the files of `read` are not in memory; and what it returns."""
    os.sync()
    for folder in read:
        for file in folder.glob("*.safetensors"):
            with file.open("rb") as content:
                os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    result = run()
    os.sync()
    return time.perf_counter() - start, result


def measure(shape: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Peaks and times of `repeats` rounds, each of which upcycles and then copies what came of it."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = make_checkpoint(make_config(shape, dtype="bfloat16"), Path(scratch) / f"qwen-{shape}")
        out = Path(scratch) / "polyv"
        copies = Path(scratch) / "copies"
        rounds = []
        for _ in range(repeats):
            taken, peak = seconds(lambda: upcycle_apart(source, out), source)
            copies.mkdir()
            copied, _ = seconds(lambda: copy_bytes(out, copies), out)
            shutil.rmtree(copies)
            read, written = (sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in (source, out))
            rounds.append({"upcycle_s": taken, "cp_s": copied, "ratio": taken / copied, "peak_GiB": peak / 2**30})
            shutil.rmtree(out)
    return {
        "shape": shape,
        "read_GB": read / 1e9,
        "written_GB": written / 1e9,
        "median_ratio": statistics.median(each["ratio"] for each in rounds),
        "peak_GiB": max(each["peak_GiB"] for each in rounds),
        "rounds": rounds,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"# What upcycling on disk takes, measured on {report['date']}",
        "",
        f"`{report['command']}`",
        "",
        f"{platform.system()}, torch {torch.__version__}. Qwen2.5-VL-{report['shape'].upper()}'s shapes, random weights: "
        f"{report['read_GB']:.1f} GB in, {report['written_GB']:.1f} GB out. Time over `cp` of the bytes written, median of "
        f"{len(report['rounds'])}: **{report['median_ratio']:.2f}**. Peak memory: **{report['peak_GiB']:.2f} GiB**.",
        "",
        "| round | upcycle, s | cp, s | ratio | peak, GiB |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {index} | {each['upcycle_s']:.0f} | {each['cp_s']:.0f} | {each['ratio']:.2f} | {each['peak_GiB']:.2f} |"
            for index, each in enumerate(report["rounds"], start=1)
        ),
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m polyv.evaluation.bench_upcycle", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--shape", choices=tuple(BYTES_NEEDED), default="7b", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("build"), help="on the disk to use (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/bench-upcycle"), help="writes OUT.md and OUT.json")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--child", nargs=2, type=Path, metavar=("SRC", "DST"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        from polyv.hub.upcycle import upcycle_to_disk

        upcycle_to_disk(*args.child)
        print(peak_resident())
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(args.folder).free
    if free < BYTES_NEEDED[args.shape]:
        parser.error(
            f"--folder {args.folder}: {free / 1e9:.0f} GB are free, {BYTES_NEEDED[args.shape] / 1e9:.0f} GB are needed."
        )
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python -m polyv.evaluation.bench_upcycle --shape {args.shape} --folder {args.folder} --repeats {args.repeats} "
        f"--out {args.out}",
        **measure(args.shape, args.folder, args.repeats),
    }
    write_report(args.out, report, to_markdown(report))


if __name__ == "__main__":
    main()
