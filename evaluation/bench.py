# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What PolyV costs beside what it is compared with, side by side in one run, as Markdown and JSON.

```bash
python -m polyv.evaluation.bench --out docs/bench-cpu            # make bench
python -m polyv.evaluation.bench --out docs/bench-cuda --device cuda
```

(a) an MoE block beside the dense FFN of its width, and transformers' own MoE block; (b) a whole model beside the dense
Qwen2.5-VL it was upcycled from; (c) the processor beside Qwen2.5-VL's; (d) peak memory. Every time is the median of the
ratios within interleaved repetitions: machines and their moods change seconds, hardly ratios.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from polyv.evaluation import benchmarks
from polyv.files import write_whole


def to_markdown(report: dict) -> str:
    """The report as tables."""
    about = report["machine"]
    malloc = "".join(f"{name}={value} " for name, value in about["malloc"].items())
    parts = [
        f"# What PolyV costs, measured on {report['date']}",
        f"`{malloc}{report['command']}`\n\n{about['device']}, {about['threads']} thread(s), torch {about['torch']}, "
        f"transformers {about['transformers']}. {report['repeats']} interleaved repetitions, {3 * report['repeats']} of decoding "
        "and the processor. Times are ratios within one repetition: their median ± half the distance between the quartiles.",
    ]
    parts += [
        f"## {title}\n\n{_table(report[part][kind])}"
        for kind, titles in _TITLES.items()
        for part, title in titles.items()
        if report[part][kind]
    ]
    return "\n\n".join(parts) + "\n"


_TITLES = {
    "time": {
        "blocks": "Time of an MoE block over the dense FFN of its width\n\n2 of 4 experts: twice the FLOPs. *unrouted* are "
        "four dense FFNs, each on half of the tokens: what the same products take where nothing is routed.",
        "models": "Time of a model over the dense model it was upcycled from",
        "processors": "Time of the processor over Qwen2.5-VL's",
    },
    "memory": {
        "blocks": "Peak memory of a block over the dense FFN's, weights and gradients included",
        "models": "Peak memory of a model over the dense model's, weights and gradients included",
        "processors": "Peak memory of the processor over Qwen2.5-VL's",
    },
    "mfu": {
        "blocks": "MFU of blocks: counted FLOPs a second, over those of a large matrix product here",
        "models": "MFU of models",
    },
}


def _table(rows: list[dict]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Any) -> str:
        if isinstance(value, list):
            return f"{value[0]:.2f} ± {value[1]:.2f}"
        return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = [" | ".join(cell(row.get(column)) for column in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in (" | ".join(columns), " | ".join(["---"] * len(columns)), *lines))


def write_report(out: Path, report: dict, markdown: str) -> None:
    """Write OUT.json and OUT.md, whole or not at all, and print the latter."""
    for suffix, text in ((".json", json.dumps(report, indent=2) + "\n"), (".md", markdown)):
        write_whole(out.with_name(out.name + suffix), text)
    print(markdown)


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m polyv.evaluation.bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=benchmarks.REPEATS, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    name = torch.cuda.get_device_name() if args.device == "cuda" else _processor_name()
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python -m polyv.evaluation.bench --out {args.out} --device {args.device} --repeats {args.repeats} "
        f"--threads {args.threads}",
        "machine": {
            "device": name,
            "threads": args.threads,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        },
        "repeats": args.repeats,
        "blocks": benchmarks.measure(benchmarks.blocks(args.device), args.device, args.repeats, "blocks"),
        "models": benchmarks.measure(benchmarks.models(args.device), args.device, args.repeats, "models"),
        "processors": benchmarks.measure(benchmarks.processors(), "cpu", args.repeats, "processors"),
    }
    write_report(args.out, report, to_markdown(report))


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
