# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Training in several processes, on two of a CPU (run by torchrun, this file is one of them), and in one that is killed."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, is_deepspeed_available
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from polyv import PolyVForConditionalGeneration, PolyVProcessor
from polyv.recipes import align, distill, stage
from polyv.recipes.checkpoints import last_complete
from polyv.recipes.synergy import Contents, fit_heads
from polyv.recipes.targets import Targets, build_cache
from tests import tiny
from tests.processes import ROOT, run_two
from tests.recipes.conftest import turn
from tests.recipes.test_synergy import Fixed


CONFIGURATIONS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
FSDP2 = ROOT / "recipes" / "accelerate" / "fsdp2.yaml"
LAUNCHED = {"accelerate": FSDP2, "zero3": FSDP2.with_name("zero3.yaml")}

ANSWER = turn("assistant", "two")
TEXT = {"messages": [turn("user", "How many?"), ANSWER]}
TWO_TURNS = {"messages": [*TEXT["messages"], turn("user", "What is red?"), turn("assistant", "The ball is red.")]}
FORESEEING_TEXT = {**TWO_TURNS, "content": {"video": "clip.mp4"}}
IMAGE = {"messages": [turn("user", "What is red?", image="b.png"), turn("assistant", "The ball")]}
FORESEEING_IMAGE = {"messages": [turn("user", "How many?", image="a.png"), ANSWER], "content": {"video": "other.mp4"}}
VIDEO = {"messages": [turn("user", "How many?", video="other.mp4"), ANSWER]}
SCENE = {"messages": [turn("user", "How many?", scene="scene"), ANSWER, turn("user", "How many?"), ANSWER]}
SILENT_VIDEO = {"content": {"video": "clip.mp4"}}  # of one medium, else what is drawn would differ with the batch
SILENT_SCENE = {"content": {"scene": "scene"}}
# By turns two rows for the first process and two for the second: text beside an image and a video, text beside a scene
# and a video, a scene and an image beside text, a video and a scene beside a scene.
ROWS = [
    *(TEXT, TEXT, FORESEEING_IMAGE, VIDEO, TEXT, FORESEEING_TEXT, SCENE, SILENT_VIDEO),
    *(SILENT_SCENE, IMAGE, FORESEEING_TEXT, TEXT, VIDEO, SCENE, TWO_TURNS, SILENT_SCENE),
]
EVERYTHING = {
    "content": {"image": ["a.png", "b.png"], "video": "clip.mp4", "scene": "scene"},
    "prompts": ["How many?"],
}

# Arguments of a run, of one process and of each of two. Both see the same rows in every step. Unless they are regrouped,
# they are in the same micro-batches, too, of each of which the balance loss is a mean of its own.
SAME = (["--gradient_accumulation_steps", "2"], [])
REGROUPED = (["--per_device_train_batch_size", "4"], [])
ACCUMULATED = (["--gradient_accumulation_steps", "4"], ["--gradient_accumulation_steps", "2"])
RUNS = {
    "coarse": (*SAME, []),
    "regrouped": (*REGROUPED, ["--router_aux_loss_coef", "0"]),
    "accumulated": (*ACCUMULATED, []),
    "experts": (*ACCUMULATED, ["--trainable", "experts"]),
    "fine": (*SAME, []),
    "upcycled": (*SAME, ["--upcycle", "true"]),
}
LOGGED = ("loss", "grad_norm", "ce_loss", "aux_loss", "temporal_loss", "spatial_loss", "mean_token_accuracy")
WAYS = {
    "ddp": ["coarse", "regrouped", "accumulated", "experts", "fine"],
    "accelerate": ["coarse", "accumulated", "experts", "upcycled"],
    "transformers": ["coarse"],
    "zero3": ["coarse", "accumulated", "experts", "upcycled"],
}


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
def test_accelerate_reads_its_configurations_and_knows_every_key(file):
    config = load_config_from_file(str(file))
    assert (config.num_machines, config.num_processes, config.mixed_precision) == (1, 8, "bf16")
    launch = f"accelerate launch --config_file recipes/accelerate/{file.name}"
    assert f"{launch} -m polyv.recipes.align --config recipes/polyv-7b/align.yaml" in file.read_text()
    options = vars(launch_command_parser().parse_args(["train.py"]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= options.keys()


def test_what_is_split_by_itself_is_in_the_model():
    names = load_config_from_file(str(FSDP2)).fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    model = tiny.polyv()
    assert set(names) == set(model._no_split_modules)
    assert set(names) <= {type(module).__name__ for module in model.modules()}


@pytest.mark.parametrize(("rank", "rows"), [(0, 1), (3, 1), (4, 0), (7, 0)])
def test_of_eight_gpus_four_hold_an_expert_each_and_four_none(rank, rows):
    """What docs/scale.md says of FSDP2, which splits by rows."""
    experts = tiny.polyv().model.language_model.layers[3].mlp.experts
    dist.init_process_group("fake", rank=rank, world_size=8, store=FakeStore())
    try:
        fully_shard(experts, mesh=init_device_mesh("cpu", (8,)))
        assert [weight.to_local().shape[0] for weight in experts.parameters()] == [rows, rows]
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(data, start, tmp_path_factory) -> Path:
    """What other processes read: media, rows, caches of features, a recipe, and "start", a PolyV whose experts differ."""
    folder = tmp_path_factory.mktemp("distributed")
    shutil.copytree(data, folder, dirs_exist_ok=True)
    shutil.copy(folder / "clip.mp4", folder / "other.mp4")
    with open(folder / "other.mp4", "ab") as file:
        file.write(b"\0\0\0\x08free")  # another content
    rows = {
        "coarse": ROWS,
        "fine": [row if "messages" in row else IMAGE for row in ROWS],
        "mixture": [*ROWS, EVERYTHING, EVERYTHING],
    }
    for name, which in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in which))
    targets = {}
    for head, modality, size in (("temporal", "video", 5), ("spatial", "scene", 3)):
        media = Contents([str(folder / "mixture.jsonl")], modality)
        targets[head] = Targets(build_cache(Fixed(modality, size), media, folder / head))
    processor = PolyVProcessor.from_pretrained(start)
    # As in 7B, where embeddings are then split by themselves.
    config = AutoConfig.from_pretrained(start)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder / "dense")
    processor.save_pretrained(folder / "dense")
    model = PolyVForConditionalGeneration.from_pretrained(folder / "dense", dtype=torch.float32)
    fit_heads(model, targets)
    for name, weight in model.named_parameters():
        if "_encoding" in name or ".experts." in name:
            weight.data += 0.05 * torch.randn_like(weight)
    model.save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    settings = {
        "model_name_or_path": str(folder / "start"),
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "train_sampling_strategy": "sequential",
        # Not Adam, which would blow up the rounding of gradients that should be 0.
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        # Trainer then lets DistributedDataParallel wait for every weight.
        "gradient_checkpointing": True,
        "ddp_timeout": 60,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder


def targets_of(folder: Path) -> list[str]:
    return ["--temporal_targets", str(folder / "temporal"), "--spatial_targets", str(folder / "spatial")]


def train(folder: Path, run: str, way: str = "alone") -> None:
    """Two steps of a stage's own command."""
    alone, each, both = RUNS[run]
    arguments = ["--config", str(folder / "recipe.yaml"), *both, *(alone if way == "alone" else each)]
    arguments += ["--output_dir", str(folder / f"{way}-{run}")]
    if way == "transformers":
        arguments += ["--model_init_kwargs", '{"distributed_config": {"fsdp_size": 2}}']
    if run == "upcycled":
        arguments += ["--model_name_or_path", str(folder / "dense")]
    if run == "fine":
        align.main([*arguments, "--dataset", str(folder / "fine.jsonl")])
    else:
        distill.main([*arguments, "--dataset", str(folder / "coarse.jsonl"), *targets_of(folder)])


def logged(folder: Path, *names: str) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [log.get(name, math.nan) for log in history if "loss" in log for name in names]


@pytest.fixture(scope="module")
def alone(folder) -> Path:
    for run in RUNS:
        train(folder, run)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_as_one_does_on_the_same_rows(way, alone):
    """All that is logged, and weights after two steps, though one process has text alone and the other images,
    videos and scenes: all answers and all teachers' features weigh alike, wherever they are. Each process holds the
    weights ("ddp"), or half of them. One that waits for ever fails after a minute."""
    if way == "transformers" and not hasattr(PreTrainedModel, "is_distributed_loading_by_transformers"):
        pytest.skip("this transformers' Trainer takes no model that was split at load")
    if way == "zero3" and not is_deepspeed_available():
        pytest.skip("deepspeed is not installed")
    told = {}
    if way in LAUNCHED:
        # Not bfloat16, as the files say, to compare exactly.
        told = {**launch_environment(LAUNCHED[way]), "ACCELERATE_MIXED_PRECISION": "no", "DS_ACCELERATOR": "cpu"}
    run_two("tests.recipes.test_distributed", way, str(alone), **told)
    before = load_file(alone / "start" / "model.safetensors")
    for run in WAYS[way]:
        got, wanted = (logged(alone / f"{each}-{run}", *LOGGED) for each in (way, "alone"))
        assert got == pytest.approx(wanted, rel=1e-4, nan_ok=True) and len(got) == 2 * len(LOGGED), run
        wanted, got = (load_file(alone / f"{each}-{run}" / "model.safetensors") for each in ("alone", way))
        assert wanted.keys() == got.keys() == before.keys()
        assert max((wanted[name] - before[name]).abs().max().item() for name in wanted) > 1e-3
        for name in wanted:
            torch.testing.assert_close(
                got[name], wanted[name], rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def launch_environment(file: Path) -> dict[str, str]:
    """What `accelerate launch --config_file` tells the processes that it starts."""
    arguments, config, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(file), "train.py"])
    )
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join([*config.deepspeed_config, "mixed_precision"])
        told = prepare_deepspeed_cmd_env(arguments)[1]
    else:
        told = prepare_multi_gpu_env(arguments)
    return {key: value for key, value in told.items() if key.startswith(("ACCELERATE_", "FSDP_", "DS_"))}


def shard_on_cpu() -> None:
    """accelerate shards on GPUs alone, and says nothing: it is to take these processes for such."""
    init = AcceleratorState.__init__

    def pretend(self, *args, **kwargs):
        if PartialState._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        init(self, *args, **kwargs)

    AcceleratorState.__init__ = pretend


class Checked(stage.SynergyTrainer):
    """Knows at the end that it was sharded."""

    def train(self, *args, **kwargs):
        super().train(*args, **kwargs)
        text = self.model.model.language_model
        weight = text.layers[3].mlp.experts.gate_up_proj
        if self.is_deepspeed_enabled:
            assert all(2 * each.ds_tensor.numel() == each.ds_numel for each in text.parameters())
            return
        assert weight.shape[0] == 4 and weight.to_local().shape[0] == 2
        assert all(isinstance(layer, FSDPModule) for layer in text.layers)
        if self.is_fsdp_enabled:  # as the file has it; transformers splits the decoder alone
            assert all(isinstance(block, FSDPModule) for block in self.model.model.visual.blocks)


@pytest.mark.slow
def test_a_killed_training_ends_bit_for_bit_as_one_that_was_not(folder, tmp_path):
    """With `kill -9`, wherever it is after its first checkpoint, in the middle of an epoch."""
    settings = {
        "optim": "adamw_torch",
        "max_steps": 12,
        "save_strategy": "steps",
        "save_steps": 7,  # in the second epoch
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "train_sampling_strategy": "group_by_length",
        "resume_from_checkpoint": "auto",
    }
    recipe = tmp_path / "align.yaml"
    recipe.write_text(yaml.safe_dump({**yaml.safe_load((folder / "recipe.yaml").read_text()), **settings}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    straight, process = (start_align(recipe, folder, out) for out in (whole, killed))
    deadline = time.monotonic() + 300
    while not killed.exists() or last_complete(str(killed)) is None:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists()
    straight.communicate(timeout=300)
    said, _ = start_align(recipe, folder, killed).communicate(timeout=300)
    assert "going on after step" in said
    assert logged(killed, "loss", "grad_norm") == logged(whole, "loss", "grad_norm")
    assert len(logged(whole, "loss")) == 12
    wanted, got = (load_file(out / "model.safetensors") for out in (whole, killed))
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[name], got[name]) for name in wanted)


RESUMED = ["--max_steps", "9", "--save_strategy", "steps", "--save_steps", "6"]  # of five steps an epoch


@pytest.mark.slow
def test_two_processes_go_on_in_a_later_epoch_as_if_nothing_had_been(folder):
    """With what is drawn of contents, which is not what was drawn in the first epoch."""
    run_two("tests.recipes.test_distributed", "resumed", str(folder))
    for strategy in ("random", "group_by_length"):
        straight, resumed = (folder / f"{strategy}-{each}" for each in ("straight", "resumed"))
        assert logged(resumed, *LOGGED) == pytest.approx(logged(straight, *LOGGED), rel=0, abs=0, nan_ok=True)
        wanted, got = (load_file(out / "model.safetensors") for out in (straight, resumed))
        assert wanted.keys() == got.keys() and all(torch.equal(wanted[name], got[name]) for name in wanted)


def train_and_resume(folder: Path) -> None:
    """As each of two processes: nine steps, and the last three of them again."""
    shuffled = [
        "--config",
        str(folder / "recipe.yaml"),
        "--dataset",
        str(folder / "mixture.jsonl"),
        *targets_of(folder),
    ]
    for strategy in ("random", "group_by_length"):
        run = [*shuffled, *RESUMED, "--train_sampling_strategy", strategy]
        straight = folder / f"{strategy}-straight"
        distill.main([*run, "--output_dir", str(straight)])
        last = ["--resume_from_checkpoint", str(straight / "checkpoint-6")]
        distill.main([*run, "--output_dir", str(folder / f"{strategy}-resumed"), *last])


def start_align(recipe: Path, folder: Path, out: Path) -> subprocess.Popen:
    arguments = ["--config", str(recipe), "--dataset", str(folder / "mixture.jsonl"), *targets_of(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", "polyv.recipes.align", *arguments, "--output_dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


if __name__ == "__main__":
    if sys.argv[1] == "accelerate":
        shard_on_cpu()
    if sys.argv[1] not in ("ddp", "resumed"):
        stage.SynergyTrainer = Checked
    if sys.argv[1] == "resumed":
        train_and_resume(Path(sys.argv[2]))
    for each in WAYS.get(sys.argv[1], ()):
        train(Path(sys.argv[2]), each, sys.argv[1])
