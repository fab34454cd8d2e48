# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json

import pytest
import torch
from datasets import Dataset, Image, List, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.collator import IGNORED, ConversationCollator, EvenBatches, MediaArguments
from polyv.recipes.data import read_rows, read_source
from polyv.recipes.rows import RowError, read_messages
from tests.recipes.conftest import turn


KEYS = (
    "input_ids", "attention_mask", "mm_token_type_ids", "labels", "pixel_values", "image_grid_thw",
    "pixel_values_videos", "video_grid_thw", "second_per_grid_ts", "image_coords",
)  # fmt: skip


@pytest.fixture
def collator(processor) -> ConversationCollator:
    return ConversationCollator(processor, KEYS)


@pytest.fixture
def rows(data) -> list[dict]:
    return list(read_rows(data / "rows.jsonl"))


def targets(collator, batch) -> list[list[str]]:
    """What is learned of each row: its answers, as text."""
    found = []
    for labels in batch["labels"]:
        answers: list[list[int]] = [[]]
        for label in labels[labels != IGNORED].tolist():
            answers[-1].append(label)
            if label == collator.closing:
                answers.append([])
        assert answers.pop() == []  # the last one was closed
        found.append(collator.processor.tokenizer.batch_decode(answers))
    return found


@pytest.mark.parametrize("add_synergy", [True, False])
def test_learns_every_answer_and_nothing_else(start, rows, add_synergy):
    collator = ConversationCollator(PolyVProcessor.from_pretrained(start, add_synergy=add_synergy), KEYS)
    batch = collator(rows)
    assert targets(collator, batch) == [
        ["The ball is red.<|im_end|>", "two<|im_end|>"],
        ["two<|im_end|>"],
        ["The ball<|im_end|>"],
        ["two<|im_end|>"],
        ["two is red<|im_end|>"],
    ]
    learned = batch["labels"] != IGNORED
    assert (batch["labels"][learned] == batch["input_ids"][learned]).all()
    assert (batch["input_ids"] == collator.processor.synergy_token_id).sum() == (6 if add_synergy else 0)
    assert not (learned & (batch["mm_token_type_ids"] > 0)).any()
    assert not (learned & (batch["attention_mask"] == 0)).any()


@given(st.lists(st.text("a b\n.<|>é").filter(str.strip), min_size=1, max_size=3), st.booleans())
def test_learns_answers_of_any_text(session_processor, answers, add_synergy):
    collator = ConversationCollator(session_processor, KEYS)
    session_processor.add_synergy = add_synergy
    messages = [message for answer in answers for message in (turn("user", "assistant\n"), turn("assistant", answer))]
    (found,) = targets(collator, collator([{"messages": json.dumps(messages)}]))
    # Line breaks that open an answer may have merged with the header's own.
    assert [text.removesuffix("<|im_end|>").lstrip("\n") for text in found] == [a.lstrip("\n") for a in answers]


@pytest.fixture(scope="module")
def session_processor(start) -> PolyVProcessor:
    return PolyVProcessor.from_pretrained(start)


def test_one_batch_holds_images_videos_scenes_and_text(collator, rows):
    batch = collator(rows)
    assert set(batch) == set(KEYS)
    assert len(batch["image_grid_thw"]) == 1 + 2 + 2  # an image, a scene of two views, two images
    assert len(batch["video_grid_thw"]) == 1
    tokens = batch["image_grid_thw"].prod(-1) // 4
    assert len(batch["image_coords"]) == tokens.sum() == (batch["mm_token_type_ids"] == 1).sum()
    is_view = torch.repeat_interleave(torch.tensor([False, True, True, False, False]), tokens)
    assert (batch["image_coords"].isfinite().all(-1) == is_view).all()
    assert batch["input_ids"].shape == batch["labels"].shape == batch["mm_token_type_ids"].shape
    assert (batch["attention_mask"][:, 0] == 1).all()  # padded on the right


def test_a_batch_is_its_rows(collator, rows):
    batch = collator(rows)
    for index, row in enumerate(rows):
        one = collator([row])
        length = one["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][index, :length], one["input_ids"][0])
        assert torch.equal(batch["labels"][index, :length], one["labels"][0])
        assert (batch["labels"][index, length:] == IGNORED).all()


def test_a_dense_model_gets_the_same_tokens_without_coordinates(start, rows):
    plain = PolyVProcessor.from_pretrained(start, add_synergy=False)
    without = ConversationCollator(plain, [key for key in KEYS if key != "image_coords"])(rows)
    full = ConversationCollator(plain, KEYS)(rows)
    assert set(full) - set(without) == {"image_coords"}
    assert all(torch.equal(full[key], value) for key, value in without.items())


def test_names_the_row_whose_medium_cannot_be_read(collator, rows, data, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    messages = read_messages(rows[0])
    messages[0]["content"][0]["image"] = str(broken)
    bad = {**rows[0], "messages": json.dumps(messages), "source": "mine.jsonl, row 7"}
    with pytest.raises(RowError, match=r"mine\.jsonl, row 7: .*broken\.png"):
        collator([rows[1], bad, rows[2]])


def test_lengths_foresee_how_many_tokens_rows_take(collator, data):
    dataset = read_rows(data / "rows.jsonl")
    actual = [collator([row])["input_ids"].shape[1] for row in dataset]
    assert collator.lengths(dataset) == pytest.approx(actual, abs=3)
    assert collator.lengths(concatenate_datasets([dataset, dataset])) == 2 * collator.lengths(dataset)


def test_media_are_bounded_and_stay_so(data, processor, tmp_path):
    limits = MediaArguments(
        image_max_pixels=28 * 28,
        video_max_pixels=28 * 28,
        video_max_frames=2,
        video_fps=1.0,
        scene_max_pixels=28 * 28,
        scene_max_views=1,
    )
    rows = read_rows(data / "rows.jsonl").select(range(3))
    free = {
        key: value.tolist() for key, value in ConversationCollator(processor, ()).encode(rows).items() if "grid" in key
    }
    limits.bound(processor)
    processor.save_pretrained(tmp_path)
    bound = ConversationCollator(PolyVProcessor.from_pretrained(tmp_path), ()).encode(rows)
    assert len(bound["image_grid_thw"]) == 2 < len(free["image_grid_thw"])  # an image, and one view of two
    assert bound["video_grid_thw"][0, 0] == 1 < free["video_grid_thw"][0][0]
    for part, kind in ((processor.image_processor, "image"), (processor.video_processor, "video")):
        pixels = bound[f"{kind}_grid_thw"][:, 1:].prod(-1) * part.patch_size**2
        assert (pixels <= 28 * 28).all() and all(
            h * w * part.patch_size**2 > 28 * 28 for _, h, w in free[f"{kind}_grid_thw"]
        )


@pytest.mark.parametrize("limit", [{"image_max_pixels": 27}, {"video_fps": 0}, {"scene_max_views": 0}])
def test_refuses_bounds_that_leave_nothing(limit):
    with pytest.raises(ValueError, match=f"{next(iter(limit))}=.* expected"):
        MediaArguments(**limit)


def test_lengths_read_the_pictures_of_one_row_of_a_kind(collator, data, tmp_path):
    """All of a dataset's would take as long as a part of the training."""
    good = {"bytes": (data / "a.png").read_bytes(), "path": None}
    ask = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "two"}]
    rows = [{"messages": ask, "images": [good]}, {"messages": ask[:1] * 2 + ask[1:], "images": [good]}]
    rows += [
        {"messages": [ask[0], {"role": "assistant", "content": "many"}], "images": [{"bytes": b"", "path": None}]}
    ]
    Dataset.from_list(rows).cast_column("images", List(Image())).save_to_disk(str(tmp_path / "mine"))
    dataset = read_source(str(tmp_path / "mine"))
    assert len(collator.lengths(dataset)) == 3
    with pytest.raises(RowError, match="mine, row 3: an image given as bytes: not a picture that PIL can read"):
        collator([dataset[2]])


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=400), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3)
)
def test_even_batches_see_every_row_once_an_epoch(lengths, batch_size, seed, epoch):
    sampler = EvenBatches(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    torch.rand(1)  # the global generator has no say
    assert list(sampler) == order


def test_even_batches_waste_little_and_differ_by_epoch():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(50, 300, (1000,), generator=generator)

    def padded(order: list[int]) -> float:
        return sum(len(batch) * lengths[batch].max().item() for batch in torch.tensor(order).split(8))

    sampler = EvenBatches(lengths.tolist(), 8, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert padded(first) < 1.05 * lengths.sum()
    assert padded(list(range(1000))) > 1.3 * lengths.sum()
    # Batches are shuffled: four in a row are not all long, or all short.
    of_four = lengths[torch.tensor(first)][:960].view(-1, 32).float().mean(1)
    assert of_four.std() < 0.75 * lengths[torch.tensor(first)][:960].view(-1, 8).float().mean(1).std()
