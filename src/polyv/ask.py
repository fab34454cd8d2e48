# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Ask a model about images, videos and scenes: PolyV, or any other image-text-to-text model of transformers."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils import logging
from transformers.video_utils import VideoMetadata

from polyv.hub.adapters import is_adapter, require_peft
from polyv.hub.checkpoints import check_name
from polyv.processing.posed_views import PosedViews
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.processing.still_images import is_address
from polyv.processing.view_sampling import Sampling, read_video, select_views


MOST_PICTURES = 32
"""Most images that stand for one scene or one video: as many as PolyV takes views, where a processor names no number."""


def load(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a model, ready to generate, and its processor.

    The model goes to the accelerator in the precision that it was saved in, or, where there is none, to the CPU in
    float32: most CPUs multiply bfloat16 slower than that.

    Raises:
        OSError: there is no such checkpoint.
        ImportError: it is an adapter, and PEFT is not installed.
        ValueError: it is no image-text-to-text model.
    """
    check_name("model", name)
    if is_adapter(name):
        require_peft(f"model={name}")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype="auto" if accelerator else torch.float32)
    if model.config.model_type == "qwen2_5_vl":
        # Its own prompt, read from files as PolyV reads them: PyAV for videos, views of scenes as images.
        processor = PolyVProcessor.from_pretrained(name, add_synergy=False)
    else:
        processor = AutoProcessor.from_pretrained(name)
    return model.to(accelerator or "cpu").eval(), processor


@torch.inference_mode()
def answer(
    model: PreTrainedModel, processor: ProcessorMixin, conversations: list[list[dict]], max_new_tokens: int = 64
) -> list[str]:
    """Answer the last question of each conversation, greedily, all in one batch.

    Args:
        conversations: messages as `apply_chat_template` takes them, each list ending with a user's message. Content
            of type "scene" is allowed for every model: one that is not PolyV gets the views as images. Models of
            another family than Qwen2.5-VL get video files as frames, 2 a second, of which they take their pick, or
            all of them as images where they know no videos. No more than `MOST_PICTURES` images stand for one medium.
        max_new_tokens: longest answer, in tokens.

    Returns:
        One answer a conversation, without special tokens or surrounding white space.
    """
    options: dict[str, Any] = {"padding": True, "padding_side": "left"}
    if not isinstance(processor, PolyVProcessor):
        kinds = {"scene"}
        if getattr(processor, "video_processor", None) is None:
            kinds.add("video")  # such a processor drops videos without a word: the model would answer blind
        conversations = [_as_images(conversation, kinds) for conversation in conversations]
        conversations, metadata = _videos_as_frames(conversations)
        if metadata and all(metadata):
            options["video_metadata"] = metadata
    inputs: Any = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
    )
    inputs = inputs.to(model.device)
    if model.config.model_type != "polyv":
        inputs.pop("image_coords", None)
    # Over what Qwen's checkpoints carry: settings of sampling, and a penalty on the words of the question.
    greedy: dict[str, Any] = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
    greedy |= dict.fromkeys(("temperature", "top_p", "top_k"))
    pad = processor.tokenizer.pad_token_id
    generate: Any = model.generate
    tokens = generate(**inputs, **greedy, max_new_tokens=max_new_tokens, pad_token_id=pad)
    answers = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in answers]


def answer_one(
    name: str, model: PreTrainedModel, processor: ProcessorMixin, messages: list[dict], max_new_tokens: int = 64
) -> str:
    """`answer` one conversation. What stops a model of another family is told as a refusal of the media.

    Raises:
        ValueError: the model, which came by `name`, cannot take these media.
    """
    try:
        return answer(model, processor, [messages], max_new_tokens)[0]
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise  # of the files and of the machine
    except Exception as error:  # whatever a family's own code raises
        if isinstance(processor, PolyVProcessor):
            raise
        media = " + ".join(media_of(messages)) or "a text alone"
        raise ValueError(
            f"model={name}, of the family {model.config.model_type}, cannot be asked about {media} "
            f"({type(error).__name__}: {error}). Give another model, or ask about other media."
        ) from error


def media_of(messages: list[dict]) -> tuple[str, ...]:
    """The kinds of the media in a conversation, in their order."""
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return tuple(entry["type"] for content in contents for entry in content if entry["type"] != "text")


def conversation(question: str, media: list[tuple[str, Any]]) -> list[dict]:
    """One user's message: the media, as (kind, path or object) with kind "image", "video" or "scene", then the text."""
    content = [{"type": kind, kind: source} for kind, source in media]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def run(model: str, question: str, media: list[tuple[str, str]], as_json: bool, max_new_tokens: int) -> None:
    """`polyv ask`: load, answer, print the answer with the seconds it took and the device."""
    for kind, path in media:
        if (kind == "scene" or not is_address(path)) and not Path(path).exists():
            raise FileNotFoundError(f"--{kind} {path}: there is no such {'folder' if kind == 'scene' else 'file'}.")
    logging.disable_progress_bar()
    loaded, processor = load(model)
    started = time.perf_counter()
    text = answer_one(model, loaded, processor, conversation(question, media), max_new_tokens)
    seconds = round(time.perf_counter() - started, 2)
    if as_json:
        print(json.dumps({"answer": text, "seconds": seconds, "device": str(loaded.device), "model": model}))
    else:
        print(f"{text}\n({seconds:.2f} s on {loaded.device})")


def _videos_as_frames(conversations: list[list[dict]]) -> tuple[list[list[dict]], list[VideoMetadata | None]]:
    """The conversations with each video file replaced by its frames, for processors that would want torchcodec for
    it; and, for each video, at which moments its frames stand (None where it came as frames)."""
    metadata: list[VideoMetadata | None] = []

    def decode(entry: dict) -> dict:
        if entry["type"] != "video":
            return entry
        source = entry["video"]
        if not isinstance(source, (str, os.PathLike)):
            metadata.append(None)
            return entry
        frames, of_file = read_video(source, Sampling(min_frames=1, multiple=1))
        rate = len(frames) / of_file.duration
        metadata.append(
            replace(of_file, total_num_frames=len(frames), fps=rate, frames_indices=list(range(len(frames))))
        )
        return {**entry, "video": frames}

    decoded = [
        [
            {**message, "content": [decode(entry) for entry in message["content"]]}
            if isinstance(message["content"], list)
            else message
            for message in conversation
        ]
        for conversation in conversations
    ]
    return decoded, metadata


def _as_images(conversation: list[dict], kinds: set[str]) -> list[dict]:
    """The conversation with each medium of `kinds` replaced by images: a scene by its views, a video by its frames."""

    def expand(entry: dict) -> list[dict]:
        if entry["type"] not in kinds:
            return [entry]
        pictures = _views(entry["scene"]) if entry["type"] == "scene" else _frames(entry["video"])
        return [{"type": "image", "image": picture} for picture in pictures]

    return [
        {**message, "content": [part for entry in message["content"] for part in expand(entry)]}
        if isinstance(message["content"], list)
        else message
        for message in conversation
    ]


def _views(scene: Any) -> list[Any]:
    views = scene.select(MOST_PICTURES) if isinstance(scene, PosedViews) else PosedViews.load(scene, MOST_PICTURES)
    return list(views.images)


def _frames(video: Any) -> list[Any]:
    if isinstance(video, (str, os.PathLike)):
        return list(read_video(video, Sampling(min_frames=1, max_frames=MOST_PICTURES, multiple=1))[0])
    return [video[index] for index in select_views(len(video), MOST_PICTURES)]
