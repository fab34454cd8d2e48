# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Processor of PolyV: Qwen2.5-VL's, with posed RGB-D scenes, `<synergy>`, and readers for ordinary media files."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import AddedToken, BatchFeature, PreTrainedConfig, Qwen2_5_VLProcessor, processing_utils
from transformers.utils import logging
from transformers.utils.chat_template_utils import _get_template_variables

from .chat_template_polyv import (
    SCENE_TOKEN,
    SYNERGY_TOKEN,
    unveil_scene_token,
    veil_scene_token,
    with_scenes,
)
from .given_media import (
    check_count,
    check_counts,
    content_entries,
    flatten,
    is_image,
    is_scene,
    is_video,
    scene_source,
)
from .posed_views import PosedViews
from .still_images import MAX_IMAGE_PIXELS, check_pixels, load_image, unambiguous
from .video_inputs import load_videos, one_each


logger = logging.get_logger(__name__)

_SETTINGS = ("scenes_kwargs", "add_synergy", "num_synergy_tokens", "max_image_pixels")
_VIDEO_OPTIONS = ("fps", "num_frames", "min_frames", "max_frames", "do_sample_frames", "video_metadata")
# Set where transformers knows `sanitize_control_tokens`: keeps placeholders that a user typed from counting.
_UNMARKED = getattr(processing_utils, "_UNMARKED", "")
_SCENES_DEFAULTS = {"num_views": 32, "min_pixels": None, "max_pixels": 256 * 28 * 28}


class PolyVProcessor(Qwen2_5_VLProcessor):
    """Turns text, images, videos and posed RGB-D scenes into the inputs of PolyV.

    8-bit images and frames give exactly Qwen2.5-VL's tensors; a video file gives those of frames spread evenly in time. A scene becomes one image per view (grid t = 1), and the
    batch gains `image_coords`: float32 `[merged image tokens of the batch, 3]`, world metres, in the order of the rows
    of `image_grid_thw`; NaN where there is no coordinate (a plain image, or no measured depth under the token).

    Args:
        image_processor, tokenizer, video_processor: Qwen2.5-VL's. A tokenizer without `<synergy>` gains it, as a
            special token with the next free id; in Qwen2.5-VL's checkpoints that is an unused row of the embedding.
        chat_template: None or Qwen2.5-VL's own becomes `CHAT_TEMPLATE`; any other stays, and places scenes and
            `<synergy>` if it knows how.
        scenes_kwargs: `num_views`, the most views of a scene (spread over its trajectory; 32), and `min_pixels` and
            `max_pixels` of each view after the resize (None: as for images).
        add_synergy: whether prompts hold `<synergy>`. False gives Qwen2.5-VL's prompt.
        num_synergy_tokens: how many `<synergy>` open an assistant turn (the paper: 1). `from_pretrained` takes it from
            a PolyV model's `config.json` where the processor's own file is silent.
        max_image_pixels: a picture, video frame or view of more pixels is refused before it is decoded.

    Raises:
        ValueError: a setting is unknown, or `num_synergy_tokens` is below 1.

    Example:
        ```python
        processor = PolyVProcessor.from_pretrained("Qwen/Qwen2.5-VL-3B-Instruct")
        messages = [{"role": "user", "content": [
            {"type": "scene", "scene": "scans/scene0000_00"},
            {"type": "text", "text": "How far is the chair from the door?"},
        ]}]
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ```
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        chat_template=None,
        scenes_kwargs=None,
        add_synergy=True,
        num_synergy_tokens=1,
        max_image_pixels=MAX_IMAGE_PIXELS,
        **kwargs,
    ):
        if SYNERGY_TOKEN not in tokenizer.get_vocab():
            tokenizer.add_tokens([AddedToken(SYNERGY_TOKEN, special=True, normalized=False)], special_tokens=True)
        self.synergy_token = SYNERGY_TOKEN
        self.synergy_token_id = tokenizer.convert_tokens_to_ids(SYNERGY_TOKEN)
        self.scenes_kwargs = _scene_settings(scenes_kwargs, _SCENES_DEFAULTS)
        self.add_synergy = add_synergy
        self.num_synergy_tokens = _synergy_count(num_synergy_tokens)
        self.max_image_pixels = _pixel_limit(max_image_pixels)
        chat_template = with_scenes(chat_template)
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load from a PolyV or a Qwen2.5-VL checkpoint. Takes the settings of the class as keyword arguments too."""
        # Left in kwargs, they would end up in the tokenizer's own saved settings.
        settings = {name: kwargs.pop(name) for name in _SETTINGS if name in kwargs}
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if "scenes_kwargs" in settings:
            settings["scenes_kwargs"] = _scene_settings(settings["scenes_kwargs"], processor.scenes_kwargs)
        if "num_synergy_tokens" in settings:
            _synergy_count(settings["num_synergy_tokens"])
        if "max_image_pixels" in settings:
            _pixel_limit(settings["max_image_pixels"])
        for name, value in settings.items():
            setattr(processor, name, value)
        return processor

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As transformers'; what the processor's own file leaves open comes from the model's: `num_synergy_tokens`."""
        settings, rest = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if "num_synergy_tokens" not in settings:
            try:
                config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)
            except OSError:  # a processor without a model
                config = {}
            if config.get("model_type") == "polyv" and "num_synergy_tokens" in config:
                settings["num_synergy_tokens"] = config["num_synergy_tokens"]
        return settings, rest

    @property
    def model_input_names(self):
        return [*super().model_input_names, "image_coords"]

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        scenes: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a batch.

        Args:
            images: paths, bytes, URLs, base64, PIL images of any mode, or arrays (see `to_eight_bits`); one, a list, or
                a list per sample, each as long as its text has placeholders. The same holds for videos and scenes.
            text: a prompt or a list of them, with `<|image_pad|>`, `<|video_pad|>` and `<|scene_pad|>` where media stand.
            videos: paths, bytes, URLs, arrays `[T, H, W, 3]`, or lists of frames. Files are sampled here, evenly in
                time, by `fps` (default: the video processor's, else 2) up to `max_frames`, or to `num_frames`; all
                frames with `do_sample_frames=False`. Frames given as such are kept up to `max_frames`, or `num_frames`
                of them; their rate is told by `video_metadata` (then `fps` samples them like a file), or else by
                `fps`, or else taken as 24 with a warning. `fps` and `video_metadata` may be lists, one a video.
            scenes: `PosedViews`, or paths that `PosedViews.load` reads.
            kwargs: as for Qwen2.5-VL's processor; and `scenes_kwargs`, settings of this call over the processor's own.

        Raises:
            ValueError: placeholders and media differ in number, or a medium is refused (see `PosedViews`, `load_image`,
                `load_videos`).
        """
        texts = [text] if isinstance(text, str) else text
        is_list = isinstance(texts, (list, tuple)) and all(isinstance(sample, str) for sample in texts)
        if texts is not None and not (is_list and texts):
            raise TypeError(f"text: got {text!r:.80}, expected a string, or a list of strings, at least one.")
        for index, sample in enumerate(texts or ()):
            try:
                sample.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"text[{index}]: it cannot be tokenized ({error}). Was it decoded rightly?"
                ) from error
        order = None if texts is None else self._count_placeholders(texts, images, videos, scenes)
        rescale = {**(kwargs.get("images_kwargs") or {}), **kwargs}.get("do_rescale", self.image_processor.do_rescale)
        image_list = [
            unambiguous(load_image(image, self.max_image_pixels, rescale is not False))
            for image in flatten("images", images, is_image)
        ]
        settings = _scene_settings(kwargs.pop("scenes_kwargs", None), self.scenes_kwargs)
        scene_list = [self._load_scene(scene, settings["num_views"]) for scene in flatten("scenes", scenes, is_scene)]
        video_list, kwargs = self._load_videos(flatten("videos", videos, is_video), kwargs)
        return super().__call__(
            images=_Pictures.arrange(image_list, scene_list, order, settings) if image_list or scene_list else None,
            text=texts,
            videos=video_list or None,
            **kwargs,
        )

    def apply_chat_template(
        self, conversation, chat_template=None, *, tokenize=False, processor_kwargs=None, **kwargs
    ):
        """As transformers', with `{"type": "scene", "scene": path or PosedViews}` among the contents.

        A video entry may carry its own `"fps"`: how densely to sample a file, or the rate of frames given as such; for
        the other videos the call's `fps` still holds.
        `add_synergy` and `num_synergy_tokens` override the processor's. Arguments of `__call__` (`padding=True`, …)
        may stand here as well as in `processor_kwargs`.

        Raises:
            ValueError: as `__call__` says; also an empty conversation, a content entry without a type or whose type is
                not its medium's, a scene where the template knows none, and `num_synergy_tokens` below 1.
        """
        template = self.chat_template if chat_template is None else chat_template
        if isinstance(self.chat_template, dict):
            template = self.chat_template.get(chat_template or "default", chat_template)
            if template is None:
                raise ValueError(
                    f"chat_template: this processor has several, {', '.join(self.chat_template)}, and none called "
                    "default. Pass one of these names."
                )
        # transformers 5.18 drops `processor_kwargs` when anything is left over here, later ones warn: sort them first.
        known = _get_template_variables(template) | inspect.signature(super().apply_chat_template).parameters.keys()
        processor_kwargs = {**(processor_kwargs or {}), **{k: kwargs.pop(k) for k in list(kwargs) if k not in known}}
        for name in {"add_synergy", "num_synergy_tokens"} & _get_template_variables(template):
            kwargs.setdefault(name, getattr(self, name))
        _synergy_count(kwargs.get("num_synergy_tokens", self.num_synergy_tokens))
        entries = list(content_entries(conversation))
        if kwargs.get("add_synergy", self.add_synergy) and SYNERGY_TOKEN not in template:
            logger.warning_once(
                f"This chat template places no {SYNERGY_TOKEN}, which PolyV was trained with. Pass `add_synergy=False` if "
                "that is what you want."
            )
        if any(entry.get("type") == "scene" for entry in entries) and SCENE_TOKEN not in template:
            raise ValueError(
                f"chat_template: this one cannot place scenes: it has no {SCENE_TOKEN}. Pass one that does, such as "
                "polyv.processing.chat_template_polyv.CHAT_TEMPLATE."
            )
        if tokenize:
            scenes = [scene_source(entry) for entry in entries if entry.get("type") == "scene"]
            rates = [entry.get("fps") for entry in entries if entry.get("type") == "video"]
            if scenes:
                processor_kwargs["scenes"] = scenes
            if any(rate is not None for rate in rates):
                fps = processor_kwargs.pop("fps", (processor_kwargs.get("videos_kwargs") or {}).get("fps"))
                of_all = one_each("fps", fps, len(rates))
                processor_kwargs["fps"] = [b if a is None else a for a, b in zip(rates, of_all, strict=True)]
            # Else transformers' own method sets True beside `fps`, which for us may be just the rate of given frames.
            processor_kwargs.setdefault("do_sample_frames", None)
        if kwargs.get("sanitize_control_tokens"):
            conversation = veil_scene_token(conversation)
        return super().apply_chat_template(
            conversation, chat_template, tokenize=tokenize, processor_kwargs=processor_kwargs, **kwargs
        )

    # What follows overrides hooks of transformers' `ProcessorMixin.__call__`.

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        _, text, videos, audio = super().prepare_inputs_layout(text=text, videos=videos, audio=audio, **kwargs)
        return images, text, videos, audio  # `__call__` has read the pictures

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if images is None and text is None and videos is None:
            raise ValueError("nothing to process: give at least one of text, images, videos and scenes.")

    def _process_images(self, images: "_Pictures", **kwargs):
        if not images.hold_scenes:
            return super()._process_images(list(images), **kwargs)
        plain = [picture for picture in images if not isinstance(picture, PosedViews)]
        views = [view for picture in images if isinstance(picture, PosedViews) for view in picture.images]
        kwargs["return_tensors"] = "pt"
        budget = dict(kwargs.get("size") or self.image_processor.size)
        for edge, limit in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
            budget[edge] = images.settings[limit] or budget[edge]
        most = min(budget["longest_edge"], self.max_image_pixels)
        if images.settings["min_pixels"] is None:  # then the images' own least counts, as far as it fits
            budget["shortest_edge"] = min(budget["shortest_edge"], most)
        if budget["shortest_edge"] > most:
            raise ValueError(f"scenes_kwargs: min_pixels={budget['shortest_edge']} is more than the {most} allowed.")
        # In a call, `min_pixels` and `max_pixels` are the images' own, and would win over `size`.
        views_kwargs = {name: value for name, value in kwargs.items() if name not in ("min_pixels", "max_pixels")}
        processed = self.image_processor(views, **{**views_kwargs, "size": budget})
        pieces_of = {
            False: _split(self.image_processor(plain, **kwargs)) if plain else iter(()),
            True: _split(processed),
        }
        pixels, grids, coordinates, replacements = [], [], [], []
        merge = self.image_processor.merge_size
        for picture in images:
            scene = isinstance(picture, PosedViews)
            pieces = [next(pieces_of[scene]) for _ in range(len(picture) if scene else 1)]
            _, rows, columns = (pieces[0][1] // merge).tolist()
            tokens = self.image_token * (rows * columns)
            pixels += [patches for patches, _ in pieces]
            grids += [grid for _, grid in pieces]
            if scene:
                coordinates.append(picture.token_coordinates(rows, columns).reshape(-1, 3))
                replacements.append(f"<|vision_start|>{tokens}<|vision_end|>" * len(picture))
            else:
                coordinates.append(np.full((rows * columns, 3), np.nan, dtype=np.float32))
                replacements.append(tokens)
        return {
            # Of scenes alone, they are in order as they came: to put them together again takes as long as to split them.
            "pixel_values": torch.cat(pixels) if plain else processed["pixel_values"],
            "image_grid_thw": torch.stack(grids),
            "image_coords": torch.from_numpy(np.concatenate(coordinates)),
        }, replacements

    def get_text_with_replacements(
        self, text, images_replacements=(), videos_replacements=(), audio_replacements=()
    ) -> tuple[list[str], list]:
        """Expand placeholders, scenes and images from one sequence in the order in which they stand."""
        pictures, videos = iter(images_replacements), iter(videos_replacements)
        offsets_of_all = []
        for index, sample in enumerate(text):
            expanded, offsets, last = "", [], 0
            for match in self._placeholders().finditer(sample):
                kind = self._kind(match.group())
                replacement = next(videos if kind == "video" else pictures)
                expanded += sample[last : match.start()]
                span = (len(expanded), len(expanded) + len(replacement))
                offsets.append(
                    {
                        "type": kind,
                        "span": match.span(),
                        "new_span": span,
                        "text": match.group(),
                        "replacement": replacement,
                    }
                )
                expanded += replacement
                last = match.end()
            text[index] = unveil_scene_token(expanded + sample[last:])
            offsets_of_all.append(offsets)
        return text, offsets_of_all

    # Reading media.

    def _placeholders(self) -> re.Pattern:
        tokens = (self.image_token, self.video_token, SCENE_TOKEN)
        return re.compile(_UNMARKED + "(?:" + "|".join(map(re.escape, tokens)) + ")")

    def _kind(self, placeholder: str) -> str:
        return {self.image_token: "image", self.video_token: "video", SCENE_TOKEN: "scene"}[placeholder]

    def _count_placeholders(self, texts: list[str], images: Any, videos: Any, scenes: Any) -> list[str]:
        """The kind of each placeholder in order, after checking that there are as many as media."""
        placed = [[self._kind(found) for found in self._placeholders().findall(sample)] for sample in texts]
        for kind, token, media, is_one in (
            ("image", self.image_token, images, is_image),
            ("video", self.video_token, videos, is_video),
            ("scene", SCENE_TOKEN, scenes, is_scene),
        ):
            check_counts(f"{kind}s", media, is_one, token, [kinds.count(kind) for kinds in placed])
        return [kind for kinds in placed for kind in kinds]

    def _load_scene(self, scene: Any, num_views: int | None) -> PosedViews:
        if isinstance(scene, PosedViews):
            height, width = scene.images.shape[1:3]
            check_pixels(width, height, self.max_image_pixels, "scenes: a view")
            return scene.select(num_views)
        return PosedViews.load(scene, num_views, self.max_image_pixels)

    def _load_videos(self, videos: list, kwargs: dict[str, Any]) -> tuple[list, dict[str, Any]]:
        """Read and sample, once; then `kwargs` tell Qwen2.5-VL's video processor only what came of it."""
        options = {**(kwargs.get("videos_kwargs") or {}), **{k: v for k, v in kwargs.items() if v is not None}}
        loaded = load_videos(videos, options, self.video_processor, self.max_image_pixels)
        kwargs = {name: value for name, value in kwargs.items() if name not in _VIDEO_OPTIONS}
        if "videos_kwargs" in kwargs:
            rest = kwargs["videos_kwargs"] or {}
            kwargs["videos_kwargs"] = {name: value for name, value in rest.items() if name not in _VIDEO_OPTIONS}
        if loaded:
            kwargs.update(do_sample_frames=False, video_metadata=[metadata for _, metadata in loaded])
        return [frames for frames, _ in loaded], kwargs


class _Pictures(list):
    """Images, and `PosedViews` whole, in the order of their placeholders, on their way through `__call__`."""

    settings: dict[str, Any]

    @classmethod
    def arrange(cls, images: list, scenes: list, order: list[str] | None, settings: dict[str, Any]) -> "_Pictures":
        sources = {"image": iter(images), "scene": iter(scenes)}
        order = ["image"] * len(images) + ["scene"] * len(scenes) if order is None else order
        pictures = cls(next(sources[kind]) for kind in order if kind in sources)
        pictures.settings = settings
        return pictures

    @property
    def hold_scenes(self) -> bool:
        return any(isinstance(picture, PosedViews) for picture in self)


def _split(processed: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Patches and grid of each image."""
    grids = processed["image_grid_thw"]
    return zip(processed["pixel_values"].split(grids.prod(-1).tolist()), grids, strict=True)


def _synergy_count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"num_synergy_tokens={value!r}: expected a whole number of at least 1. For none, set add_synergy=False."
        )
    return value


def _pixel_limit(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"max_image_pixels={value!r}: expected a whole number of at least 1, as large as you like.")
    return value


def _scene_settings(given: dict[str, Any] | None, defaults: dict[str, Any]) -> dict[str, Any]:
    unknown = set(given or ()) - set(_SCENES_DEFAULTS)
    if unknown:
        raise ValueError(f"scenes_kwargs: unknown {sorted(unknown)}; expected some of {sorted(_SCENES_DEFAULTS)}.")
    for name, value in (given or {}).items():
        check_count(f"scenes_kwargs: {name}", value)
    return {**defaults, **(given or {})}
