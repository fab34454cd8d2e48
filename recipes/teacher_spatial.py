# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A small spatial teacher: from several pictures of a scene, the depth of each pixel and the pose of each camera.

```bash
python -m polyv.recipes.teacher_spatial --config recipes/polyv-nano/teacher-spatial.yaml
```

Where VGGT can be had, it is the better teacher, and there is nothing to train. This one is for the simulated world, and
for machines without a GPU. It learns from posed views as VGGT does: true depth and true poses are its supervision, which
every result that rests on it states. Captions, questions and labels it never sees.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments, set_seed
from trl import TrlParser

from polyv.processing.posed_views import PosedViews
from polyv.recipes.checkpoints import ResumingTrainer
from polyv.recipes.multiview import MultiViewConfig, MultiViewModel
from polyv.recipes.teacher_temporal import find_files


@dataclass
class SpatialArguments:
    """What to train on, and how large a network."""

    scenes: list[str] = field(metadata={"help": "Scenes, or patterns of them such as data/train/scenes/*/scene."})
    views: int = field(default=4, metadata={"help": "Views of a scene that a training step shows together."})
    side: int = field(default=80, metadata={"help": "Width and height of a view, pixels."})
    patch: int = field(default=10, metadata={"help": "Width and height of a token, pixels."})
    width: int = field(default=192, metadata={"help": "Feature size."})
    layers: int = field(default=6, metadata={"help": "Layers; every second one attends across views."})

    def __post_init__(self):
        if self.views < 2:
            raise ValueError(f"views={self.views}: expected 2 or more; of one there is no pose to tell.")
        if self.side % self.patch:
            raise ValueError(f"side={self.side}: expected a multiple of patch={self.patch}.")


class Scenes(torch.utils.data.Dataset):
    """Scenes as `PosedViews`."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "scene": PosedViews.load(self.paths[index])}


class ViewsCollator:
    """Batches scenes, of each `views` views in random order; what is drawn follows from which scenes meet.

    Returns "images" [B, V, 3, side, side] in 0 to 1, "depth" [B, V, side, side] in metres (0: unknown) and "pose"
    [B, V, 9], as `MultiViewOutput` says.
    """

    def __init__(self, views: int, model: MultiViewModel):
        self.views, self.model = views, model

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        draw = random.Random(str([row["index"] for row in rows]))
        batch = [self.take(row["scene"], draw) for row in rows]
        return {name: torch.stack([example[name] for example in batch]) for name in batch[0]}

    def take(self, scene: PosedViews, draw: random.Random) -> dict[str, torch.Tensor]:
        chosen = draw.sample(range(len(scene)), min(self.views, len(scene)))
        chosen += [chosen[-1]] * (self.views - len(chosen))
        side = self.model.config.side
        images = torch.stack([torch.from_numpy(scene.images[i]) for i in chosen]).movedim(-1, 1).float() / 255
        depth = torch.stack([torch.from_numpy(scene.depths[i]) for i in chosen]).float()
        # The nearest pixel's, not a mean over an edge, where nothing stands.
        depth = nn.functional.interpolate(depth[:, None], (side, side), mode="nearest-exact")[:, 0]
        poses = torch.from_numpy(scene.poses[chosen]).float()
        relative = torch.linalg.inv(poses[0]) @ poses
        pose = torch.cat([relative[:, :3, 3], relative[:, :3, 0], relative[:, :3, 1]], dim=-1)
        return {"images": self.model.resize(images), "depth": depth, "pose": pose}


class DepthAndPose(nn.Module):
    """The network with its losses: of log depth where depth is known, and of the poses, mean absolute errors."""

    def __init__(self, model: MultiViewModel):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, depth: torch.Tensor, pose: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.model(images)
        known = depth > 0
        wrong = (outputs.log_depth.float() - depth.clamp(min=1e-3).log()).abs()[known].mean()
        away = (outputs.pose.float() - pose)[:, 1:].abs().mean()  # of the first view the pose is given
        return {"loss": wrong + away, "depth_error": wrong.detach(), "pose_error": away.detach()}


class SpatialTrainer(ResumingTrainer):
    """Logs both errors beside their sum."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._errors: dict[str, list[float]] = {"depth_error": [], "pose_error": []}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        for name, values in self._errors.items():
            values.append(outputs[name].item())
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name, values in self._errors.items():
            if values:
                logs[name] = sum(values) / len(values)
                values.clear()
        super().log(logs, start_time)


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    usage = "python -m polyv.recipes.teacher_spatial [--config YAML] [--FIELD VALUE ...]"
    parser = TrlParser(
        (SpatialArguments, TrainingArguments),
        prog="python -m polyv.recipes.teacher_spatial",
        usage=usage,
        allow_abbrev=False,
    )
    arguments, training = parser.parse_args_and_config(argv)
    paths = find_files("scenes", arguments.scenes)
    set_seed(training.seed)
    print(f"seed {training.seed}, {len(paths)} scenes")
    model = MultiViewModel(
        MultiViewConfig(
            side=arguments.side,
            patch=arguments.patch,
            hidden_size=arguments.width,
            num_hidden_layers=arguments.layers,
        )
    )
    training.remove_unused_columns = False
    trainer = SpatialTrainer(
        DepthAndPose(model),
        training,
        data_collator=ViewsCollator(arguments.views, model),
        train_dataset=Scenes(paths),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    if trainer.is_world_process_zero():
        trainer.save_state()
        model.save_pretrained(training.output_dir)


if __name__ == "__main__":
    main()
