# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.

import pytest

from polyv.files import whole, write_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "table.md"
    with whole(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        partial.write_text("all of it")
    assert path.read_text() == "all of it"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.md"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_was_there_stays_where_writing_fails(tmp_path, error):
    path = tmp_path / "table.md"
    write_whole(path, "before\n")
    with pytest.raises(error), whole(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "before\n"
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_that_write_one_file_each_has_its_own(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    with whole(path) as mine:
        monkeypatch.setattr("os.getpid", lambda: 1)
        write_whole(path, "theirs\n")
        mine.write_text("mine\n")
    assert path.read_text() == "mine\n"


def test_text_is_utf_8_whatever_the_locale(tmp_path):
    write_whole(tmp_path / "text", "Δ\n")
    assert (tmp_path / "text").read_bytes() == "Δ\n".encode()
