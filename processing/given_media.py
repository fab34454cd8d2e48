# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What callers hand over: telling one medium from a list of them, and reading the content of conversations."""

import os
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from polyv.processing.posed_views import PosedViews


logger = logging.get_logger(__name__)

_MESSAGE = "{'role': …, 'content': …}"
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# Under which keys an entry of each type may hold what it shows.
_KEYS = {
    "text": {"path", "url"},  # of no meaning to us, as are all other keys
    "image": {"image", "path", "url", "base64"},
    "image_url": {"image_url"},
    "video": {"video", "path", "url"},
    "scene": {"scene", "path", "url"},
}


def flatten(name: str, media: Any, is_one: Callable[[Any], bool]) -> list:
    """One medium, a list, or a list per sample → a flat list. `name` is the argument's.

    Raises:
        TypeError: it holds what is no medium at all.
    """
    if media is None:
        return []
    if is_one(media):
        return [media]
    if not isinstance(media, (list, tuple, np.ndarray, torch.Tensor)) or getattr(media, "ndim", 1) == 0:
        raise TypeError(
            f"{name}: got {type(media).__name__}, expected a path, a picture, an array, PosedViews, or a list."
        )
    return [one for part in media for one in flatten(name, part, is_one)]


def check_counts(name: str, media: Any, is_one: Callable[[Any], bool], token: str, placeholders: list[int]) -> None:
    """Refuse media that are more or fewer than the `placeholders` of each text: in all where they come as a flat list,
    text by text where they come as a list per sample.

    Raises:
        ValueError: they are, or there are not as many lists as texts.
    """
    given, found = len(flatten(name, media, is_one)), sum(placeholders)
    # In transformers' own words, which its suites look for.
    mend = (
        f"Give as many media, in their order: the number of {token} tokens in the prompts should be the same as the number "
        f"of {name}."
    )
    if media is None or is_one(media) or all(part is None or is_one(part) for part in media):
        if given != found:
            raise ValueError(f"{name}: got {given}, but the text holds {found} {token} placeholder(s). {mend}")
        return
    if len(media) != len(placeholders):
        raise ValueError(
            f"{name}: got {len(media)} lists for {len(placeholders)} text(s). Give one list a text, empty where it has "
            f"no placeholder, or one flat list for all. {mend}"
        )
    for index, (part, found) in enumerate(zip(media, placeholders, strict=True)):
        given = len(flatten(name, part, is_one))
        if given != found:
            raise ValueError(
                f"{name}[{index}]: got {given}, but text[{index}] holds {found} {token} placeholder(s). {mend}"
            )


def is_file(medium: Any) -> bool:
    return isinstance(medium, (str, bytes, os.PathLike))


def is_image(medium: Any) -> bool:
    return is_file(medium) or isinstance(medium, Image.Image) or getattr(medium, "ndim", 4) <= 3


def is_video(medium: Any) -> bool:
    """A list is one video if it holds frames; file names are frames if all of them are names of pictures."""
    if not isinstance(medium, (list, tuple)):
        return is_file(medium) or getattr(medium, "ndim", 5) <= 4
    if medium and all(is_file(frame) for frame in medium):
        names = [str(frame).lower() for frame in medium]
        return all(name.endswith(_IMAGE_SUFFIXES) or name.startswith("data:image/") for name in names)
    return bool(medium) and all(not is_file(frame) and is_image(frame) for frame in medium)


def is_scene(medium: Any) -> bool:
    return isinstance(medium, (PosedViews, str, os.PathLike))


def content_entries(conversation: Any, may_be_batch: bool = True) -> Iterator[dict[str, Any]]:
    """The content entries of one conversation, or of a batch of them.

    Raises:
        TypeError: it is no list of messages, or a message or a content entry is none.
        ValueError: a conversation is empty, or an entry has no type, an unknown one, or one that is not its medium's.
    """
    if not isinstance(conversation, (list, tuple)) and not hasattr(conversation, "content"):
        raise TypeError(f"conversation: got {type(conversation).__name__}, expected a list of {_MESSAGE}.")
    messages = list(conversation)
    if not messages:
        raise ValueError(f"conversation: it is empty, expected at least one message {_MESSAGE}.")
    several = [
        may_be_batch and (isinstance(message, (list, tuple)) or hasattr(message, "content")) for message in messages
    ]
    if any(several) and not all(several):
        raise TypeError(
            "conversation: it holds conversations beside messages. Give a list of the ones or of the others."
        )
    for index, message in enumerate(messages):
        if several[index]:
            yield from content_entries(message, may_be_batch=False)
            continue
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TypeError(f"conversation: message {index} is {message!r:.80}, expected {_MESSAGE}.")
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            for entry in content:
                _check_entry(entry)
                yield entry
        elif not (content is None or isinstance(content, str)):  # of a tool call, it may be None
            raise TypeError(
                f"conversation: the content of message {index} is {content!r:.80}, expected a string or a list of entries."
            )


def _check_entry(entry: Any) -> None:
    if not isinstance(entry, Mapping):
        raise TypeError(f"conversation: a content entry is {entry!r:.80}, expected {{'type': …, …}}.")
    if entry.get("type") == "text" and not isinstance(entry.get("text"), str):
        raise TypeError(
            f"conversation: a content entry of type 'text' holds {entry.get('text')!r:.80}, expected a string."
        )
    kind = entry.get("type")
    kind = kind if isinstance(kind, str) else None
    media = {key for key in set().union(*_KEYS.values()) if entry.get(key) is not None}
    if kind is None or (media and not media & _KEYS.get(kind, set())):
        held = f"holds {' and '.join(map(repr, sorted(media)))}" if media else f"has the keys {sorted(entry)}"
        raise ValueError(
            f"conversation: a content entry of type {kind!r} {held}. Expected {{'type': 'text', 'text': …}}, or a type of "
            "'image', 'video' or 'scene' with the medium under a key of that name."
        )
    if unread := sorted(_UNREAD & {key for key in entry if isinstance(key, str)}):
        logger.warning_once(
            f"A content entry holds {', '.join(unread)}, which qwen_vl_utils reads and a processor does not: give such bounds to "
            "the processor, or to its call, for all media at once."
        )


_UNREAD = {
    "min_pixels",
    "max_pixels",
    "total_pixels",
    "resized_height",
    "resized_width",
    "nframes",
    "min_frames",
    "max_frames",
}


def scene_source(entry: dict[str, Any]) -> Any:
    for key in ("scene", "path", "url"):
        if entry.get(key) is not None:
            return entry[key]
    raise ValueError(
        f"scene: a content entry with keys {sorted(entry)} names none. Expected {{'type': 'scene', 'scene': …}}."
    )


def check_positive(name: str, value: Any, most: float | None = None) -> None:
    """Refuse what is given, but is no number above 0; with `most`, also more than that, and less than its inverse."""
    number = isinstance(value, Real) and 0 < value < float("inf")  # type: ignore[operator]
    if value is not None and not (number and (most is None or 1 / most <= value <= most)):
        limit = "" if most is None else f", at most {most:,.0f}"
        raise ValueError(f"{name}={value!r:.40}: expected a number above 0{limit}. Leave it out for the default.")


def check_count(name: str, value: Any) -> None:
    """Refuse what is given, but is no whole number of at least 1."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if value is not None and not (whole and value >= 1):
        raise ValueError(f"{name}={value!r}: expected a whole number of at least 1, or None.")
