# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Teachers: frozen models of one modality, whose features `<synergy>` learns to foresee.

| head of PolyV | sees | published | for the simulated world |
|---|---|---|---|
| temporal | a video | V-JEPA 2 (`facebook/vjepa2-vitl-fpc64-256` and others) | `polyv.recipes.teacher_temporal` |
| spatial | a scene's views | VGGT (`facebook/VGGT-1B`) | `polyv.recipes.teacher_spatial` |

Source: paper, section on training, stage 2; SPEC §3.
"""

import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from torch import nn
from transformers import AutoModel, AutoVideoProcessor

from polyv.hub.checkpoints import check_name
from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration
from polyv.processing.posed_views import PosedViews
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.processing.view_sampling import Sampling, read_video, select_views
from polyv.recipes.multiview import MultiViewModel
from polyv.recipes.oracle import OracleTeacher


VGGT_SIDE, VGGT_PATCH = 518, 14
PROMPT = "What happens?"
PREPROCESSING = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample")
"""What features hang on besides weights, of a video processor's settings."""


class Teacher(Protocol):
    """A frozen model that turns one medium into features.

    Attributes:
        name: a folder or a name on the Hub, as the teacher was loaded by.
        fingerprint: tells its weights and settings apart from others': part of what a cache is keyed by.
        modality: what it sees.
        size: D, the feature size.
    """

    name: str
    fingerprint: str
    modality: Literal["video", "scene"]
    size: int

    def __call__(self, medium: Any) -> torch.Tensor:
        """A video or a scene, as `read_video` or `PosedViews.load` take it → float32 features [T or V, H, W, D] on the
        CPU: of each moment or view, on a grid over the picture."""
        ...


class VJEPA2Teacher:
    """V-JEPA 2, or a network of its architecture.

    Frames are spread over the whole clip and resized to the config's square without a crop: its rotary positions know
    no other shape, and a crop would lose what moves at the border. A clip of fewer frames repeats some.

    Args:
        name: folder or Hub name of a `VJEPA2Model`.
        frames: how many frames of a clip it looks at, an even number; None takes the config's.
        device: where it runs.
        less_still: subtract the features of a clip in which the first frame stands still. What is left is what a clip
            tells beyond its first frame.

    Raises:
        ValueError: `frames` is odd or below 2: the last frame of an odd number is dropped by the model silently.
    """

    modality: Literal["video", "scene"] = "video"

    def __init__(
        self, name: str, frames: int | None = None, device: str | torch.device = "cpu", less_still: bool = False
    ):
        self.model = AutoModel.from_pretrained(name, dtype=torch.float32).eval().requires_grad_(False).to(device)
        self.processor = AutoVideoProcessor.from_pretrained(name)
        config = self.model.config
        self.frames = config.frames_per_clip if frames is None else frames
        if self.frames < 2 or self.frames % config.tubelet_size:
            raise ValueError(
                f"frames={self.frames}: expected a multiple of {config.tubelet_size}, the frames that make one token of "
                f"{name}."
            )
        self.name, self.size = name, config.hidden_size
        self.less_still = less_still
        settings = {"less_still": True} if less_still else {}
        reads = {name: getattr(self.processor, name) for name in PREPROCESSING}
        reads["side"] = self.processor.crop_size["height"]
        self.fingerprint = fingerprint(self.model.encoder, frames=self.frames, reads=reads, **settings)

    @torch.no_grad()
    def __call__(self, medium: Any) -> torch.Tensor:
        clip = read_clip(medium, self.frames, self.processor)
        clips = torch.stack([clip, clip[:1].expand_as(clip)]) if self.less_still else clip[None]
        features, *still = self.model.get_vision_features(clips.to(self.model.device))
        side = self.model.config.crop_size // self.model.config.patch_size
        return (features - still[0] if still else features).unflatten(0, (-1, side, side)).float().cpu()


def read_clip(medium: Any, frames: int, processor: Any) -> torch.Tensor:
    """`frames` frames, spread over all of a video, as `processor` normalises them: [T, 3, H, W], square, uncropped."""
    pictures, _ = read_video(medium, Sampling(min_frames=frames, max_frames=frames, multiple=1))
    if len(pictures) < frames:
        pictures = pictures[np.linspace(0, len(pictures) - 1, frames).round().astype(int)]
    side = processor.crop_size["height"]
    # "size" as given, not as the processor holds it: that one is for a crop, by 256 / 224 larger.
    square = {"height": side, "width": side}
    clip = processor(torch.from_numpy(pictures).movedim(-1, 1), size=square, do_center_crop=False, return_tensors="pt")
    return clip["pixel_values_videos"][0]


class VGGTTeacher:
    """VGGT's aggregator, by the interface that its authors publish; needs their package `vggt`, which is not on PyPI.

    Views are resized to 518 pixels of width, and of height the nearest multiple of 14.

    Args:
        name: folder or Hub name of a VGGT checkpoint.
        views: at most so many views, spread over the scene's; None takes all.
        device: where it runs.

    Raises:
        ImportError: the package is missing; the message says how to install it.
    """

    modality: Literal["video", "scene"] = "scene"

    def __init__(self, name: str, views: int | None = 8, device: str | torch.device = "cpu"):
        try:
            from vggt.models.vggt import VGGT
        except ImportError as error:
            raise ImportError(
                f"teacher={name}: VGGT runs on its authors' package, which is missing. Install it with "
                "`pip install git+https://github.com/facebookresearch/vggt`."
            ) from error
        self.aggregator = VGGT.from_pretrained(name).aggregator.eval().requires_grad_(False).to(device)
        self.name, self.views, self.device = name, views, device
        self.size = 2 * self.aggregator.camera_token.shape[-1]  # of a frame's attention and the scene's, side by side
        self.fingerprint = fingerprint(self.aggregator, views=views)

    @torch.no_grad()
    def __call__(self, medium: Any) -> torch.Tensor:
        images = read_views(medium, self.views)
        height, width = images.shape[-2:]
        size = (max(round(height * VGGT_SIDE / width / VGGT_PATCH), 1) * VGGT_PATCH, VGGT_SIDE)
        images = nn.functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        layers, first_patch = self.aggregator(images[None].to(self.device))
        grid = (size[0] // VGGT_PATCH, size[1] // VGGT_PATCH)
        return layers[-1][0, :, first_patch:].unflatten(1, grid).float().cpu()


class MultiViewTeacher:
    """The small spatial teacher of `polyv.recipes.teacher_spatial`: features of all views, each seen beside the others.

    Args:
        name: folder or Hub name of a `MultiViewModel`.
        views: at most so many views, spread over the scene's; None takes all.
        device: where it runs.
    """

    modality: Literal["video", "scene"] = "scene"

    def __init__(self, name: str, views: int | None = 8, device: str | torch.device = "cpu"):
        self.model = MultiViewModel.from_pretrained(name).eval().requires_grad_(False).to(device)
        self.name, self.views, self.size = name, views, self.model.config.hidden_size
        self.fingerprint = fingerprint(self.model, views=views)

    @torch.no_grad()
    def __call__(self, medium: Any) -> torch.Tensor:
        images = self.model.resize(read_views(medium, self.views))
        return self.model(images[None].to(self.model.device)).features[0].float().cpu()


class SynergyState:
    """A PolyV's own hidden state at `<synergy>`, as its heads read it: what a student knows, for probes to tell.

    Args:
        name: folder or Hub name of a PolyV checkpoint.
        modality: what it is asked about, a video or a scene.
        first: show it the first frame or the first view alone, as an image.
        device: where it runs.

    Raises:
        ValueError: the checkpoint has no `<synergy>`.
    """

    def __init__(
        self,
        name: str,
        modality: Literal["video", "scene"] = "video",
        first: bool = False,
        device: str | torch.device = "cpu",
    ):
        loaded = PolyVForConditionalGeneration.from_pretrained(name, dtype=torch.float32)
        self.model = loaded.eval().requires_grad_(False).to(device)
        self.processor = PolyVProcessor.from_pretrained(name)
        config = self.model.config
        if config.synergy_token_id is None:
            raise ValueError(f"teacher={name}: it is a PolyV without `<synergy>` (synergy_token_id is null).")
        self.name, self.modality, self.first = name, modality, first
        self.size = config.num_synergy_tokens * config.text_config.hidden_size
        self.fingerprint = fingerprint(self.model, modality=modality, first=first)

    @torch.no_grad()
    def __call__(self, medium: Any) -> torch.Tensor:
        kind = "image" if self.first else self.modality
        shown = self._first_picture(medium) if self.first else medium
        content = [{"type": kind, kind: shown}, {"type": "text", "text": PROMPT}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        states = self.model(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states
        is_synergy = inputs["input_ids"] == self.model.config.synergy_token_id
        return states[self.model.config.synergy_layer][is_synergy].flatten()[None, None, None].float().cpu()

    def _first_picture(self, medium: Any) -> Image.Image:
        if self.modality == "video":
            pictures, _ = read_video(medium, Sampling(min_frames=2, max_frames=2, multiple=1))
        else:
            pictures = (medium if isinstance(medium, PosedViews) else PosedViews.load(medium)).images
        return Image.fromarray(pictures[0])


def read_views(medium: Any, limit: int | None) -> torch.Tensor:
    """At most `limit` of a scene's pictures, spread over them, [V, 3, H, W] in 0 to 1. Depth and poses are not shown to
    a teacher: both spatial ones tell them from pictures."""
    images = (medium if isinstance(medium, PosedViews) else PosedViews.load(medium)).images
    chosen = np.stack([images[index] for index in select_views(len(images), limit)])
    return torch.from_numpy(chosen).movedim(-1, 1).float() / 255


def fingerprint(model: nn.Module, **settings: Any) -> str:
    """16 hexadecimal digits that change with any weight and setting: of each weight, its name and its bytes."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def load_teacher(name: str, device: str | torch.device = "cpu", **settings: Any) -> Teacher:
    """The teacher in a folder, or of a name on the Hub; which kind it is, its config.json tells.

    Args:
        name: of the checkpoint; or "world:temporal" or "world:spatial", see `polyv.recipes.oracle`.
        device: where it runs.
        settings: of the teacher: `frames` and `less_still` of a temporal one, `views` of a spatial one, `modality` and
            `first` of a PolyV, whose `<synergy>` is probed (`SynergyState`).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the checkpoint is none of these, or does not take a setting.
    """
    kind: Callable[..., Teacher] = OracleTeacher if name.startswith("world:") else _kind(name)
    known = [setting for setting in inspect.signature(kind).parameters if setting not in ("name", "device")]
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(
                f"{setting}={value}: the teacher {name} takes {' and '.join(known) or 'no setting'}; leave it out."
            )
    return kind(name, device=device, **settings)


def _kind(name: str) -> Callable[..., Teacher]:
    check_name("teacher", name)
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(hf_hub_download(name, "config.json"))
    if not path.is_file():
        raise ValueError(f"teacher={name}: the folder holds no config.json; give a checkpoint's.")
    config = json.loads(path.read_text(encoding="utf-8"))
    kinds: dict[str | None, Callable[..., Teacher]] = {
        "vjepa2": VJEPA2Teacher,
        "polyv_multiview": MultiViewTeacher,
        "polyv": SynergyState,
        None: VGGTTeacher,
    }
    # VGGT's own config.json is of a bare PyTorch model: sizes, and no type.
    kind = config.get("model_type")
    if kind not in kinds or (kind is None and "embed_dim" not in config):
        raise ValueError(
            f"teacher={name}: its config.json says model_type {kind!r}, expected that of V-JEPA 2 (vjepa2), of a "
            "small spatial teacher (polyv_multiview), of a student to probe (polyv), or VGGT's, which has none."
        )
    return kinds[kind]


__all__ = ["MultiViewTeacher", "SynergyState", "Teacher", "VGGTTeacher", "VJEPA2Teacher", "load_teacher"]
