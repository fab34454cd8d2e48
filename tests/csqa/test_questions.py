# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Templates on scenes of the world: all that they ask is well-posed, tells nothing by its order, and is what it seems."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from polyv.csqa.executor import execute
from polyv.csqa.predicate_questions import PREDICATE_TEMPLATES
from polyv.csqa.programs import QuestionProgram
from polyv.csqa.questions import TEMPLATES
from polyv.csqa.templates import FAMILIES, Scene
from polyv.world.scenes import INFERABLE_LAYOUTS


@pytest.fixture(scope="module")
def asked(records):
    """[(record, question)]"""
    return [
        (record, question)
        for index, record in enumerate(records)
        for template in TEMPLATES
        for question in template.ask(Scene(record, np.random.default_rng(index)))
    ]


def test_each_family_has_five_templates_and_more_with_fluent_wordings():
    count = Counter(template.family for template in TEMPLATES if not template.is_synergy)
    assert set(count) == set(FAMILIES) and min(count.values()) >= 5
    assert len({template.name for template in TEMPLATES}) == len(TEMPLATES)
    for template in TEMPLATES:
        assert len(set(template.wordings)) >= 3
        slots = [set(re.findall(r"\{(\w+)\}", wording)) for wording in template.wordings]
        assert all(each == slots[0] for each in slots) or template.name in ("moves_after", "will_move_after"), (
            template.name
        )


def test_a_synergy_question_is_shown_the_image_and_needs_more():
    synergy = [template for template in TEMPLATES if template.is_synergy]
    assert {template.shown for template in synergy} == {("image",)}
    assert {template.needed for template in synergy} == {"video", "scene"}
    for template in synergy:
        assert (template.foreseen is not None) == (template.needed == "video")


def test_every_template_asks_something(asked):
    count = Counter(question.template.name for _, question in asked)
    # Once in hundreds of scenes; and those of annotated graphs, which test_annotated.py asks.
    of_others = {template.name for template in PREDICATE_TEMPLATES}
    assert {template.name for template in TEMPLATES} - set(count) - {"hits_next"} == of_others


def test_what_will_happen_is_asked_of_a_picture_only_where_it_tells(records):
    for index, record in enumerate(records):
        foreseeable = record.provenance["layout"] in INFERABLE_LAYOUTS
        scene = Scene(record, np.random.default_rng(index))
        for template in TEMPLATES:
            if template.foreseen and not foreseeable:
                assert template.ask(scene) == []


def test_programs_give_the_same_answer_read_back_from_json(asked):
    for record, question in asked[::7]:
        program = QuestionProgram(answer=question.proposal.program)
        again = QuestionProgram.model_validate_json(program.model_dump_json(exclude_none=True))
        assert again == program and execute(again.answer, record) == question.answer


def test_wordings_name_what_the_program_asks_about(asked):
    for _, question in asked:
        program = QuestionProgram(answer=question.proposal.program).model_dump_json(exclude_none=True)
        for wording in question.template.wordings:
            text = wording.format(**question.proposal.slots)
            assert text[0].isupper() and text[-1] in "?." and "{" not in text
        for slot, name in question.proposal.slots.items():
            if slot in ("a", "b", "c"):
                colour, category = name.split()
                assert f'"category":"{category}","attributes":{{"colour":"{colour}"}}' in program
        assert question.answer.answer not in question.answer.distractors


def test_the_order_of_names_tells_nothing(asked):
    places: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for _, question in asked:
        slots = question.proposal.slots
        if question.answer.answer in (slots.get("a"), slots.get("b")):
            places[question.template.name][question.answer.answer == slots["a"]] += 1
    assert len(places) >= 6
    for name, count in places.items():
        total = count.total()
        assert abs(count[True] - total / 2) < 4 * np.sqrt(total) / 2, (name, count)


def test_fixtures_are_no_objects_to_ask_about(asked):
    for record, question in asked:
        fixtures = {thing.name for thing in record.objects if thing.fixture}
        assert not fixtures & {name for slot, name in question.proposal.slots.items() if slot != "under"}


def test_the_same_scene_and_seed_give_the_same_questions(records):
    one, other = (
        [question for template in TEMPLATES for question in template.ask(Scene(records[3], np.random.default_rng(5)))]
        for _ in range(2)
    )
    assert one == other and one


def test_reasons_for_not_asking_are_counted(records):
    refused: Counter[str] = Counter()
    for template in TEMPLATES:
        template.ask(Scene(records[0], np.random.default_rng(0)), refused=refused)
    assert refused and all(isinstance(reason, str) and count > 0 for reason, count in refused.items())


def test_what_moves_already_is_not_asked_whether_it_is_pushed(asked):
    for record, question in asked:
        if "moves_after" not in question.template.name and "move_after" not in question.template.name:
            continue
        target = next(thing.id for thing in record.objects if thing.name == question.proposal.slots["b"])
        hit = next(r for r in record.relations if r.predicate == "hits" and r.object == target)
        began = [r.start for r in record.relations if r.predicate == "moves" and r.subject == target]
        assert all(start > hit.start for start in began)


def test_heights_are_compared_only_of_what_stands_on_the_floor(asked):
    count = 0
    for record, question in asked:
        if question.template.name.startswith("taller"):
            count += 1
            for slot in "ab":
                thing = next(one for one in record.objects if one.name == question.proposal.slots[slot])
                assert thing.position[2] - thing.extent[2] / 2 < 0.05
    assert count > 20
