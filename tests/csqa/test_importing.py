# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Files that are something else, and importing as a whole."""

import pytest

from polyv.csqa.importers.action_genome import read_action_genome
from polyv.csqa.importers.pvsg import read_pvsg
from polyv.csqa.importers.threedssg import read_3dssg
from polyv.csqa.importing import import_graphs
from polyv.csqa.records import read_records
from tests.csqa.published import RELATIONS, pvsg_video, write_pvsg
from tests.csqa.test_importers import everything


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'{"data": []}', b"no json", b"", b"\x80\x04\x95", b"[[1]]", b'{"scans": 3}']
)
def test_files_of_another_format_are_refused_at_once(tmp_path, content):
    names = (
        "pvsg.json",
        "relationships.json",
        "objects.json",
        "3RScan.json",
        "object_bbox_and_relationship.pkl",
        "person_bbox.pkl",
    )
    for name in names:
        (tmp_path / name).write_bytes(content)
    for reader, source in (
        (read_pvsg, tmp_path / "pvsg.json"),
        (read_3dssg, tmp_path),
        (read_action_genome, tmp_path),
    ):
        with pytest.raises(ValueError, match=r"(pvsg|relationships)\.json: .*Expected|\.pkl: .*Expected"):
            everything(reader, source)
    for reader, source in (
        (read_pvsg, tmp_path / "a"),
        (read_3dssg, tmp_path / "a"),
        (read_action_genome, tmp_path / "a"),
    ):
        with pytest.raises(FileNotFoundError, match=r"no such file\. Expected"):
            everything(reader, source)


def test_graphs_are_written_with_pictures_and_faults_told(tmp_path, capsys):
    write_pvsg(tmp_path, [pvsg_video("a", relations=[*RELATIONS, [1, 9, "holding", [[0, 3]]]]), pvsg_video("b")])
    out = tmp_path / "graphs.jsonl"
    count, faults = import_graphs("pvsg", tmp_path / "pvsg.json", out, tmp_path, progress=False)
    assert count == 2
    assert faults.to_text() == (
        "1 rows of pvsg.json were left out\npvsg.json, data[0].relations[7]: 9 is the id of no object"
    )
    record = next(iter(read_records(out)))
    # Adult, cup, table and ball are there from the start, with the child from frame 15 on, of which every second one is read.
    assert record.media.image == record.media.video and record.media.image_frame == 16
    assert record.objects[1].in_image == record.objects[1].in_video[8]
    with pytest.raises(FileExistsError, match="exists already"):
        import_graphs("pvsg", tmp_path / "pvsg.json", out, tmp_path, progress=False)


def test_nothing_is_written_where_nothing_can_be_read(tmp_path):
    file = write_pvsg(tmp_path / "data", [pvsg_video("a", meta={})])
    for change, message in (
        ({}, r"no scene graph could be read: 1 rows of pvsg\.json were left out"),
        ({"form": "vidvrd"}, "form='vidvrd': expected one of pvsg, action_genome, 3dssg"),
    ):
        with pytest.raises(ValueError, match=message):
            import_graphs(
                **{"form": "pvsg", "source": file, "out": tmp_path / "out.jsonl", "progress": False, **change}
            )
    with pytest.raises(FileNotFoundError, match=r"media=.*no such folder"):
        import_graphs("pvsg", file, tmp_path / "out.jsonl", tmp_path / "nowhere", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
