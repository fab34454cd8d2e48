# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""One row of training data: a conversation, its media, and the content that `<synergy>` learns from."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from polyv.csqa.media import decode_scene
from polyv.processing.chat_template_polyv import SCENE_TOKEN
from polyv.processing.given_media import check_positive, is_video
from polyv.processing.still_images import is_address


MEDIA = ("image", "video", "scene")
TEXTS = ("id", "messages", "content", "teachers")
"""The keys of a row that training holds as text; beside them "prompts", and "source", where it came from."""

TURNS = ("messages", "conversations", "system")
"""Where a row may hold its conversation: as chat templates take it, or as LLaVA, ShareGPT and LLaMA-Factory write it."""

_ROLES = ("system", "user", "assistant")
_SPEAKERS = {"human": "user", "gpt": "assistant"}
_SETTINGS = {"image": set(), "video": {"fps"}, "scene": set()}
_CONTROL = re.compile(
    rf"<\|(?:im_start|im_end|endoftext|vision_start|vision_end|image_pad|video_pad)\|>|{re.escape(SCENE_TOKEN)}|<synergy>"
)


class RowError(ValueError):
    """A row that cannot be trained on. The message names its file, its row number (from 1) and the cause."""


def check_row(row: Any, folder: Path, held: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What training takes of a row, as texts (JSON, for "messages", "content" and "teachers"), and "prompts".

    Args:
        row: {"messages": [{"role", "content"}, …]}, or {"conversations": [{"from", "value"}, …], "system"}, with
            "content" (see `check_content`) beside it or in its place. Paths in "images" and the like become part of the
            messages.
        folder: where relative paths begin; files are looked up.
        held: how many media stand in a dataset's own columns, by their names; None: it is the row of a file.

    Raises:
        ValueError: what is wrong with it.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {row!r:.60}")
    checked: dict[str, Any] = {"id": None if row.get("id") is None else str(row["id"])}
    if held is not None:  # a dataset may be made of `read_rows`
        row = {**row, **{key: _parsed(row[key]) for key in ("messages", "content", "teachers") if key in row}}
    for key in ("content", "teachers"):
        checked[key] = row.get(key)
        if checked[key] is not None:
            checked[key] = json.dumps(check_content(checked[key], folder), ensure_ascii=False)
    checked["prompts"] = _check_prompts(row.get("prompts"))
    messages: list[dict[str, Any]] = []
    told = _told(row)
    if not is_silent({**row, "messages": told}):
        paths = {kind: [_check_path(kind, path, folder) for path in media_of(row, kind)] for kind in MEDIA}
        counts = {}
        for kind in MEDIA:
            found = [len(paths[kind]), *((held or {}).get(name, 0) for name in (f"{kind}s", kind))]
            if sum(map(bool, found)) > 1:
                raise ValueError(_both(kind))
            counts[kind] = sum(found)
        messages = _place(check_messages(told, folder), counts)
        messages = _fill(messages, {kind: found for kind, found in paths.items() if found or not counts[kind]})
    checked["messages"] = json.dumps(messages, ensure_ascii=False)
    try:
        for text in (*checked.values(), *(checked["prompts"] or ())):
            if isinstance(text, str):
                text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate is JSON, and no text
        raise ValueError(f"it holds half a character: {error.reason}") from error
    return checked


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _told(row: dict[str, Any]) -> Any:
    """The turns of a row, as chat templates name them."""
    told = row.get("conversations") if row.get("messages") is None else row["messages"]
    if told is None and "messages" not in row and row.get("content") is None:
        raise ValueError(f"it has {', '.join(map(repr, row)) or 'no key'}, expected 'messages'")
    if isinstance(told, list):
        told = [
            {"role": _SPEAKERS.get(turn["from"], turn["from"]), "content": turn["value"]}
            if isinstance(turn, dict) and {"from", "value"} <= turn.keys()
            else turn
            for turn in told
        ]
        if row.get("system"):
            told = [{"role": "system", "content": row["system"]}, *told]
    return told


def _check_prompts(prompts: Any) -> list[str] | None:
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if prompts is None:
        return None
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise ValueError(f"'prompts' is {prompts!r:.80}, expected a list of texts that are not empty")
    for prompt in prompts:
        _check_text(prompt)
    return prompts


def check_messages(messages: Any, folder: Path) -> list[dict[str, Any]]:
    """One conversation, normalised: contents are lists of entries, and relative media paths start at `folder`.

    Raises:
        ValueError: it is no conversation, it holds no answer, or a medium is missing.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"'messages' is {messages!r:.60}, expected a list of {{'role', 'content'}}")
    checked = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES or "content" not in message:
            raise ValueError(f"message {message!r:.80}: expected a 'role' among {', '.join(_ROLES)}, and a 'content'")
        content = message["content"]
        entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"content {content!r:.80}: expected a text or a list of {{'type', …}} entries")
        checked.append({"role": message["role"], "content": [_check_entry(entry, folder) for entry in entries]})
        if message["role"] == "assistant":
            answer = checked[-1]["content"]
            if not all(entry["type"] == "text" for entry in answer) or not "".join(e["text"] for e in answer).strip():
                raise ValueError(f"assistant turn {content!r:.80}: expected a text that is not empty")
    if checked[-1]["role"] != "assistant":
        raise ValueError("the last turn is not the assistant's, so there is no answer to learn")
    return checked


def _check_entry(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    entry = _without_none(entry)
    kind = entry.get("type")
    if kind == "text" and isinstance(entry.get("text"), str):
        _check_text(entry["text"])
        return {"type": "text", "text": entry["text"]}
    if kind not in MEDIA:
        raise ValueError(f"entry {entry!r:.80}: expected a 'type' among text, {', '.join(MEDIA)}, and its value")
    settings = {key: value for key, value in entry.items() if key not in ("type", kind, "path", "url", "index")}
    if settings.get("text") == "":  # Arrow's, of entries that have none
        del settings["text"]
    if unknown := sorted(settings.keys() - _SETTINGS[kind]):
        raise ValueError(
            f"entry {entry!r:.80}: {', '.join(unknown)} would be ignored; expected "
            f"{' and '.join(map(repr, ('type', kind, *_SETTINGS[kind])))}"
        )
    if "fps" in settings:
        check_positive("fps", settings["fps"])
    medium = entry.get(kind, entry.get("path", entry.get("url")))
    if medium is None:  # of a column
        return {"type": kind, **({"index": entry["index"]} if "index" in entry else {}), **settings}
    if kind == "video" and isinstance(medium, list):
        return {"type": kind, kind: _check_frames(medium, folder, settings), **settings}
    return {"type": kind, kind: _check_path(kind, medium, folder), **settings}


def _check_frames(frames: list[Any], folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """A video given as its pictures."""
    if not is_video(frames):
        raise ValueError(f"video {frames!r:.80}: expected a path, or those of pictures")
    if "fps" not in settings:
        raise ValueError(
            f"video of {len(frames)} picture{'s' * (len(frames) > 1)}: expected their rate beside it, {{'fps': pictures a second}}"
        )
    return [_check_path("image", frame, folder) for frame in frames]


def _check_path(kind: str, medium: Any, folder: Path) -> str:
    if not isinstance(medium, str) or not medium:
        raise ValueError(
            f"{kind} {medium!r:.80}: expected one path or address; media themselves stand in a dataset's column '{kind}s'"
        )
    if kind == "scene" or not is_address(medium):
        medium = os.path.join(folder, medium)
        if not (os.path.exists if kind == "scene" else os.path.isfile)(medium):
            fault = "it is no file" if os.path.exists(medium) else "no such file"
            raise ValueError(f"{kind} {medium}: {fault}")
    return medium


def _check_text(text: str) -> None:
    """A mark of turns or media in a text would be read as one: the answer would end there, or begin."""
    if found := _CONTROL.search(text):
        raise ValueError(f"text {text!r:.80} holds {found[0]}, which the tokenizer takes for a mark; take it out")


def check_content(content: Any, folder: Path) -> dict[str, str | list[str]]:
    """What names one content in several modalities, with paths that start at `folder`: {"image": FILE or [FILE, …],
    "video": FILE, "scene": DIR}, any of them. `<synergy>` learns from it (`polyv train distill`).

    Raises:
        ValueError: it is something else, or a medium is missing.
    """
    content = _without_none(content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not content or not set(content) <= set(MEDIA):
        raise ValueError(f"'content' is {content!r:.80}, expected some of {', '.join(MEDIA)} with the path of each")
    checked: dict[str, str | list[str]] = {}
    for kind, media in content.items():
        several = kind == "image" and isinstance(media, list)
        if not media or not all(isinstance(path, str) for path in (media if several else [media])):
            raise ValueError(f"'content' has {kind} {media!r:.80}, expected a path{' or several' * (kind == 'image')}")
        paths = [_check_path(kind, path, folder) for path in (media if several else [media])]
        checked[kind] = paths if several else paths[0]
    return checked


def media_of(row: Mapping[str, Any], kind: str) -> list[Any]:
    """The media in a row's column of a kind: "images", of several, or "image", of one. ValueError: in both."""
    found = []
    for name in (f"{kind}s", kind):
        media = row.get(name)
        media = list(media) if isinstance(media, (list, tuple)) else [media]
        found.append([medium for medium in media if medium is not None and medium != ""])
    if all(found):
        raise ValueError(_both(kind))
    return found[0] or found[1]


def _both(kind: str) -> str:
    return f"its columns {kind}s and {kind} both hold media; leave one of them out"


def _place(messages: list[dict[str, Any]], counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """An entry in the messages for each medium in the row's columns: where they have one, where a text has "<image>"
    (as LLaMA-Factory writes it), or before the first question, as TRL does."""
    for kind in reversed(MEDIA):
        if not counts.get(kind):
            _refuse_mark(messages, kind)
            continue
        for message in messages:
            if message["role"] == "user":
                message["content"] = [part for entry in message["content"] for part in _split(entry, kind)]
        shown = [entry for message in messages for entry in message["content"] if entry["type"] == kind]
        if not shown:
            first = next((message for message in messages if message["role"] == "user"), None)
            if first is None:
                raise ValueError(f"its column {kind}s holds media, and it has no user's turn to show them in")
            first["content"] = [{"type": kind} for _ in range(counts[kind])] + first["content"]
    _fill(messages, {kind: [None] * counts.get(kind, 0) for kind in MEDIA})
    return messages


def _refuse_mark(messages: list[dict[str, Any]], kind: str) -> None:
    """A question that begins or ends with a mark is about a medium; one that speaks of it may be about HTML."""
    mark = f"<{kind}>"
    asked = [entry for message in messages if message["role"] == "user" for entry in message["content"]]
    for text in (entry["text"].strip() for entry in asked if entry["type"] == "text"):
        if text.startswith(mark) or text.endswith(mark):
            raise ValueError(
                f"text {text!r:.80}: its {mark} would be learned as letters; expected '{kind}s' beside the messages"
            )


def _split(entry: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    mark = f"<{kind}>"
    if entry["type"] != "text" or mark not in entry["text"]:
        return [entry]
    parts: list[dict[str, Any]] = []
    for number, text in enumerate(entry["text"].split(mark)):
        parts += [{"type": kind}] * (number > 0) + [{"type": "text", "text": text}] * bool(text.strip())
    return parts


def _fill(messages: Sequence[dict[str, Any]], media: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The messages with the media of a row's columns, in order or by "index".

    Raises:
        ValueError: a column holds too few, or more than are shown.
    """
    used: dict[str, set[int]] = {kind: set() for kind in MEDIA}
    filled = []
    for message in messages:
        entries = []
        for entry in message["content"]:
            kind = entry["type"]
            if kind in media and entry.get(kind, entry.get("path", entry.get("url"))) is None:
                index = entry.get("index", len(used[kind]))
                if not isinstance(index, int) or not 0 <= index < len(media[kind]):
                    raise ValueError(
                        f"its messages show {kind} {index + 1 if isinstance(index, int) else index!r}, and its column "
                        f"{kind}s holds {len(media[kind])}. If the dataset only names its media, add them first: polyv "
                        "csqa fill"
                    )
                used[kind].add(index)
                entry = {**entry, kind: media[kind][index]}
                entry.pop("index", None)
            entries.append(entry)
        filled.append({"role": message["role"], "content": entries})
    for kind, found in media.items():
        if len(used[kind]) < len(found):
            raise ValueError(
                f"its column {kind}s holds {len(found)}, and its messages show {len(used[kind])} of them. Expected an entry "
                f"{{'type': {kind!r}}}, or <{kind}> in a question, for each; or none at all: then all come before the first "
                "question"
            )
    return filled


def is_silent(row: Mapping[str, Any]) -> bool:
    """Whether a row only names a content, without a conversation about it."""
    return row.get("content") is not None and row.get("messages") in (None, [], "[]")


def read_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a row, with the media of its columns in it.

    Raises:
        RowError: a column holds too few media, or more than are shown.
    """
    source = row.get("source") or f"the row of id {row.get('id')!r:.80}"
    if is_silent(row):
        raise RowError(f"{source}: it names a content, and has no messages; only `polyv train distill` takes that.")
    told = json.loads(row["messages"]) if isinstance(row["messages"], str) else row["messages"]
    messages = [
        {
            "role": message["role"],
            "content": [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else [_without_none(entry) for entry in message["content"]],
        }
        for message in told
    ]
    try:
        columns = {kind: [_decode(kind, medium) for medium in media_of(row, kind)] for kind in MEDIA}
        return _fill(messages, columns)
    except ValueError as error:
        raise RowError(f"{source}: {error}.") from error


def read_content(row: Mapping[str, Any], whose: Literal["content", "teachers"] = "teachers") -> dict[str, Any]:
    """The media that a row's content consists of, by modality; or those that its teachers see, which are the same where
    it does not say otherwise (see `polyv.recipes.synergy.SynergyCollator`)."""
    content = row.get(whose) or row.get("content")
    if content is not None:
        content = json.loads(content) if isinstance(content, str) else content
        return _without_none(content)
    shown: dict[str, list[Any]] = {"video": [], "scene": []}
    for message in read_messages(row):
        for entry in message["content"]:
            if entry["type"] in shown and not isinstance(entry[entry["type"]], list):  # teachers take no loose frames
                shown[entry["type"]].append(entry[entry["type"]])
    return {kind: media[0] for kind, media in shown.items() if len(media) == 1}


def ask_about(kind: str, medium: Any, prompt: str | None = None) -> list[dict[str, Any]]:
    """A conversation about one medium, with an empty answer: what a student is shown of a content."""
    entries = [{"type": kind, kind: medium}, {"type": "text", "text": prompt or f"Describe the {kind}."}]
    return [{"role": "user", "content": entries}, {"role": "assistant", "content": [{"type": "text", "text": ""}]}]


def _without_none(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Arrow fills keys that an entry lacks with None."""
    return {key: value for key, value in entry.items() if value is not None}


def _decode(kind: str, value: Any) -> Any:
    """A medium of a dataset's column as the processor takes it: bytes, where `datasets` has not decoded them."""
    if kind == "scene" and isinstance(value, dict):
        return decode_scene(value)
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else value["path"]
    return value
