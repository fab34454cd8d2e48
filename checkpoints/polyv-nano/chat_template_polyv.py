# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""PolyV's prompt: Qwen2.5-VL's chat template, extended by scenes and `<synergy>`."""

from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template


SYNERGY_TOKEN = "<synergy>"
SCENE_TOKEN = "<|scene_pad|>"
"""Stands for a whole scene in a prompt. Never a token: the processor expands it into one vision block a view."""

CHAT_TEMPLATE = """\
{%- set synergy = '<synergy>' * (num_synergy_tokens | default(1)) if add_synergy | default(true) else '' -%}
{%- set seen = namespace(images=0, videos=0, scenes=0) -%}

{%- macro render(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] == 'scene' -%}
                {%- set seen.scenes = seen.scenes + 1 -%}
                {{- 'Scene ' ~ seen.scenes ~ ': ' if add_vision_id -}}
                {{- '<|scene_pad|>' -}}
            {%- elif part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
                {%- set seen.images = seen.images + 1 -%}
                {{- 'Picture ' ~ seen.images ~ ': ' if add_vision_id -}}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part['type'] == 'video' or 'video' in part -%}
                {%- set seen.videos = seen.videos + 1 -%}
                {{- 'Video ' ~ seen.videos ~ ': ' if add_vision_id -}}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif 'text' in part -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}

{%- for message in messages -%}
    {%- if loop.first and message['role'] != 'system' -%}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
    {%- endif -%}
    {{- '<|im_start|>' ~ message['role'] ~ '\\n' -}}
    {%- if message['role'] == 'assistant' -%}
        {{- synergy -}}
        {%- generation -%}
            {{- render(message['content']) ~ '<|im_end|>' -}}
        {%- endgeneration -%}
        {{- '\\n' -}}
    {%- else -%}
        {{- render(message['content']) ~ '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}

{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' ~ synergy -}}
{%- endif -%}
"""
"""Qwen2.5-VL's prompt, character for character, plus scenes, plus `<synergy>` ahead of every assistant turn (outside
the `generation` block, hence never a target). Variables: `add_synergy`, `num_synergy_tokens`, `add_vision_id`."""

_TYPED_SCENE_TOKEN = "\U000f0002" * len(SCENE_TOKEN)  # of one length, so that offsets in the text stay right


def veil_scene_token(part: Any) -> Any:
    """A conversation (or part of it) in whose texts a `SCENE_TOKEN` that somebody typed places no scene.

    transformers' `sanitize_control_tokens` sees to real tokens only.
    """
    if isinstance(part, str):
        return part.replace(SCENE_TOKEN, _TYPED_SCENE_TOKEN)
    if isinstance(part, (list, tuple)):
        return [veil_scene_token(one) for one in part]
    if isinstance(part, dict):
        return {key: veil_scene_token(one) if key in ("content", "text") else one for key, one in part.items()}
    return part


def unveil_scene_token(text: str) -> str:
    """The text as it was typed, to be called once scenes are placed."""
    return text.replace(_TYPED_SCENE_TOKEN, SCENE_TOKEN)


def with_scenes(chat_template: Any) -> Any:
    """`CHAT_TEMPLATE` in place of none or of Qwen2.5-VL's own, which cannot place scenes; others as they are."""
    if chat_template is None:
        return CHAT_TEMPLATE
    if isinstance(chat_template, dict):  # several, by name
        return {name: with_scenes(template) for name, template in chat_template.items()}
    if SCENE_TOKEN in chat_template:
        return chat_template
    probe: list[Any] = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "a"}]}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}],
    ]
    try:
        theirs, ours = (
            render_jinja_template(probe, chat_template=template, add_generation_prompt=True, add_synergy=False)[0]
            for template in (chat_template, CHAT_TEMPLATE)
        )
    except Exception:  # one that refuses such a conversation is not Qwen2.5-VL's
        return chat_template
    return CHAT_TEMPLATE if theirs == ours else chat_template
