# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Programs on scenes made by hand, whose answers one can see from their coordinates."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from polyv.csqa.executor import execute
from polyv.csqa.importers.world import from_world
from polyv.csqa.looks import IllPosedError
from polyv.csqa.programs import QuestionProgram
from polyv.csqa.records import Appearance, Camera, Relation
from polyv.world.records import WorldRelation
from tests.world.factory import Thing, record


# The camera of the image stands at y = -4 and looks along +y: +x is to its right, and a smaller y is nearer to it. The
# views stand around: number 3 looks from the opposite side.
RED = Thing("red", "ball", (-1.0, 0.0, 0.2))
BLUE = Thing("blue", "box", (1.0, 0.0, 0.2))
GREEN = Thing("green", "cone", (0.0, 1.2, 0.2))


def named(name: str) -> dict:
    colour, category = name.split()
    return {"op": "the", "of": {"op": "objects", "category": category, "attributes": {"colour": colour}}}


def run(scene, **program):
    """The answer of a program written as JSON."""
    return execute(QuestionProgram.model_validate({"answer": program}).answer, scene)


def hit(a: int, b: int, start: float) -> WorldRelation:
    return WorldRelation(subject=f"object_{a}", predicate="hits", object=f"object_{b}", start=start, end=start + 0.1)


def moves(a: int, start: float, end: float = 1.8) -> WorldRelation:
    return WorldRelation(subject=f"object_{a}", predicate="moves", start=start, end=end)


def still(*things: Thing):
    return from_world(record(list(things)))


@pytest.mark.parametrize(
    ("standing", "facing", "target", "side", "ahead"),
    [
        # From the red ball at the left to the blue box at the right, what is farther from the camera is on the left.
        ("red ball", "blue box", "green cone", "left", "ahead"),
        ("blue box", "red ball", "green cone", "right", "ahead"),
        ("green cone", "blue box", "red ball", "right", None),
        ("green cone", "red ball", "blue box", "left", None),
    ],
)
def test_sides_for_somebody_who_stands_there(standing, facing, target, side, ahead):
    scene = still(RED, BLUE, GREEN)
    parts = {"standing": named(standing), "facing": named(facing), "target": named(target)}
    answer = run(scene, op="side", **parts)
    assert answer.answer == side and answer.distractors == ("left" if side == "right" else "right",)
    assert answer.support.objects == tuple(
        {"red ball": "object_0", "blue box": "object_1", "green cone": "object_2"}[name]
        for name in (standing, facing, target)
    )
    if ahead:
        assert run(scene, op="ahead", **parts).answer == ahead
    else:
        with pytest.raises(IllPosedError, match="rather to the side"):
            run(scene, op="ahead", **parts)


def test_sides_in_pictures_turn_with_the_viewpoint():
    scene = still(RED, BLUE, GREEN)
    parts = {"target": named("red ball"), "beside": named("blue box")}
    assert run(scene, op="beside", at="image", **parts).answer == "left"
    across = run(scene, op="beside", at=3, **parts)
    assert across.answer == "right" and across.support.views == (3,)
    swapped = [{"op": "beside", "at": at, **parts} for at in ("image", 3)]
    assert run(scene, op="whether", one=swapped[0], other=swapped[1]).answer == "no"
    assert run(scene, op="whether", one=swapped[1], other=swapped[1]).answer == "yes"


def test_what_is_lost_from_sight_may_hit_anything():
    lost, seen = still(
        Thing("red", "ball", (0.0, 0.0, 0.2), visible=0.0), Thing("blue", "box", (2.0, 0.0, 0.2))
    ).objects
    assert "hits" in lost.doubtful and "hits" not in seen.doubtful


def test_what_is_hidden_is_not_what_a_view_looks_past():
    behind, past = (
        Thing("red", "ball", (0.0, 0.0, 0.2), visible=0.0),
        Thing("blue", "box", (40.0, 0.0, 0.2), visible=0.0),
    )
    partly = Thing("green", "cone", (0.0, 1.2, 0.2), visible=0.3)
    scene = still(behind, past, partly, Thing("cyan", "ball", (0.5, 0.0, 0.2)))
    assert run(scene, op="hidden", of=named("red ball"), at=2).answer == "yes"
    assert run(scene, op="hidden", of=named("cyan ball"), at=2).answer == "no"
    for name in ("blue box", "green cone"):
        with pytest.raises(IllPosedError, match="it shows a little, or the view looks past it"):
            run(scene, op="hidden", of=named(name), at=2)


def test_what_is_nearer_depends_on_the_viewpoint_and_on_what_it_is_near_to():
    near, far = Thing("red", "ball", (0.1, -1.5, 0.2)), Thing("blue", "box", (-0.1, 1.5, 0.2))
    scene = still(near, far, Thing("green", "cone", (0.0, 2.2, 0.2)))
    both = {"op": "those", "of": [named("red ball"), named("blue box")]}

    def nearest(by: dict) -> str:
        return run(scene, op="name", of={"op": "extreme", "of": both, "by": by, "order": "least"}).answer

    assert nearest({"op": "depth", "at": "image"}) == "red ball"
    assert nearest({"op": "depth", "at": 3}) == "blue box"
    assert nearest({"op": "distance", "to": named("green cone")}) == "blue box"
    parts = {"target": named("red ball"), "than": named("blue box")}
    assert run(scene, op="in_front", at="image", **parts).answer == "front"
    assert run(scene, op="in_front", at=3, **parts).answer == "behind"
    with pytest.raises(IllPosedError, match="one behind the other"):
        run(still(RED, BLUE), op="in_front", at="image", target=named("red ball"), than=named("blue box"))


def test_heights_are_compared_with_a_margin():
    tall = {"op": "extreme", "by": {"op": "height"}, "order": "most"}
    scene = still(RED, replace(BLUE, side=0.8))
    both = {"op": "those", "of": [named("red ball"), named("blue box")]}
    answer = run(scene, op="name", of={**tall, "of": both})
    assert answer.answer == "blue box" and answer.distractors == ("red ball",)
    with pytest.raises(IllPosedError, match="no object has surely the most height"):
        run(still(RED, replace(BLUE, side=0.45)), op="name", of={**tall, "of": both})


def chain():
    """The red ball hits the blue box, which hits the green cone."""
    relations = (moves(0, 0.1), hit(0, 1, 0.5), moves(1, 0.6), hit(1, 2, 1.0), moves(2, 1.1))
    movers = [
        Thing("red", "ball", (-1.5, 0.0, 0.2), step=(0.2, 0.0, 0.0), until=4),
        Thing("blue", "box", (-0.3, 0.0, 0.2), step=(0.0, 0.0, 0.0)),
        Thing("green", "cone", (0.6, 0.0, 0.2)),
    ]
    scene = from_world(record(movers, relations))
    # What the world would doubt of such rough tracks is of no matter here.
    return scene.model_copy(
        update={"objects": tuple(thing.model_copy(update={"doubtful": ()}) for thing in scene.objects)}
    )


def test_events_are_found_by_what_they_are_and_when():
    scene = chain()
    hits = {"op": "events", "predicate": "hits"}
    first, last = ({"op": "nth", "of": hits, "index": index} for index in (0, -1))
    answer = run(scene, op="name", of={"op": "target", "of": first})
    assert answer.answer == "blue box" and answer.support.times == ((0.5, 0.6),)
    assert scene.relations[answer.support.relations[0]].predicate == "hits"
    assert run(scene, op="name", of={"op": "subject", "of": last}).answer == "blue box"
    after = {**hits, "subject": named("blue box"), "after": first}
    assert (
        run(scene, op="name", of={"op": "target", "of": {"op": "nth", "of": after, "index": 0}}).answer == "green cone"
    )
    assert run(scene, op="count", of=hits).answer == "two"
    assert run(scene, op="any", of={**hits, "subject": named("green cone")}).answer == "no"
    assert run(scene, op="any", of={**hits, "before": first}).answer == "no"
    assert run(scene, op="predicate", of=first).distractors == ("moves", "on")
    struck = {"op": "targets", "of": hits}
    everything = {"op": "objects"}
    assert (
        run(scene, op="name", of={"op": "the", "of": {"op": "without", "of": everything, "but": struck}}).answer
        == "red ball"
    )
    with pytest.raises(IllPosedError, match="there are 2 such events, none of index 2"):
        run(scene, op="predicate", of={**first, "index": 2})


def test_a_description_that_fits_none_or_several_is_refused():
    scene = still(RED, replace(BLUE, colour="red", category="ball"))
    for description, count in [({"category": "ball"}, "2"), ({"category": "cup"}, "no")]:
        the = {"op": "the", "of": {"op": "objects", **description}}
        with pytest.raises(IllPosedError, match=f"fits {count} objects"):
            run(scene, op="attribute", name="colour", of=the)


def test_what_a_viewer_may_doubt_is_not_asked():
    scene = chain()
    doubted = scene.objects[2].model_copy(update={"doubtful": ("hits",)})
    scene = scene.model_copy(update={"objects": (*scene.objects[:2], doubted)})
    hits = {"op": "events", "predicate": "hits"}
    with pytest.raises(IllPosedError, match="doubt what green cone does"):
        run(scene, op="count", of=hits)
    assert run(scene, op="any", of={**hits, "subject": named("red ball")}).answer == "yes"


def look(shows: bool | None) -> Appearance:
    """In plain view, hardly, or not at all."""
    if shows is False:
        return Appearance()
    return Appearance(box=(40, 40, 60, 60), visible=1.0 if shows else 0.2)


@pytest.mark.parametrize(
    ("frames", "reappears", "at_end"),
    [
        ("+" * 16, "no", "yes"),
        ("+++++-----++++++", "yes", "yes"),
        ("+++++++++-------", "no", "no"),
        ("-----+++++++++++", "no", "yes"),
        ("+++++++-++++++++", None, "yes"),
        ("++++++++~~~~~~~~", "no", None),
    ],
)
def test_in_and_out_of_view(frames, reappears, at_end):
    scene = still(RED)
    looks = tuple(look({"+": True, "-": False, "~": None}[frame]) for frame in frames)
    scene = scene.model_copy(update={"objects": (scene.objects[0].model_copy(update={"in_video": looks}),)})
    for wanted, program in [
        (reappears, {"op": "reappears", "of": named("red ball")}),
        (at_end, {"op": "seen", "of": named("red ball"), "at": "end"}),
    ]:
        if wanted is None:
            with pytest.raises(IllPosedError):
                run(scene, **program)
        else:
            assert run(scene, **program).answer == wanted


def test_who_comes_and_who_leaves_first():
    scene = still(RED, BLUE)
    shows = {"object_0": "+" * 6 + "-" * 10, "object_1": "-" * 4 + "+" * 12}
    objects = tuple(
        thing.model_copy(update={"in_video": tuple(look(frame == "+") for frame in shows[thing.id])})
        for thing in scene.objects
    )
    scene = scene.model_copy(update={"objects": objects})
    both = {"op": "those", "of": [named("red ball"), named("blue box")]}
    for number, order, name in [
        ("last_seen", "least", "red ball"),
        ("last_seen", "most", "blue box"),
        ("first_seen", "least", "red ball"),
        ("first_seen", "most", "blue box"),
    ]:
        extreme = {"op": "extreme", "of": both, "by": {"op": number}, "order": order}
        assert run(scene, op="name", of=extreme).answer == name


def test_directions_are_the_cameras():
    relations = (moves(0, 0.1),)
    for step, way in [
        ((0.1, 0, 0), "right"),
        ((-0.1, 0, 0), "left"),
        ((0, -0.1, 0), "towards"),
        ((0, 0.1, 0), "away"),
    ]:
        scene = from_world(record([replace(RED, position=(0.0, 0.0, 0.2), step=step)], relations))
        answer = run(scene, op="direction", of=named("red ball"))
        assert answer.answer == way and len(answer.distractors) == 3 and answer.support.times


def test_what_rests_on_what_at_the_start_and_at_the_end():
    on = [
        Relation(subject="object_0", predicate="on", object="object_1", start=0.0, end=0.7),
        Relation(subject="object_0", predicate="on", object="floor", start=1.2),
        Relation(subject="object_1", predicate="on", object="floor"),
    ]
    scene = still(RED, BLUE).model_copy(update={"relations": tuple(on)})
    of = named("red ball")
    start = run(scene, op="rests_on", at="start", of=of)
    assert start.answer == "blue box" and start.support.objects == ("object_0", "object_1")
    end = run(scene, op="rests_on", at="end", of=of)
    assert end.answer == "floor" and end.support.relations == (1,) and end.support.times[0][0] == 1.2
    assert run(scene, op="rests_on", at="end", of=named("blue box")).answer == "floor"
    with pytest.raises(IllPosedError, match="rests on no things that are known"):
        run(scene.model_copy(update={"relations": ()}), op="rests_on", at="end", of=of)


def test_what_the_graph_does_not_tell_is_no_answer():
    scene = still(RED, BLUE, GREEN)
    bare = tuple(
        thing.model_copy(update={"position": None, "extent": None, "track": (), "in_image": None, "in_views": ()})
        for thing in scene.objects
    )
    scene = scene.model_copy(update={"objects": bare})
    red, blue, green = (named(name) for name in ("red ball", "blue box", "green cone"))
    both = {"op": "those", "of": [red, blue]}
    for program in [
        {"op": "side", "standing": red, "facing": blue, "target": green},
        {"op": "beside", "target": red, "beside": blue, "at": "image"},
        {"op": "seen", "of": red, "at": 2},
        {"op": "seen", "of": red, "at": 17},
        {"op": "direction", "of": red},
        *(
            {"op": "name", "of": {"op": "extreme", "of": both, "by": by, "order": "most"}}
            for by in ({"op": "height"}, {"op": "travel"}, {"op": "distance", "to": green}, {"op": "depth", "at": 0})
        ),
        {"op": "attribute", "name": "material", "of": red},
    ]:
        with pytest.raises(IllPosedError):
            run(scene, **program)


@pytest.mark.parametrize(
    "program",
    [
        {"op": "nonsense"},
        {"op": "name", "of": {"op": "objects"}},  # some objects are not one
        {"op": "count", "of": {"op": "the", "of": {"op": "objects"}}},  # and one is not some
        {"op": "seen", "of": named("red ball"), "at": -1},
        {"op": "seen", "of": named("red ball"), "at": "middle"},
        {"op": "name"},
        {"op": "name", "of": named("red ball"), "more": 1},
    ],
)
def test_operations_do_not_fit_any_which_way(program):
    with pytest.raises(ValidationError):
        QuestionProgram.model_validate({"answer": program})


def test_cameras_without_a_pose_are_no_reason_to_guess():
    scene = still(RED, BLUE)
    assert isinstance(scene.view_cameras[0], Camera)
    scene = scene.model_copy(update={"view_cameras": ()})
    both = {"op": "those", "of": [named("red ball"), named("blue box")]}
    nearest = {"op": "extreme", "of": both, "by": {"op": "depth", "at": 0}, "order": "least"}
    with pytest.raises(IllPosedError, match="the camera of 0 is not known"):
        run(scene, op="name", of=nearest)


def test_what_was_not_annotated_did_not_not_happen():
    scene = chain().model_copy(update={"predicates": None})
    kicks = {"op": "events", "predicate": "kicks"}
    with pytest.raises(IllPosedError, match="the graph does not tell of kicks"):
        run(scene, op="any", of=kicks)
    annotated = scene.model_copy(update={"predicates": ("hits", "kicks")})
    assert run(annotated, op="any", of=kicks).answer == "no"


def test_of_events_at_one_time_none_is_the_first():
    scene = chain()
    tied = tuple(r.model_copy(update={"start": 0.5}) if r.predicate == "hits" else r for r in scene.relations)
    untimed = tuple(r.model_copy(update={"start": None}) if r.predicate == "hits" else r for r in scene.relations)
    first = {"op": "nth", "index": 0, "of": {"op": "events", "predicate": "hits"}}
    for relations in (tied, untimed):
        with pytest.raises(IllPosedError, match="which event comes first is not known"):
            run(scene.model_copy(update={"relations": relations}), op="predicate", of=first)


def test_one_object_hit_twice_is_one_object():
    scene = chain()
    again = next(r for r in scene.relations if r.predicate == "hits").model_copy(update={"start": 1.5, "end": 1.6})
    scene = scene.model_copy(update={"relations": (*scene.relations, again)})
    hits = {"op": "events", "predicate": "hits", "subject": named("red ball")}
    assert run(scene, op="count", of=hits).answer == "two"
    assert run(scene, op="count", of={"op": "targets", "of": hits}).answer == "one"
