# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Published annotations as scene graphs: what they tell, what is wrong with some of them, and files that are none."""

import json
import pickle
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyv.csqa.executor import execute
from polyv.csqa.importers.action_genome import read_action_genome
from polyv.csqa.importers.annotations import Faults, runs
from polyv.csqa.importers.pvsg import read_pvsg
from polyv.csqa.importers.rscan import read_places
from polyv.csqa.importers.threedssg import read_3dssg
from polyv.csqa.importers.world import read_world
from polyv.csqa.questions import TEMPLATES
from polyv.csqa.records import Appearance, Media
from polyv.csqa.templates import Scene
from tests.csqa.published import (
    MOTION,
    RELATIONS,
    ag_annotations,
    ag_entry,
    pvsg_video,
    write_3rscan,
    write_action_genome,
    write_pvsg,
)


def everything(reader, source, media=None):
    """All records, and what was left out as {(row): cause}."""
    faults = Faults()
    records = list(reader(source, media, faults))
    return records, {fault.row: fault.cause for fault in faults.found}


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- PVSG


def test_pvsg_as_published(tmp_path):
    records, faults = everything(read_pvsg, write_pvsg(tmp_path), tmp_path)
    assert faults == {}
    assert [(r.scene_id, r.split) for r in records] == [
        ("vidor-0001_4164158586", "train"),
        ("vidor-0003_3396832512", "validation"),
        ("epic_kitchen-P01_01", "train"),
    ]
    record = records[0]
    assert record.media.video == "vidor/videos/0001_4164158586.mp4" and not record.media.shared
    assert (tmp_path / record.media.video).is_file()
    assert record.duration == 10.0 and record.times == (*(frame / 5 for frame in range(0, 49, 2)), 9.8)
    assert [(thing.id, thing.category, thing.fixture) for thing in record.objects][4:] == [
        ("5", "floor", True),
        ("6", "ball", False),
    ]
    spans = [(r.subject, r.predicate, r.object, r.start, r.end) for r in record.relations]
    assert ("1", "holding", "3", 1.0, 4.2) in spans  # frames 5 to 20, both included, at five a second
    assert ("1", "holding", "6", 6.0, None) in spans  # to the end, though it says one frame more
    assert ("3", "on", "4", 0.0, 1.0) in spans and ("3", "on", "4", 4.2, None) in spans
    assert ("2", "squatting beside", "6", 4.4, 5.0) in spans  # a predicate that its list lacks
    assert spans == sorted(spans, key=lambda span: span[3])
    ball, child = record.objects[5], record.objects[1]
    assert ball.in_video[:20] == (Appearance(box=(34, 40, 42, 48)),) * 20 and ball.in_video[20] == Appearance()
    assert child.in_video[7] == Appearance() and child.in_video[8].box == (44, 12, 60, 40)


def test_pvsg_without_masks_has_no_boxes(tmp_path):
    records, faults = everything(read_pvsg, write_pvsg(tmp_path))
    assert faults == {} and records[0].times is None and records[0].duration == 10.0
    assert all(thing.in_video == () for record in records for thing in record.objects)


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ([1, 9, "holding", [[0, 3]]], "9 is the id of no object"),
        ([1, 1, "holding", [[0, 3]]], "it relates 1 to itself"),
        ([1, 3, "holding", [[12, 3]]], r"\[12, 3\] is no span of its 50 frames"),
        ([1, 3, "holding", [[-2, 3]]], r"\[-2, 3\] is no span of its 50 frames"),
        ([1, 3, "holding", [[60, 70]]], r"\[60, 70\] is no span of its 50 frames"),
        ([1, 3, "holding", []], "is no span of its 50 frames"),
        ([1, 3, " ", [[0, 3]]], "predicate: String should have at least 1 character"),
        ([1, 3, "holding"], "3: Field required|Missing|missing"),
        ([1, 3, None, [[0, 3]]], "2: Input should be a valid string"),
        ([1, 3, "holding", [[0]]], "Field required|missing"),
        ("holding", "valid tuple"),
    ],
)
def test_a_bad_relation_of_pvsg_is_left_out_and_named(tmp_path, row, cause):
    file = write_pvsg(tmp_path, [pvsg_video("a", relations=[*RELATIONS, row])])
    (record,), faults = everything(read_pvsg, file)
    assert len(record.relations) == sum(len(relation[3]) for relation in RELATIONS)
    assert record.predicates == ()  # what was left out may have happened
    assert list(faults) == ["data[0].relations[7]"] and re.search(cause, faults["data[0].relations[7]"])


def test_a_bad_video_of_pvsg_is_left_out_and_named(tmp_path):
    twice = [{"object_id": 1, "category": "cup", "is_thing": True}] * 2
    videos = [
        pvsg_video("a"),
        pvsg_video("b"),
        pvsg_video("c", meta={"height": 48}),
        pvsg_video("d"),
        pvsg_video("e", objects=twice, relations=[]),
    ]
    file = write_pvsg(tmp_path, videos)
    edited(file, lambda it: it["split"]["ego4d"].update(train=["e"]))
    mask = tmp_path / "vidor" / "masks" / "b" / "0006.png"
    mask.write_bytes((tmp_path / "vidor" / "masks" / "a" / "0000.png").read_bytes()[:60])
    records, faults = everything(read_pvsg, file, tmp_path)
    assert [record.scene_id for record in records] == ["vidor-a"]
    assert list(faults) == ["data[1]", "data[2]", "data[3]", "data[4]"]
    assert "0006.png" in faults["data[1]"]
    assert "meta.width: Field required" in faults["data[2]"]
    assert faults["data[3]"] == "its video 'd' is in no split"
    assert "the ids 1 stand more than once" in faults["data[4]"]


def test_spans_that_touch_are_one(tmp_path):
    told = [[1, 3, "holding", [[11, 20], [5, 10], [30, 34], [33, 36]]]]
    (record,), faults = everything(read_pvsg, write_pvsg(tmp_path, [pvsg_video("a", relations=told)]))
    assert faults == {} and [(r.start, r.end) for r in record.relations] == [(1.0, 4.2), (6.0, 7.4)]


def test_what_other_words_say_too_is_not_told_throughout(tmp_path):
    words = ["holding", "carrying", "touching", "next to", "kicking", "standing on"]
    told = [[1, 3, word, [[5, 20]]] for word in words]
    (record,), _ = everything(read_pvsg, write_pvsg(tmp_path, [pvsg_video("a", relations=told)]))
    assert record.predicates == ("carrying", "kicking", "standing on")


@pytest.mark.parametrize("name", ["../../secret", "a/b", "..", "", "C:\\x"])
def test_names_lead_nowhere_else(tmp_path, name):
    """Names in annotations become paths of media: none of them may leave their folder."""
    file = write_pvsg(tmp_path, [pvsg_video("a"), pvsg_video("b")])
    edited(file, lambda it: (it["data"][0].update(video_id=name), it["split"]["vidor"].update(train=[name])))
    records, faults = everything(read_pvsg, file, tmp_path)
    assert [record.scene_id for record in records] == ["vidor-b"]
    assert "is no name of a file" in faults["data[0]"]
    for path in ("../x.mp4", "/etc/passwd", "a\\..\\x", "C:/x"):
        with pytest.raises(ValidationError, match="leads out of the folder"):
            Media(video=path)


def test_masks_of_another_size_are_named(tmp_path):
    file = write_pvsg(tmp_path, [pvsg_video("a", meta={"height": 40, "width": 64, "num_frames": 50, "fps": 5})])
    records, faults = everything(read_pvsg, file, tmp_path)
    assert records == [] and faults == {"data[0]": "0000.png is of shape [48, 64], expected [40, 64]"}


# --- Action Genome


def test_action_genome_as_published(tmp_path):
    records, faults = everything(read_action_genome, write_action_genome(tmp_path))
    assert faults == {}
    assert [(record.scene_id, record.split) for record in records] == [("001YG", "test"), ("50N4E", "train")]
    record = records[1]
    assert (
        record.fps == 24
        and record.duration == pytest.approx(80 / 24)
        and record.times == (0.5, 1.0, 1.5, 2.0, 3.0)
        and record.predicates == ()
    )
    assert [thing.category for thing in record.objects] == ["person", "book", "cup, glass or bottle"]
    person, book, cup = record.objects
    assert person.in_video[0].box == (2, 4, 30, 46) and person.in_video[2] is None  # nobody was detected there
    assert book.in_video[:2] == (None, None) and cup.in_video[4] == Appearance()  # not annotated; out of sight
    assert cup.in_video[0].box == (10.5, 12.0, 30.5, 28.5)
    spans = {(r.subject, r.predicate, r.object): (r.start, r.end) for r in record.relations}
    assert spans["person", "holding", cup.id] == (1.0, 1.5)
    assert spans["person", "holding", "book"] == (3.0, 3.0)
    # Of the first frames that tell of an object, nobody knows for how long it had been so ("unsure" does not tell).
    assert spans["person", "looking at", "book"] == (None, 3.0) and spans["person", "touching", cup.id] == (None, 0.5)
    assert spans[cup.id, "in front of", "person"] == (None, 2.0)
    begun = {(r.predicate, r.object): r.not_before for r in record.relations}
    assert begun["holding", cup.id] == 0.5 and begun["holding", "book"] == 2.0
    assert not {"not contacting", "unsure"} & {predicate for _, predicate, _ in spans}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda frames, persons: persons.update({next(iter(persons)): []}), "another form|no 'bbox"),
        (lambda frames, persons: persons[next(iter(persons))].update(bbox="text"), "another form"),
        (lambda frames, persons: persons[next(iter(persons))].update(bbox_size=(3,)), "another form"),
        (
            lambda frames, persons: frames.update({"50N4E.mp4/000999.png": next(iter(frames.values()))}),
            "are not in videos",
        ),
        (
            lambda frames, persons: frames[next(iter(frames))][0].update(bbox=(float("nan"), 1.0, 2.0, 3.0)),
            "finite number",
        ),
    ],
)
def test_odd_values_of_action_genome_are_named(tmp_path, change, cause):
    frames, persons = ag_annotations()
    change(frames, persons)
    records, faults = everything(read_action_genome, write_action_genome(tmp_path, (frames, persons)))
    assert records == [] and re.search(cause, faults["'50N4E.mp4'"])


def test_bad_rows_of_action_genome_are_left_out_and_named(tmp_path):
    frames, persons = ag_annotations()
    key = "50N4E.mp4/000025.png"
    frames[key] += [
        ag_entry("50N4E.mp4", 25, "book", bbox=(1.0, 2.0)),
        {key: value for key, value in ag_entry("50N4E.mp4", 25, "door").items() if key != "visible"},
        frames[key][0],
    ]
    frames["50N4E.mp4/last.png"] = []
    other = ag_annotations("GONE0.mp4")
    mixed = ag_annotations("MIXED.mp4")
    mixed[0]["MIXED.mp4/000013.png"][0]["metadata"]["set"] = "test"
    folder = write_action_genome(tmp_path, (frames, persons), other, mixed)
    (tmp_path / "videos" / "GONE0.mp4").unlink()
    records, faults = everything(read_action_genome, folder)
    assert [record.scene_id for record in records] == ["50N4E"]
    assert len(records[0].objects) == 3
    assert re.search("bbox.2: Field required", faults[f"{key!r}[1]"])
    assert "visible: Field required" in faults[f"{key!r}[2]"]
    assert faults[repr(key)] == "'cup/glass/bottle' stands twice in this frame"
    assert "invalid literal" in faults["'50N4E.mp4/last.png'"]
    assert "GONE0.mp4" in faults["'GONE0.mp4'"]
    assert "of the sets test, train" in faults["'MIXED.mp4'"]
    assert len(faults) == 6


def test_a_pickle_cannot_pass_bytes_for_addresses_of_objects(tmp_path):
    """An array of objects, its bytes as if they were pointers: NumPy itself would follow them."""
    folder = write_action_genome(tmp_path, ag_annotations())
    evil = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85c_codecs\nencode\nX\x01\x00\x00\x00bX\x06"
        b"\x00\x00\x00latin1\x86R\x87R(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00|NNNJ"
        b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89c_codecs\nencode\nX\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1\x86Rtb."
    )
    (folder / "person_bbox.pkl").write_bytes(evil)
    with pytest.raises(ValueError, match="it holds an array of 'O8', expected numbers"):
        everything(read_action_genome, folder)


class _Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_may_hold_arrays_and_call_nothing_else(tmp_path, protocol):
    folder = write_action_genome(tmp_path, ag_annotations(), protocol=protocol)
    assert len(everything(read_action_genome, folder)[0]) == 1
    (folder / "person_bbox.pkl").write_bytes(pickle.dumps({"a/b.png": _Evil()}, protocol=protocol))
    with pytest.raises(
        ValueError, match=r"person_bbox\.pkl: it cannot be read \(it calls (builtins|__builtin__)\.exec"
    ):
        everything(read_action_genome, folder)


def test_a_pickle_of_old_numpy_is_read(tmp_path):
    """Published pickles name the module that NumPy 1 had."""
    folder = write_action_genome(tmp_path, ag_annotations())
    file = folder / "person_bbox.pkl"
    file.write_bytes(file.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in file.read_bytes()
    assert everything(read_action_genome, folder)[0][0].objects[0].in_video[0] is not None


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, 50), st.booleans()).map(lambda told: dict(sorted(told.items()))))
def test_runs_are_all_that_is_told_in_a_row(told):
    keys, found = list(told), list(runs(told))
    covered = [key for first, last in found for key in keys if first <= key <= last]
    assert covered == [key for key, is_so in told.items() if is_so]
    for (_, last), (first, _) in pairwise(found):
        assert any(not told[key] for key in keys if last < key < first)


# --- 3DSSG and 3RScan


@pytest.fixture(scope="module")
def scans(world, tmp_path_factory):
    """Three scenes of the world, the second of which as a rescan of the first; (folder, {id: record of the world})."""
    records = list(read_world(world))[:3]
    names = ("aaaa-ref", "bbbb-rescan", "cccc-ref")
    root = tmp_path_factory.mktemp("scans")
    folder = write_3rscan(
        root, {n: (r, world) for n, r in zip(names, records, strict=True)}, {"bbbb-rescan": "aaaa-ref"}
    )
    return folder, dict(zip(names, records, strict=True))


def test_scans_as_published_are_where_the_world_has_them(scans):
    folder, originals = scans
    records, faults = everything(read_3dssg, folder, folder.parent / "3RScan")
    assert faults == {} and [record.scene_id for record in records] == list(originals)
    for record in records:
        original = originals[record.scene_id]
        assert record.split == original.split and record.provenance["reference"] != "bbbb-rescan"
        for thing, known in zip(record.objects, original.objects, strict=True):
            assert thing.category == known.category and thing.name == known.name
            np.testing.assert_allclose(thing.position, known.position, atol=1e-5)
            np.testing.assert_allclose(thing.extent, known.extent, atol=1e-5)
            assert [look.box for look in thing.in_views] == [look.box for look in known.in_views]
        for camera, known in zip(record.view_cameras, original.view_cameras, strict=True):
            np.testing.assert_allclose(camera.pose, known.pose, atol=1e-5)
            np.testing.assert_allclose(camera.intrinsics, known.intrinsics, atol=1e-4)


def test_scans_answer_as_the_world_does(scans):
    """The same programs on both graphs of the same scenes: of what both tell, the same answers."""
    folder, originals = scans
    records, _ = everything(read_3dssg, folder, folder.parent / "3RScan")
    count = 0
    for record in records:
        scene = Scene(originals[record.scene_id], np.random.default_rng(0))
        for template in TEMPLATES:
            if template.needed == "scene" and "image" not in template.shown:
                for question in template.ask(scene):
                    again = execute(question.proposal.program, record)
                    assert again.answer == question.answer.answer, question
                    count += 1
    assert count > 50


def test_relations_of_3dssg_read_after_is(scans):
    folder, _ = scans
    (record, *_), _ = everything(read_3dssg, folder)
    told = {relation.predicate for relation in record.relations}
    assert "built into" in told and "bigger than" in told and not {"left", "build in"} & told
    assert record.tells_of("built into") and not record.tells_of("bigger than")
    assert all(thing.position is None and thing.in_views == () for thing in record.objects)


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_transforms_are_metres_or_millimetres_by_their_size(scans, tmp_path, unit):
    folder, _ = scans
    content = json.loads((folder / "3RScan.json").read_text())
    transform = content[0]["scans"][0]["transform"]
    transform[12:15] = (np.array(transform[12:15]) / 1000 * unit).tolist()
    (tmp_path / "3RScan.json").write_text(json.dumps(content))
    places = read_places(tmp_path / "3RScan.json", Faults())
    np.testing.assert_allclose(places["bbbb-rescan"].motion, MOTION, atol=1e-9)
    assert places["bbbb-rescan"].split == places["aaaa-ref"].split


def test_bad_rows_of_3dssg_are_left_out_and_named(scans, tmp_path):
    folder, _ = scans
    for name in ("relationships.json", "objects.json", "3RScan.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())

    def spoil(content):
        first = content["scans"][0]
        first["relationships"] += [[1, 99, 2, "standing on"], [1, 2, "standing on"], [1, 1, 8, "bigger than"]]
        content["scans"] += [{"scan": "dddd", "relationships": []}, first, {"relationships": []}]
        del content["scans"][2]["relationships"]

    edited(tmp_path / "relationships.json", spoil)
    edited(tmp_path / "objects.json", lambda it: it["scans"][1]["objects"].append({"id": "77"}))
    number = len(json.loads((folder / "relationships.json").read_text())["scans"][0]["relationships"])
    records, faults = everything(read_3dssg, tmp_path)
    assert [record.scene_id for record in records] == ["aaaa-ref", "bbbb-rescan"]
    assert faults.pop(f"scans[0].relationships[{number}]") == "99 is the id of no object"
    assert "2: Input should be a valid integer" in faults.pop(f"scans[0].relationships[{number + 1}]")
    assert faults.pop(f"scans[0].relationships[{number + 2}]") == "it relates 1 to itself"
    assert "label: Field required" in faults.pop(next(row for row in faults if row.startswith("bbbb-rescan.objects")))
    assert faults.pop("scans[2]") == "it has no 'relationships'"
    assert faults.pop("scans[3]") == "its scan 'dddd' is not in 3RScan.json, or stands there twice"
    assert faults.pop("scans[4]") == "its scan 'aaaa-ref' is not in objects.json, or stands there twice"
    assert faults == {"scans[5]": "it has no 'scan'"}


@pytest.mark.parametrize(
    ("change", "row", "cause"),
    [
        (lambda it: it[0]["scans"][0]["transform"].__setitem__(0, 3.0), "bbbb-rescan", "its transform"),
        (lambda it: it[0]["scans"][0]["transform"].pop(), "[0]", "scans.0.transform: List should have at least 16"),
        (lambda it: it[0].update(type="holdout"), "[0]", "type: Input should be 'train'"),
    ],
)
def test_a_bad_environment_is_left_out_and_named(scans, tmp_path, change, row, cause):
    folder, _ = scans
    (tmp_path / "3RScan.json").write_bytes((folder / "3RScan.json").read_bytes())
    edited(tmp_path / "3RScan.json", change)
    faults = Faults()
    places = read_places(tmp_path / "3RScan.json", faults)
    assert set(places) == ({"aaaa-ref", "cccc-ref"} if row != "[0]" else {"cccc-ref"})
    assert [fault.row for fault in faults.found] == [row] and cause in faults.found[0].cause


def test_a_scan_whose_files_are_not_there_is_left_out_and_named(scans, tmp_path):
    folder, _ = scans
    records, faults = everything(read_3dssg, folder, tmp_path)
    assert (
        records == []
        and all("semseg.v2.json: no such file" in cause for cause in faults.values())
        and len(faults) == 3
    )
