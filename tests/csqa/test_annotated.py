# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Questions about annotated graphs: relations of any predicate, pictures taken from videos and scenes, media of others."""

import json
import shutil
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from polyv import cli
from polyv.csqa import filling
from polyv.csqa.dataset import build
from polyv.csqa.executor import execute
from polyv.csqa.filling import fill
from polyv.csqa.importers.world import read_world
from polyv.csqa.importing import import_graphs
from polyv.csqa.looks import IllPosedError
from polyv.csqa.media import decode_scene, encode, video_frames
from polyv.csqa.pairing import with_image
from polyv.csqa.predicate_questions import PREDICATE_TEMPLATES
from polyv.csqa.programs import QuestionProgram
from polyv.csqa.records import (
    Appearance,
    Camera,
    Media,
    Relation,
    SceneObject,
    SceneRecord,
    read_records,
    write_records,
)
from polyv.csqa.templates import Scene
from polyv.csqa.verify import check_row, verify
from polyv.processing.posed_views import PosedViews
from polyv.recipes.rows import RowError, read_messages
from tests.csqa.published import ag_annotations, write_3rscan, write_action_genome, write_pvsg


def relation(subject: str, predicate: str, target: str, start=None, end=None, view=None) -> Relation:
    return Relation(subject=subject, predicate=predicate, object=target, start=start, end=end, view=view)


def kitchen(*relations: Relation, **changes) -> SceneRecord:
    """A man, a dog, a cup, a book and a table in ten seconds of video, nothing told of where they show."""
    names = ("man", "dog", "cup", "book", "table")
    values = {
        "scene_id": "kitchen",
        "source": "mine",
        "split": "train",
        "media": Media(video="kitchen.mp4"),
        "objects": tuple(SceneObject(id=name, category=name) for name in names),
        "relations": relations,
        "fps": 5.0,
        "duration": 10.0,
    }
    return SceneRecord(**{**values, **changes})


def answers(record: SceneRecord, name: str) -> dict[str, str]:
    """{question in the template's first wording: answer}"""
    template = next(template for template in PREDICATE_TEMPLATES if template.name == name)
    asked = template.ask(Scene(record, np.random.default_rng(0)), each=100)
    return {template.wordings[0].format(**each.proposal.slots): each.answer.answer for each in asked}


HOLDS_TWO = kitchen(
    relation("man", "holding", "cup", 1.0, 3.0),
    relation("man", "looking at", "dog", 2.0, 4.0),
    relation("man", "holding", "book", 5.0),
    relation("dog", "biting", "book", 6.0, 7.0),
    relation("dog", "chewing on", "book", 7.5, 9.9),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "does_first",
            {
                "What is the first thing that the man is holding?": "cup",
                "What is the first thing that the man is looking at?": "dog",
                "What is the first thing that the dog is biting?": "book",
                "What is the first thing that the dog is chewing on?": "book",
            },
        ),
        ("does_next", {"After it was holding the cup, what is the man holding next?": "book"}),
        ("does_then", {"First the dog is biting the book. What does it do with the book next?": "chewing on"}),
        (
            "still_does",
            {
                "When the video ends, is the man holding the cup?": "no",
                "When the video ends, is the man holding the book?": "yes",
                "When the video ends, is the man looking at the dog?": "no",
                "When the video ends, is the dog biting the book?": "no",
            },  # it chews until just before the end: nobody could tell
        ),
    ],
)
def test_what_is_done_in_what_order(name, expected):
    assert answers(HOLDS_TWO, name) == expected


def test_what_goes_on_meanwhile_is_not_what_comes_next():
    cup = relation("man", "holding", "cup", 0.0, 8.0)
    book, dog = relation("man", "holding", "book", 2.0, 3.0), relation("man", "holding", "dog", 8.5)
    told = answers(kitchen(cup, book, dog), "does_next")
    assert told == {}
    assert set(answers(kitchen(cup, dog), "does_next").values()) == {"dog"}
    nearly = kitchen(relation("man", "holding", "cup", 1.0, 2.0), relation("man", "holding", "book", 1.2, 3.0))
    assert answers(nearly, "does_first") == answers(nearly, "does_next") == {}
    again = kitchen(relation("man", "holding", "cup", 1.0, 2.0), relation("man", "holding", "cup", 5.0, 6.0))
    placed = kitchen(relation("man", "holding", "cup", 1.0, 2.0), relation("man", "next to", "cup", 5.0, 6.0))
    meanwhile = kitchen(relation("man", "holding", "cup", 1.0, 9.0), relation("man", "looking at", "cup", 2.0, 6.0))
    for record in (again, placed, meanwhile):
        assert answers(record, "does_then") == {}


def test_when_a_thing_began_may_be_known_from_two_sides_only():
    """Of frames here and there, a relation begins between the last that does not tell of it and the first that does."""

    def between(word: str, target: str, late: float, early: float) -> Relation:
        return relation("man", word, target, late, late).model_copy(update={"not_before": early})

    cup, book = between("holding", "cup", 2.0, 1.0), between("holding", "book", 9.0, 1.5)
    assert answers(kitchen(cup, book, predicates=()), "order") == {}
    book = between("holding", "book", 9.0, 3.0)
    assert set(answers(kitchen(cup, book, predicates=()), "order").values()) == {"before", "after"}
    unknown = relation("man", "holding", "book", None, 9.0)
    assert answers(kitchen(cup, unknown, predicates=()), "order") == {}


def test_what_begins_before_what():
    told = answers(HOLDS_TWO, "order")
    assert told["Does the man start holding the cup before or after it starts holding the book?"] == "before"
    assert told["Does the dog start chewing on the book before or after it starts biting the book?"] == "after"
    together = kitchen(relation("man", "holding", "cup", 1.0), relation("man", "holding", "book", 1.3))
    assert answers(together, "order") == {}


def test_whether_is_asked_only_of_what_was_annotated_throughout():
    told = answers(HOLDS_TWO, "whether_does")
    assert told["Is the man ever holding the book in the video?"] == "yes"
    two = kitchen(relation("man", "holding", "cup", 1.0), relation("dog", "holding", "book", 2.0))
    assert answers(two, "whether_does")["Is the man ever holding the book in the video?"] == "no"
    open_ended = two.model_copy(update={"predicates": ()})
    for name in ("whether_does", "does_first", "done_first_by", "does_next", "still_does"):
        assert answers(open_ended, name) == {}
    # When a thing was done to a named one is told all the same.
    more = open_ended.model_copy(update={"relations": HOLDS_TWO.relations})
    assert answers(more, "order") and answers(more, "does_then")


def test_what_holds_at_a_moment():
    record = kitchen(
        relation("man", "holding", "cup", 1.0, 3.0),
        media=Media(video="kitchen.mp4", image="kitchen.mp4", image_frame=10),
    )

    def held(at: str, frame: int = 10) -> str:
        media = record.media.model_copy(update={"image_frame": frame})
        program = {"op": "holds", "at": at, "of": {"op": "events", "predicate": "holding"}}
        return execute(
            QuestionProgram.model_validate({"answer": program}).answer, record.model_copy(update={"media": media})
        ).answer

    assert [held("image"), held("start"), held("end")] == ["yes", "no", "no"]
    assert held("image", 0) == "no" and held("image", 49) == "no"
    for frame in (4, 6, 14, 16):  # within half a second of where it changes
        with pytest.raises(IllPosedError, match="it is about to change"):
            held("image", frame)


def test_the_picture_and_the_end_of_the_video():
    seen = Appearance(box=(1, 1, 30, 30))
    objects = tuple(
        SceneObject(id=name, category=name, in_image=seen, in_video=(seen,) * 3) for name in ("man", "cup", "book")
    )
    record = kitchen(
        relation("man", "holding", "cup", 1.0, 3.0),
        relation("man", "looking at", "book", 0.0),
        objects=objects,
        times=(0.0, 5.0, 10.0),
        media=Media(video="kitchen.mp4", image="kitchen.mp4", image_frame=10),
    )
    assert answers(record, "no_longer") == {
        "In the picture the man is holding the cup. Is that still so at the end of the video?": "no",
        "In the picture the man is looking at the book. Is that still so at the end of the video?": "yes",
    }


def test_relations_of_a_scene_and_of_one_view_of_it():
    things = tuple(SceneObject(id=name, category=name) for name in ("lamp", "vase", "desk", "shelf"))
    scene = kitchen(
        relation("lamp", "standing on", "desk"),
        relation("vase", "standing on", "desk"),
        relation("shelf", "left of", "desk", view=1),
        relation("shelf", "left of", "lamp", view=0),
        objects=things,
        media=Media(scene="office"),
        view_cameras=(Camera(width=64, height=48),) * 2,
    )
    assert answers(scene, "stands_to") == {
        "What is the lamp standing on?": "desk",
        "What is the vase standing on?": "desk",
    }
    assert answers(scene, "how_many_stand_to") == {"How many things are standing on the desk?": "two"}
    assert answers(scene, "whether_stands_to")["Is the lamp standing on the desk?"] == "yes"
    in_views = answers(scene, "stands_to_in_view")
    assert in_views == {
        "In the first view, what is the shelf left of?": "lamp",
        "In the second view, what is the shelf left of?": "desk",
    }


def test_the_worlds_own_predicates_have_their_own_questions(records):
    for record in records[:20]:
        scene = Scene(record, np.random.default_rng(0))
        assert all(template.ask(scene) == [] for template in PREDICATE_TEMPLATES)


def test_what_may_happen_between_sparse_frames_is_not_asked():
    seen, away = Appearance(box=(1, 1, 30, 30)), Appearance()
    thing = SceneObject(id="cup", category="cup", in_video=(seen, seen, away, away, seen))
    cup = {"op": "the", "of": {"op": "objects", "category": "cup"}}

    def run(times, **program):
        record = kitchen(objects=(thing,), times=times, duration=4.0)
        return execute(QuestionProgram.model_validate({"answer": program}).answer, record).answer

    assert run((0.0, 0.5, 1.0, 1.5, 2.0), op="reappears", of=cup) == "yes"
    with pytest.raises(IllPosedError, match="between the frames"):
        run((0.0, 1.0, 2.0, 3.0, 4.0), op="reappears", of=cup)
    assert run((0.0, 1.0, 2.0, 3.0, 4.0), op="seen", of=cup, at="end") == "yes"
    with pytest.raises(IllPosedError, match="nothing is told of the end of the video"):
        run((0.0, 0.5, 1.0, 1.5, 2.0), op="seen", of=cup, at="end")


def test_frames_that_nobody_looked_at_tell_nothing():
    seen = Appearance(box=(1, 1, 30, 30))
    record = kitchen(
        objects=(
            SceneObject(id="cup", category="cup", in_video=(None, seen, seen, None)),
            SceneObject(id="dog", category="dog", in_video=(seen, seen, seen, seen)),
        ),
        times=(0.0, 3.0, 6.0, 10.0),
    )
    program = {"op": "seen", "of": {"op": "the", "of": {"op": "objects", "category": "cup"}}, "at": "end"}
    with pytest.raises(IllPosedError, match="look in the end frame"):
        execute(QuestionProgram.model_validate({"answer": program}).answer, record)
    assert with_image(record).media.image_frame == 15  # at 3 s, where both are seen


# --- pictures from videos and views


def test_a_picture_is_the_view_that_shows_most(records):
    for record in records[:10]:
        bare = record.model_copy(update={"media": Media(scene=record.media.scene), "image_camera": None})
        paired = with_image(bare)
        clear = [
            sum(Scene(paired, np.random.default_rng(0)).looks.clear(thing, view) is not None for thing in things)
            for view, things in enumerate(_clear_things(paired))
        ]
        assert paired.media.image == record.media.scene
        assert clear[paired.media.image_view] == max(clear) and clear.index(max(clear)) == paired.media.image_view
        assert paired.image_camera == record.view_cameras[paired.media.image_view]
        assert with_image(paired) is paired and with_image(record) is record


def _clear_things(record):
    scene = Scene(record, np.random.default_rng(0))
    for view in range(len(record.view_cameras)):
        things = []
        for thing in scene.named:
            try:
                scene.looks.clear(thing, view)
            except IllPosedError:
                continue
            things += [] if thing.fixture else [thing]
        yield things


def test_pictures_are_taken_from_videos_and_scenes(world, records):
    media = records[0].media
    frames = list(video_frames(str(world / media.video)))
    frame = encode("image", media.model_copy(update={"image": media.video, "image_frame": 3}), world)
    view = encode("image", media.model_copy(update={"image": media.scene, "image_view": 2}), world)
    for value, pixels in ((frame, frames[3]), (view, PosedViews.load(world / media.scene).images[2])):
        assert np.array_equal(_pixels(value), pixels)
    with pytest.raises(ValueError, match="it has no frame 99"):
        encode("image", media.model_copy(update={"image": media.video, "image_frame": 99}), world)
    with pytest.raises(FileNotFoundError, match="as its video: do its paths start at"):
        encode("video", Media(video="nowhere.mp4"), world)


def _pixels(value):
    return np.asarray(Image.open(BytesIO(value["bytes"])))


# --- datasets of graphs whose media are others'


@pytest.fixture(scope="module")
def published(world, tmp_path_factory):
    """Graphs of all three formats, and one folder with all of their media."""
    root = tmp_path_factory.mktemp("published")
    scans = {f"scan-{index}": (record, world) for index, record in enumerate(list(read_world(world))[:4])}
    folder = write_3rscan(root / "3dssg", scans, {"scan-1": "scan-0"})
    write_pvsg(root / "media")
    ag = write_action_genome(root / "media", ag_annotations())
    (root / "3dssg" / "3RScan").rename(root / "scans")
    for path in (root / "scans").iterdir():
        path.rename(root / "media" / path.name)
    media = root / "media"
    import_graphs("pvsg", media / "pvsg.json", root / "pvsg.jsonl", media, progress=False)
    import_graphs("action_genome", ag, root / "action_genome.jsonl", progress=False)
    import_graphs("3dssg", folder, root / "3dssg.jsonl", media, progress=False)
    return root


@pytest.fixture(scope="module")
def named_only(published):
    sources = [published / f"{name}.jsonl" for name in ("pvsg", "action_genome", "3dssg")]
    return build(published / "named", 120, 0, sources, progress=False)


def test_a_dataset_of_others_annotations_holds_no_media(named_only):
    rows = [row for file in named_only.glob("data/*") for row in pq.read_table(file).to_pylist()]
    assert len(rows) == 120 and all(row["images"] == row["videos"] == row["scenes"] == [] for row in rows)
    report = verify(named_only, progress=False)
    assert report.checked.total() == 120 and not report.mismatches
    assert {"does_then", "order", "stands_to", "no_longer", "side_from_picture"} <= set(report.checked)
    card = (named_only / "README.md").read_text()
    for line in ("| pvsg | 3 | not in here", "| action_genome | 1 |", "| 3dssg | 4 |", "Charades", "license: other"):
        assert line in card
    for row in rows[:5]:
        with pytest.raises(RowError, match=r"show \w+ 1, and its column \w+ holds 0\. .*polyv csqa fill"):
            read_messages(row)


def test_filled_it_trains(named_only, published, tmp_path, capsys):
    filled = tmp_path / "filled"
    assert cli.main(["csqa", "fill", str(named_only), "--media", str(published / "media"), "--out", str(filled)]) == 0
    assert not verify(filled, progress=False).mismatches
    assert "holds media of third parties" in (filled / "README.md").read_text()
    graphs = {record.scene_id: record for file in filled.glob("graphs/*") for record in read_records(file)}
    kinds = set()
    for split in ("train", "validation"):
        for row in load_dataset(str(filled), split=split, cache_dir=str(tmp_path / "cache")):
            content = read_messages(row)[0]["content"]
            kinds |= {entry["type"] for entry in content}
            if row["shown"] == ["scene"]:
                views = decode_scene(row["scenes"][0])
                poses = [camera.pose for camera in graphs[row["scene_id"]].view_cameras]
                np.testing.assert_allclose(views.poses, poses, atol=1e-5)  # rescans stand where their graphs have them
    assert kinds == {"image", "video", "scene", "text"}
    with pytest.raises(FileExistsError, match="exists already"):
        fill(named_only, [published / "media"], filled)


def test_filling_names_what_is_not_there(named_only, published, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"media=.*no such folder"):
        fill(named_only, [tmp_path / "nowhere"], tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="the media of no row are there"):
        fill(named_only, [tmp_path], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match=r"no data/\*\.parquet there"):
        fill(published / "media", [published], tmp_path / "out", progress=False)


def test_what_is_at_hand_is_filled_in_and_the_rest_counted(named_only, published, tmp_path, monkeypatch):
    """Media in several folders, some of them missing; and a call that was killed, then repeated with other ones."""
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(published / "media" / "vidor", one / "vidor")
    shutil.copytree(published / "media" / "scan-2", other / "scan-2")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(filling, "content_version", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fill(named_only, [one], out, progress=False)
    assert not out.exists()
    filled = fill(named_only, [one, other], out, progress=False)
    rows = [row for file in out.glob("data/*") for row in pq.read_table(file).to_pylist()]
    assert {row["scene_id"].split("-")[0] for row in rows} == {"vidor", "scan"}
    assert filled.rows == len(rows) and filled.rows + filled.rows_without == 120 and filled.scenes_without > 0
    assert not verify(out, progress=False).mismatches


def test_media_of_ones_own_stay_in_a_filled_dataset(published, world, records, tmp_path):
    write_records(world / "own.jsonl", records[:3])
    both = build(tmp_path / "both", 60, 0, [world / "own.jsonl", published / "pvsg.jsonl"], progress=False)
    filled = fill(both, [published / "media"], tmp_path / "filled", progress=False)
    assert (filled.rows, filled.rows_without) == (60, 0)
    for split in ("train", "validation"):
        for row in (row for file in filled.path.glob(f"data/{split}-*") for row in pq.read_table(file).to_pylist()):
            assert read_messages(row)


def test_a_question_about_another_relation_than_its_program_is_caught(named_only):
    row = next(
        row
        for file in named_only.glob("data/*")
        for row in pq.read_table(file).to_pylist()
        if row["template"] == "stands_to"
    )
    record = next(r for f in named_only.glob("graphs/*") for r in read_records(f) if r.scene_id == row["scene_id"])
    assert check_row(row, record) is None
    predicate = json.loads(row["program"])["answer"]["of"]["of"]["of"]["predicate"]
    other = next(r.predicate for r in record.relations if r.predicate != predicate)
    question = row["question"].replace(predicate, other)
    message = {"role": "user", "content": [{"type": "scene"}, {"type": "text", "text": question}]}
    changed = {**row, "question": question, "plain": question, "messages": [message, row["messages"][1]]}
    assert "is about something else than its program" in check_row(changed, record)
