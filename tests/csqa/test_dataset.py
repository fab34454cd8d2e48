# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import hashlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from polyv import PosedViews, cli
from polyv.csqa import dataset, executor, selection, sight
from polyv.csqa.card import content_version
from polyv.csqa.dataset import build
from polyv.csqa.records import read_records, write_records
from polyv.csqa.selection import select, text_priors, thin
from polyv.csqa.templates import FAMILIES
from polyv.csqa.verify import verify
from polyv.recipes.rows import read_messages


QUESTIONS, SEED, SIZE = 240, 5, 48


@pytest.fixture(scope="module")
def csqa(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("csqa-dataset") / "csqa"
    return build(folder, QUESTIONS, SEED, size=SIZE, workers=1, progress=False)


@pytest.fixture
def copy(csqa, tmp_path) -> Path:
    return Path(shutil.copytree(csqa, tmp_path / "copy"))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_loads_with_datasets_and_its_media_are_read(csqa, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    rows = {split: load_dataset(str(csqa), split=split, cache_dir=str(tmp_path)) for split in dataset.SPLITS}
    assert {split: len(of_split) for split, of_split in rows.items()} == {"train": 192, "validation": 24, "test": 24}
    scenes = [set(of_split["scene_id"]) for of_split in rows.values()]
    assert not (scenes[0] & scenes[1] or scenes[0] & scenes[2] or scenes[1] & scenes[2])
    assert len(set(rows["train"]["id"])) == 192
    seen = Counter()
    for row in rows["train"]:
        question, answer = read_messages(row)
        *media, text = question["content"]
        assert [entry["type"] for entry in media] == row["shown"] and text["text"] == row["question"]
        assert answer["content"] == [{"type": "text", "text": row["answer"]}]
        for entry in media:
            seen[entry["type"]] += 1
            if entry["type"] == "scene":
                assert isinstance(entry["scene"], PosedViews) and entry["scene"].images.shape == (6, SIZE, SIZE, 3)
            elif entry["type"] == "image":
                assert entry["image"].size == (SIZE, SIZE)
    assert set(seen) == {"image", "video", "scene"}
    first = next(iter(load_dataset(str(csqa), split="test", streaming=True, cache_dir=str(tmp_path))))
    assert first["question"] and first["answer"]


def test_datasets_of_one_name_are_told_apart(csqa, copy, tmp_path):
    """`datasets` names its cache by the folder's name alone: without a version of its own, this would give the first one again."""
    other = tmp_path / "csqa"
    copy.rename(other)
    for file in other.glob("data/*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 5), file)
    card = other / "README.md"
    card.write_text(card.read_text().replace(content_version(csqa), content_version(other)))
    for folder, count in ((csqa, 24), (other, 5)):
        assert len(load_dataset(str(folder), split="test", cache_dir=str(tmp_path / "cache"))) == count


def test_a_scene_comes_out_of_the_dataset_as_it_went_in(csqa, tmp_path):
    row = next(row for row in pq.read_table(next(csqa.glob("data/test-*"))).to_pylist() if row["scenes"])
    (entry,) = (entry for entry in read_messages(row)[0]["content"] if entry["type"] == "scene")
    record = next(r for r in read_records(csqa / "graphs" / "test.jsonl") if r.scene_id == row["scene_id"])
    views = entry["scene"]
    np.testing.assert_allclose(views.poses, [camera.pose for camera in record.view_cameras], atol=1e-9)
    np.testing.assert_allclose(views.intrinsics[0], record.view_cameras[0].intrinsics)
    views.save(tmp_path / "scene")
    again = PosedViews.load(tmp_path / "scene")
    np.testing.assert_array_equal(again.images, views.images)
    np.testing.assert_allclose(again.depths, views.depths, atol=1e-6)


def test_it_trains_two_steps(csqa, untrained, tmp_path):
    arguments = [
        "--model_name_or_path",
        str(untrained.polyv),
        "--dataset",
        str(csqa),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    arguments += ["--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "true", "--report_to", "none"]
    assert cli.main(["train", "pretrain", *arguments, "--bf16", "false", "--save_strategy", "no"]) == 0
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_all_answers_are_derived_again(csqa, capsys):
    assert cli.main(["csqa", "verify", str(csqa)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["template", "rows", "wrong"] and table[-1].split() == ["all", str(QUESTIONS), "0"]


def spoil(folder: Path, change) -> str:
    """Change the first row for which `change` returns something; returns its id."""
    for file in sorted(folder.glob("data/train-*")):
        table = pq.read_table(file)
        rows = table.to_pylist()
        for row in rows:
            if change(row):
                pq.write_table(type(table).from_pylist(rows, schema=table.schema), file)
                return row["id"]
    raise AssertionError("no row could be changed")


def other_answer(row: dict) -> bool:
    row["answer"] = row["distractors"][0]
    row["messages"][1]["content"][0]["text"] = row["answer"]
    return True


def other_support(row: dict) -> bool:
    support = json.loads(row["support"])
    if not support["objects"]:
        return False
    support["objects"] = support["objects"][:-1]
    row["support"] = json.dumps(support)
    return True


def other_program(row: dict) -> bool:
    swapped = row["program"].replace('"most"', '"least"')
    changed = swapped != row["program"]
    row["program"] = swapped
    return changed


def other_message(row: dict) -> bool:
    row["messages"][1]["content"][0]["text"] = "purple"
    return True


def other_wording(row: dict) -> bool:
    row["plain"] = row["question"] = row["messages"][0]["content"][-1]["text"] = "What is this?"
    return True


def other_question(row: dict) -> bool:
    """Words of nobody's."""
    row["question"] = row["messages"][0]["content"][-1]["text"] = "What is this?"
    return True


def other_object(row: dict) -> bool:
    """Another object of the scene in place of the one that the program is about."""
    if row["template"] != "still_in_view":
        return False
    (name,) = re.findall(r"the (\w+ (?:ball|box|cone|cylinder))", row["question"])
    asked = row["question"].replace(name, "pink giraffe")
    row["plain"] = row["question"] = row["messages"][0]["content"][-1]["text"] = asked
    return True


def no_program(row: dict) -> bool:
    row["program"] = '{"answer": {"op": "guess"}}'
    return True


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (other_answer, r"the answer is '.+', the program gives '.+'"),
        (other_support, "support is .*, the program gives"),
        (other_program, "the answer is '.+', the program gives '.+'"),
        (other_message, "messages do not give the row's answer"),
        (other_wording, "the question 'What is this.' is no wording of its template"),
        (other_question, "the question is 'What is this.', its template's words are"),
        (other_object, "the question names 'pink giraffe', which the scene does not hold"),
        (no_program, "program: answer: .*'guess'"),
    ],
)
def test_a_row_that_is_wrong_is_named(copy, change, cause, capsys):
    row = spoil(copy, change)
    with pytest.raises(SystemExit) as ended:
        cli.main(["csqa", "verify", str(copy)])
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"{row}: ")
    assert re.search(cause, lines[-1]), lines[-1]


def test_graphs_that_are_gone_or_of_other_scenes_are_told(copy):
    graphs = copy / "graphs" / "test.jsonl"
    write_records(graphs, list(read_records(graphs))[:1])
    with pytest.raises(FileNotFoundError, match=r"test\.jsonl: no graph of scene test-\d+, of which"):
        verify(copy, progress=False)
    shutil.rmtree(copy / "data")
    with pytest.raises(FileNotFoundError, match=r"no data/\*\.parquet there"):
        verify(copy, progress=False)


def test_the_same_request_gives_the_same_bytes_however_often_it_is_killed(csqa, tmp_path, monkeypatch):
    out = tmp_path / "csqa"
    arguments = {"out": out, "questions": QUESTIONS, "seed": SEED, "size": SIZE, "workers": 1, "progress": False}

    def killed(*_, **__):
        raise KeyboardInterrupt

    # While rendering a later split, between two files, before the card, before the move.
    for owner, step in (
        (dataset, "_write_shards"),
        (dataset, "text_priors"),
        (dataset, "write_card"),
        (dataset.shutil, "rmtree"),
    ):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, step, killed)
            build(**arguments)
        assert not out.exists()
    assert digests(build(**arguments)) == digests(csqa)
    assert [path.name for path in tmp_path.iterdir()] == ["csqa"]


def test_another_request_begins_anew(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, "write_card", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        build(tmp_path / "csqa", 20, 1, size=32, workers=1, progress=False)
    built = build(tmp_path / "csqa", 20, 2, size=32, workers=1, progress=False)
    assert all(
        json.loads(r.model_dump_json())["provenance"]["seed"] == 2
        for r in read_records(built / "graphs" / "test.jsonl")
    )


def test_graphs_of_your_own_become_a_dataset(world, records, tmp_path):
    """Records in a file, media beside it; splits are those of the records."""
    splits = ("train", "validation", "test")
    own = [
        record.model_copy(update={"split": splits[i % 3], "source": "mine"}) for i, record in enumerate(records[:30])
    ]
    write_records(world / "graphs.jsonl", own)
    out = tmp_path / "mine"
    command = [
        "csqa",
        "build",
        "--source",
        str(world / "graphs.jsonl"),
        "--questions",
        "100",
        "--seed",
        "1",
        "--out",
        str(out),
    ]
    assert cli.main(command) == 0
    report = verify(out, progress=False)
    assert report.checked.total() == 100 and not report.mismatches
    assert str(tmp_path) not in (out / "graphs" / "train.jsonl").read_text()
    assert cli.main([*command[:-1], str(out)]) == 2


def test_bad_arguments_are_named(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for more, message in [
        (["--questions", "100", "--out", str(tmp_path / "there")], "it exists already"),
        (["--questions", "5", "--out", str(tmp_path / "out")], "questions: got 5, expected 10 or more."),
        (["--questions", "100", "--source", str(tmp_path / "no.jsonl"), "--out", str(tmp_path / "out")], "no.jsonl"),
    ]:
        assert cli.main(["csqa", "build", *more]) == 2
        assert message in capsys.readouterr().err


def test_thinning_keeps_templates_level(records):
    rows = select(records, 0)
    kept = thin(rows, 600)
    assert len(kept) == 600 and [row["id"] for row in rows if row in kept] == [row["id"] for row in kept]
    before, after = (Counter(row["template"] for row in some) for some in (rows, kept))
    most = max(after.values())
    assert all(after[name] == min(count, most) or after[name] == most - 1 for name, count in before.items())


def test_the_words_of_a_question_tell_little_of_its_answer(records):
    priors = text_priors(select(records[:60], 0), select(records[60:], 1))
    assert len(priors) > 25
    two = ["side_from", "ahead_from", "beside_in_view", "same_order", "in_front"]
    assert all(priors[name] < 0.75 for name in two), priors


def test_a_subtly_wrong_executor_does_not_agree(csqa, monkeypatch):
    """Left and right mirrored, as seen from an object: rows made by the right one show it."""
    mirrored = {"left": "right", "right": "left", None: None}
    side_of = sight.side_of
    monkeypatch.setattr(executor.sight, "side_of", lambda angle: mirrored[side_of(angle)])
    report = verify(csqa, progress=False)
    assert {mismatch.template for mismatch in report.mismatches} == {"side_from", "side_from_picture"}


def test_pages_show_samples_of_every_family(csqa, tmp_path, capsys):
    assert (
        cli.main(["csqa", "show", str(csqa), "--samples", "2", "--split", "train", "--out", str(tmp_path / "pages")])
        == 0
    )
    pages = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [page.stem for page in pages] == list(FAMILIES)
    for page in pages:
        pixels = np.asarray(Image.open(page).convert("RGB"))
        assert pixels.std() > 20 and pixels.shape[1] > 1000
    assert cli.main(["csqa", "show", str(tmp_path), "--out", str(tmp_path / "none")]) == 2
    assert cli.main(["csqa", "show", str(csqa), "--samples", "0", "--out", str(tmp_path / "none")]) == 2


def test_a_file_that_is_missing_is_told(copy):
    file = next(copy.glob("data/train-*"))
    file.rename(file.with_name("train-00000-of-00002.parquet"))
    with pytest.raises(FileNotFoundError, match="1 files of train, but their names tell of 00002"):
        verify(copy, progress=False)


def test_own_graphs_are_shared_out_over_the_splits_they_have(world, records, tmp_path):
    """Without a training split, and with scenes of any number in each."""
    splits = ["validation"] * 7 + ["test"] * 3
    own = [record.model_copy(update={"split": split}) for record, split in zip(records, splits, strict=False)]
    write_records(world / "some.jsonl", own)
    out = build(tmp_path / "some", 15, 0, [world / "some.jsonl"], progress=False)
    counts = {
        split: sum(pq.read_table(file).num_rows for file in out.glob(f"data/{split}-*")) for split in dataset.SPLITS
    }
    assert counts == {"train": 0, "validation": 11, "test": 4} or counts == {"train": 0, "validation": 10, "test": 5}
    assert not verify(out, progress=False).mismatches


def test_templates_whose_words_tell_the_answer_are_left_out(world, records, tmp_path, monkeypatch):
    """Here with a cap so low that some are, and with few rows to judge by."""
    splits = ["train"] * 50 + ["test"] * 30
    own = [record.model_copy(update={"split": split}) for record, split in zip(records, splits, strict=True)]
    write_records(world / "all.jsonl", own)
    monkeypatch.setattr(selection, "ENOUGH", 10)
    monkeypatch.setattr(dataset, "CAP", 0.5)
    out = build(tmp_path / "out", 300, 0, [world / "all.jsonl"], progress=False)
    statistics = json.loads((out / "statistics.json").read_text())
    left_out, templates = statistics["left_out"], statistics["templates"]
    assert left_out and all(prior > 0.5 for prior in left_out.values()) and not left_out.keys() & templates.keys()
    judged = [each["text_prior_in_training"] for each in templates.values()]
    assert all(prior is None or prior <= 0.5 for prior in judged) and any(prior is not None for prior in judged)
    card = (out / "README.md").read_text()
    assert all(f"`{name}` ({prior:.2f})" in card for name, prior in left_out.items())


def test_what_words_tell_is_measured_on_other_scenes_than_it_is_fitted_to():
    """The answer follows from a word, or from nothing but the scene itself."""

    def row(scene: int, template: str, name: str, answer: str) -> dict:
        question = f"Does the {name} move?"
        return {
            "id": f"{template}-{scene}",
            "scene_id": f"{scene}",
            "template": template,
            "question": question,
            "answer": answer,
        }

    rng = np.random.default_rng(0)
    told = [row(i, "told", f"{('red', 'blue')[i // 2 % 2]} ball", ("yes", "no")[i // 2 % 2]) for i in range(200)]
    untold = [row(i, "untold", f"thing{'xyz'[i % 3]}", ("yes", "no")[rng.integers(2)]) for i in range(200)]
    few = [row(i, "few", "red ball", "yes") for i in range(50)]
    priors = selection.crossed_priors(told + untold + few)
    assert priors.keys() == {"told", "untold"}
    assert priors["told"] == 1.0 and 0.35 < priors["untold"] < 0.65
    assert selection.crossed_priors(told[:1]) == {}


def test_bad_sources_are_named(world, records, tmp_path):
    write_records(world / "one.jsonl", records[:2])
    write_records(world / "none.jsonl", [])
    one = world / "one.jsonl"
    for source, error, message in [
        ([one, one], ValueError, r"source=.*one\.jsonl: scene validation-000000 stands in .*one\.jsonl already"),
        ([world / "none.jsonl"], ValueError, r"source=.*none\.jsonl: no scene graph there"),
        ([world], FileNotFoundError, r"source=.*: no such file"),
        ([one], ValueError, r"questions=5000: the validation scenes give (\d+), of all of them \1\. Take more scenes"),
    ]:
        with pytest.raises(error, match=message):
            build(tmp_path / "out", 5000, 0, source, progress=False)
    with pytest.raises(ValueError, match="seed: got -1"):
        build(tmp_path / "out", 50, -1, [one], progress=False)
    assert not (tmp_path / "out").exists()
