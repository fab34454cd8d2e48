# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes import check as check_module
from polyv.recipes import data as data_module
from polyv.recipes import histogram
from polyv.recipes.check import Place, Report, Row, Unfit, check, combination, run
from polyv.recipes.collator import ConversationCollator
from polyv.recipes.data import read_mixture, read_rows
from polyv.recipes.rows import RowError
from tests.recipes.conftest import turn


NANO = Path(__file__).parents[2] / "checkpoints" / "polyv-nano"
GOOD = [turn("user", "How many?"), turn("assistant", "two")]


def write(file: Path, rows: list) -> str:
    """Conversations, or whatever else is to be a line, as a JSONL file."""
    lines = [row if isinstance(row, str) else json.dumps({"messages": row}) for row in rows]
    file.write_text("".join(f"{line}\n" for line in lines))
    return str(file)


@pytest.fixture
def spoilt(data, tmp_path) -> tuple[str, dict[int, str]]:
    """A file with rows that are unfit in each way, good ones between them; the causes by number of row."""
    for name in ("a.png", "clip.mp4"):
        content = (data / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"cut-{name}").write_bytes(content[: len(content) // 2])
    (tmp_path / "words.png").write_text("no picture")
    shutil.copytree(data / "scene", tmp_path / "scene")
    shutil.rmtree(tmp_path / "scene" / "pose")

    def shows(**media: str) -> list[dict]:
        return [turn("user", "How many?", **media), turn("assistant", "two")]

    unfit = [
        ('{"messages": [', "it is not JSON: Expecting value, at character"),
        (shows(image="none.png"), "none.png: no such file"),
        (shows(image="cut-a.png"), "cut-a.png: the picture is damaged or cut short"),
        (shows(image="words.png"), "words.png: not a picture"),
        (shows(video="cut-clip.mp4"), "cut-clip.mp4: "),
        (shows(scene="scene"), "pose: no such folder"),
        ([GOOD[0], turn("assistant", " ")], "not empty"),
        ([GOOD[0]], "no answer to learn"),
        ([turn("user", "<|image_pad|>"), GOOD[1]], "image"),
    ]
    rows = [row for number, (row, _) in enumerate(unfit) for row in ([GOOD[0], turn("assistant", f"{number}")], row)]
    causes = {2 * number: cause for number, (_, cause) in enumerate(unfit, start=1)}
    return write(tmp_path / "spoilt.jsonl", [*rows, shows(image="a.png")]), causes


@pytest.mark.parametrize("nano", [False, True])
def test_counts_agree_with_the_batches_that_training_gets(data, start, nano):
    """For PolyV, with the `<synergy>` that opens each answer; a dense model, like `start`, is trained without."""
    file, model = str(data / "rows.jsonl"), str(NANO if nano else start)
    report = check([file], model, workers=1)
    processor = PolyVProcessor.from_pretrained(model, add_synergy=nano)
    accepts = ("input_ids", "labels", "image_grid_thw", "video_grid_thw", "image_coords")
    collator = ConversationCollator(processor, accepts)
    batches = [collator([row]) for row in read_rows(file)]
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert report.lengths == {
        "image": [lengths[0], lengths[3]], "video": [lengths[1]], "scene": [lengths[2]], "text": [lengths[4]]
    }  # fmt: skip
    merged = processor.image_processor.merge_size**2
    grids = [int(sum(batch.get("image_grid_thw", np.zeros((0, 3))).prod(-1))) // merged for batch in batches]
    tokens = {
        "image": grids[0] + grids[3],
        "video": int(batches[1]["video_grid_thw"].prod()) // merged,
        "scene": len(batches[2]["image_coords"]),
    }
    assert report.tokens == {**tokens, "text": sum(lengths) - sum(tokens.values())}
    assert report.answer_tokens == sum(int((batch["labels"] != -100).sum()) for batch in batches)
    assert report.media == {"image": 3, "video": 1, "scene": 1}
    assert report.turns == 6
    assert report.rows == {file: 5}
    assert report.max_length == 4096
    assert not (report.unfit or report.too_long or report.identical)


def test_contents_alone_are_counted_as_the_longest_that_a_student_sees(data, tmp_path):
    content = {"image": "a.png", "video": "clip.mp4", "scene": "scene"}
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "contents.jsonl"
    file.write_text(json.dumps({"content": content, "prompts": ["How many?"]}) + "\n")
    report = check([str(file)], str(NANO), workers=1)
    assert not report.unfit and report.silent == 1
    assert report.turns == report.answer_tokens == 0
    assert "1 rows only name a content, for `polyv train distill`" in report.to_text()
    singles = [[turn("user", "How many?", **{kind: name}), turn("assistant", "")] for kind, name in content.items()]
    processor = PolyVProcessor.from_pretrained(NANO)
    rows = [[{**message, "content": _absolute(message["content"], tmp_path)} for message in row] for row in singles]
    lengths = [
        processor.apply_chat_template([row], tokenize=True, return_dict=True, return_tensors="pt")["input_ids"].shape[
            1
        ]
        for row in rows
    ]
    assert list(report.lengths.values()) == [[max(lengths)]]


def _absolute(entries: list[dict], folder: Path) -> list[dict]:
    return [{k: str(folder / v) if k == e["type"] != "text" else v for k, v in e.items()} for e in entries]


@pytest.mark.parametrize("messages", [[], GOOD])
def test_media_that_only_a_content_names_are_read(data, tmp_path, messages):
    """The teachers see them, or a student that one of them is drawn for."""
    (tmp_path / "cut.mp4").write_bytes((data / "clip.mp4").read_bytes()[:300])
    shutil.copy(data / "a.png", tmp_path)
    file = tmp_path / "contents.jsonl"
    row = {"content": {"image": ["a.png", "a.png"], "video": "cut.mp4"}, "messages": messages}
    file.write_text(json.dumps({"content": {"image": "a.png"}}) + "\n" + json.dumps(row) + "\n")
    report = check([str(file)], str(NANO), workers=1)
    assert [(unfit.row, "cut.mp4" in unfit.cause) for unfit in report.unfit] == [(2, True)]


def test_tokens_of_scenes_among_images_are_told_apart(data, start, tmp_path):
    """Both are image tokens, and a scene's views that measured no depth have no coordinates either."""
    alone = {}
    for kind, name in (("image", "a.png"), ("video", "clip.mp4"), ("scene", "scene")):
        file = write(tmp_path / f"{kind}.jsonl", [[turn("user", "?", **{kind: str(data / name)}), GOOD[1]]])
        alone[kind] = check([file], str(start), workers=1)
    several = [("image", "a.png"), ("scene", "scene"), ("image", "b.png"), ("video", "clip.mp4"), ("scene", "scene")]
    content = [{"type": kind, kind: str(data / name)} for kind, name in several]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": "?"}]}, GOOD[1]]
    report = check([write(tmp_path / "mixed.jsonl", [messages])], str(start), workers=1)
    assert list(report.lengths) == ["image + video + scene"]
    assert report.media == {"image": 2, "video": 1, "scene": 2}
    for kind, count in report.media.items():
        assert report.tokens[kind] == count * alone[kind].tokens[kind] > 0


def test_names_every_unfit_row_and_reads_on(spoilt, start):
    file, causes = spoilt
    report = check([file], str(start), workers=1)
    assert [(unfit.dataset, unfit.row) for unfit in report.unfit] == [(file, number) for number in causes]
    for unfit in report.unfit:
        assert causes[unfit.row] in unfit.cause
        assert "\n" not in unfit.cause
    assert report.rows == {file: 19}
    assert {name: len(lengths) for name, lengths in report.lengths.items()} == {"text": 9, "image": 1}
    assert report.summary() == "9 of 19 rows cannot be trained on"


def test_finds_the_same_with_any_number_of_workers(spoilt, data, start):
    datasets = [spoilt[0], str(data / "rows.jsonl")]
    alone = check(datasets, str(start), workers=1)
    assert check(datasets, str(start), workers=2) == alone
    assert [unfit.row for unfit in alone.unfit] == list(spoilt[1])


def test_writes_a_report_and_a_picture_before_it_refuses(spoilt, start, tmp_path, capsys):
    out = tmp_path / "reports" / "check.json"
    with pytest.raises(ValueError, match=r"^dataset: 9 of 19 rows cannot be trained on\. .*check\.json names each"):
        run([spoilt[0]], str(start), out, workers=1)
    assert {path.name for path in out.parent.iterdir()} == {"check.json", "check.png"}
    assert Picture.open(out.with_suffix(".png")).size[0] > 500
    content = json.loads(out.read_text())
    assert content["datasets"] == [spoilt[0]]
    assert [unfit["row"] for unfit in content["unfit"]] == list(spoilt[1])
    lengths = content["lengths"]["text"]
    assert lengths["rows"] == 9 and 0 < lengths["median"] <= lengths["p95"] <= lengths["longest"]
    printed = capsys.readouterr().out
    for unfit in content["unfit"]:
        assert f"{spoilt[0]}, row {unfit['row']}: {unfit['cause']}" in printed


def test_what_is_odd_but_fit_is_remarked_on(data, start, tmp_path, capsys):
    shows = [turn("user", "How many?", image="a.png"), GOOD[1]]
    (tmp_path / "a.png").write_bytes((data / "a.png").read_bytes())
    (tmp_path / "copy.png").write_bytes((data / "a.png").read_bytes())
    copy = [turn("user", "How many?", image="copy.png"), GOOD[1]]
    first = write(tmp_path / "first.jsonl", [GOOD, shows, GOOD, [turn("user", "How many?", image="a.png"), *GOOD[1:]]])
    second = write(tmp_path / "second.jsonl", [copy, [turn("user", "How many?"), turn("assistant", "red")]])
    report = run([first, second], str(start), tmp_path / "check.json", workers=1, max_length=50)
    assert report.identical == [
        (Place(first, 3), Place(first, 1)),
        (Place(first, 4), Place(first, 2)),
        (Place(second, 1), Place(first, 2)),
    ]
    assert [place for place, _ in report.too_long] == [Place(first, 2), Place(first, 4), Place(second, 1)]
    assert {tokens for _, tokens in report.too_long} == set(report.lengths["image"])
    assert "3 rows are longer than 50 tokens" in capsys.readouterr().out
    assert len(check([first, second], str(start), limit=1, workers=1).lengths) == 2


def test_reads_datasets_that_hold_their_media(data, start, tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asks = [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "How many?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
    ]
    good, broken = ({"bytes": content, "path": None} for content in ((data / "a.png").read_bytes(), b"no picture"))
    rows = [
        {"messages": asks, "images": [good]},
        {"messages": asks, "images": [broken]},
        {"messages": asks, "images": []},
        {"messages": asks[:1], "images": [good]},
    ]
    entry = {"type": Value("string"), "text": Value("string")}
    features = Features({"messages": List({"role": Value("string"), "content": List(entry)}), "images": List(Image())})
    folder = tmp_path / "mine"
    folder.mkdir()
    Dataset.from_list(rows, features=features).to_parquet(str(folder / "train-00000.parquet"))
    report = check([str(folder)], str(start), workers=1)
    assert [unfit.row for unfit in report.unfit] == [2, 3, 4]
    assert "not a picture that PIL can read" in report.unfit[0].cause
    assert "show image 1, and its column images holds 0" in report.unfit[1].cause
    assert "no answer to learn" in report.unfit[2].cause
    assert report.rows == {str(folder): 4}
    assert check([str(folder)], str(start), limit=2, workers=1).rows == {str(folder): 2}
    both = check([str(folder), str(data / "rows.jsonl")], str(start), limit=1, workers=1)
    assert not both.unfit  # what the one has as columns and the other as text stands in one mixture
    odd = tmp_path / "odd"
    Dataset.from_list(rows[:1], features=features).save_to_disk(str(tmp_path / "good"))
    one = Features({**features, "images": Image()})
    Dataset.from_list([{"messages": asks, "images": good}], features=one).save_to_disk(str(odd))
    both = check([str(folder), str(odd)], str(start), limit=1, workers=1)
    assert "cannot be mixed" in both.unfit[0].cause
    with pytest.raises(RowError, match="cannot be mixed"):
        read_mixture([str(odd), str(tmp_path / "good")], [1, 1], 0)


def test_names_what_a_file_as_a_whole_lacks(start, tmp_path):
    empty = write(tmp_path / "empty.jsonl", [])
    rows = [json.dumps({"messages": GOOD, "id": name}) for name in ("a", [1])]
    report = check([empty, write(tmp_path / "rows.jsonl", rows)], str(start), workers=1)
    assert report.unfit == [Unfit(empty, None, "holds no row.")]
    assert report.summary() == "0 of 2 rows cannot be trained on, nor 1 dataset as a whole"
    assert len(report.lengths["text"]) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"datasets": []}, ValueError, "dataset: got none"),
        ({"datasets": ["none.jsonl"]}, FileNotFoundError, "dataset=none.jsonl: there is no such file"),
        ({"limit": 0}, ValueError, "limit=0: expected at least 1"),
        ({"workers": 0}, ValueError, "workers=0: expected at least 1"),
        ({"max_length": -1}, ValueError, "max_length=-1: expected at least 1"),
        ({"model": "no/such/model"}, FileNotFoundError, "model=no/such/model: there is no such folder"),
        ({"out": Path("report.png")}, ValueError, "out=report.png: expected a file that ends in .json"),
    ],
)
def test_refuses_wrong_arguments(data, start, tmp_path, arguments, error, message):
    given = {"datasets": [str(data / "rows.jsonl")], "model": str(start), "out": tmp_path / "check.json"}
    with pytest.raises(error, match=message):
        run(**{**given, **arguments})
    assert not list(tmp_path.iterdir())


def test_an_interrupted_check_leaves_nothing(data, start, tmp_path, monkeypatch):
    def interrupted(self, row):
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([str(data / "rows.jsonl")], str(start), tmp_path / "check.json", workers=1)
    assert not list(tmp_path.iterdir())


def test_a_killed_process_is_told(data, start, monkeypatch):
    monkeypatch.setattr(check_module._Reader, "count", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ValueError, match=r"workers=2: one was killed after 0 rows .* give fewer"):
        check([str(data / "rows.jsonl")], str(start), workers=2)


_KINDS = st.lists(st.sampled_from(("image", "video", "scene")), max_size=4)
_COUNTED = st.tuples(st.integers(1, 10**5), st.integers(0, 50), _KINDS, st.integers(0, 30))


@given(st.lists(st.one_of(_COUNTED, st.just(None)), max_size=40), st.integers(1, 10**5))
def test_reports_add_up(tmp_path_factory, rows, max_length):
    report = Report(max_length)
    for number, row in enumerate(rows, start=1):
        if row is None:
            report.add(Unfit("a", number, "broken"))
        else:
            text, answers, media, digest = row
            tokens = {"text": text, **{kind: 7 * media.count(kind) for kind in ("image", "video", "scene")}}
            report.add(Row(Place("a", number), tokens, answers, 1, tuple(media), bytes([digest])))
    fit = [row for row in rows if row is not None]
    assert report.rows.total() == len(rows)
    assert report.unfit_rows == len(rows) - len(fit)
    assert {name: len(lengths) for name, lengths in report.lengths.items()} == Counter(
        combination(media) for _, _, media, _ in fit
    )
    lengths = [length for lengths in report.lengths.values() for length in lengths]
    assert sum(lengths) == report.tokens.total() == sum(text + 7 * len(media) for text, _, media, _ in fit)
    assert len(report.too_long) == sum(length > max_length for length in lengths)
    assert len(report.identical) == len(fit) - len({digest for *_, digest in fit})
    assert json.loads(json.dumps(report.to_dict()))["tokens"]["answers"] == sum(answers for _, answers, _, _ in fit)
    assert report.to_text().count("broken") == report.unfit_rows


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50), st.booleans())
def test_every_row_is_in_a_bin_of_the_histogram(lengths, wide):
    edges = histogram._edges(min(lengths), max(lengths), wide)
    assert np.histogram(lengths, edges)[0].sum() == len(lengths)
    assert len(edges) <= 62 and all(edge % 1 == 0.5 for edge in edges)


@pytest.mark.parametrize("lengths", [{}, {"text": [40]}, {"image": [90, 95], "image + video": [4000]}])
def test_draws_what_there_is(tmp_path, lengths):
    histogram.draw(Report(4096, lengths=lengths), tmp_path / "check.png")
    assert [path.name for path in tmp_path.iterdir()] == ["check.png"]
    assert np.asarray(Picture.open(tmp_path / "check.png")).std() > 0
