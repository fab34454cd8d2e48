# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The ten question suites: questions on a scene's media with one-word answers computed from its scene graph.

    balance = Balance()
    for record in records:
        questions += ask(record, np.random.default_rng([seed, 0]), balance, most=1)

Each template lists every well-posed instance in a scene; `Balance` picks among them such that the answers of each
template stay level over the whole data set, so that the wording of a question tells little about its answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyv.csqa.balance import Balance
from polyv.world.questions_general import GENERAL_IMAGE, GENERAL_SCENE, GENERAL_VIDEO
from polyv.world.questions_image import MULTI_IMAGE, SPATIAL_IMAGE, TEMPORAL_IMAGE
from polyv.world.questions_scene import EMBODIED_QA, SCENE_QA, SITUATED_QA
from polyv.world.questions_video import CROSS_VIDEO, GENERAL_VIDEO_EVENTS, SPATIAL_VIDEO
from polyv.world.records import WorldRecord
from polyv.world.sightings import Sight
from polyv.world.templates import Template


SUITES: dict[str, tuple[Template, ...]] = {
    "general_image": GENERAL_IMAGE,
    "spatial_image": SPATIAL_IMAGE,
    "multi_image": MULTI_IMAGE,
    "spatial_video": SPATIAL_VIDEO,
    "cross_video": CROSS_VIDEO,
    "general_video": GENERAL_VIDEO_EVENTS,
    "scene_qa": SCENE_QA + GENERAL_SCENE,
    "situated_qa": SITUATED_QA,
    "embodied_qa": EMBODIED_QA,
    "temporal_image": TEMPORAL_IMAGE,
}
# Count, shape and colour on all three media: all that the backbone may be asked.
GENERAL: tuple[Template, ...] = GENERAL_IMAGE + GENERAL_VIDEO + GENERAL_SCENE


@dataclass(frozen=True)
class Question:
    """One question on one medium (or two), with its one-word answer.

    `media` lists what is shown before it as (kind, path) with kind "image", "video" or "scene" and the path relative
    to the folder of the split. `general` marks count, shape and colour questions, free of space and time.
    """

    suite: str
    template: str
    question: str
    answer: str
    media: tuple[tuple[str, str], ...]
    scene_id: str
    general: bool


def ask(
    record: WorldRecord,
    rng: np.random.Generator,
    balance: Balance,
    most: int = 1,
    partner: WorldRecord | None = None,
) -> list[Question]:
    """Questions of all ten suites on a scene, at most `most` a template.

    `partner` is the scene that gives the second video of `cross_video`; without it that suite is left out.
    """
    templates = [template for suite in SUITES.values() for template in suite]
    return ask_these(templates, record, rng, balance, most, partner)


def ask_general(
    record: WorldRecord,
    rng: np.random.Generator,
    balance: Balance,
    most: int = 1,
    media: Sequence[str] = ("image", "video", "scene"),
) -> list[Question]:
    """General questions only (count, shape, colour) on the image, the video and the posed views of a scene, or on
    those of them that `media` names."""
    return ask_these([template for template in GENERAL if template.media in media], record, rng, balance, most)


def ask_these(
    templates: Sequence[Template],
    record: WorldRecord,
    rng: np.random.Generator,
    balance: Balance,
    most: int = 1,
    partner: WorldRecord | None = None,
) -> list[Question]:
    """Questions of some templates only; otherwise as `ask`."""
    sight = Sight(record, Sight(partner) if partner else None)
    questions = []
    for template in templates:
        if template.media == "videos" and partner is None:
            continue
        media = _media(template, record, partner)
        for found in balance.choose(_kind(template), template.find(sight, rng), most, rng):
            wording = template.wordings[rng.integers(len(template.wordings))].format(**found.slots)
            questions.append(
                Question(
                    template.suite, template.name, wording, found.answer, media, record.scene_id, template.general
                )
            )
    return questions


def _kind(template: Template) -> tuple[str, str, str]:
    return template.suite, template.media, template.name


def _media(template: Template, record: WorldRecord, partner: WorldRecord | None) -> tuple[tuple[str, str], ...]:
    files = record.media
    if template.media == "videos" and partner is not None:
        return ("video", files.video), ("video", partner.media.video)
    if template.media == "images":
        return ("image", files.image), ("image", files.moved)
    return ((template.media, getattr(files, template.media)),)
