# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.collator import IGNORED
from polyv.recipes.vision import CLASSES, PictureCollator, Pictures, Seen, label_tokens, main
from polyv.world.make import load_records, make_world


BALL, CONE = CLASSES["shape"].index("ball"), CLASSES["shape"].index("cone")


def an_object(x0, y0, x1, y1, shape=BALL, clear=True) -> Seen:
    return Seen((x0, y0, x1, y1), shape, colour=3, size=1, clear=clear)


@st.composite
def boxes(draw):
    (x0, x1), (y0, y1) = (
        sorted(draw(st.lists(st.integers(0, 112), min_size=2, max_size=2, unique=True))) for _ in range(2)
    )
    return x0 / 112, y0 / 112, x1 / 112, y1 / 112


def test_tokens_of_an_object_say_what_it_is_and_the_others_nothing():
    labels = label_tokens([an_object(0.25, 0.25, 0.75, 0.5)], 4, 4)
    shape = labels["shape"].view(4, 4)
    assert shape[1, 1] == shape[1, 2] == BALL and shape.count_nonzero() == 2
    assert labels["colour"].view(4, 4)[1, 1:3].tolist() == [3, 3]
    assert (labels["colour"] != IGNORED).sum() == (labels["size"] != IGNORED).sum() == 2
    assert labels["centre"].view(4, 4)[1, 2] == 1 and labels["centre"].sum() == 1
    assert labels["box"].view(4, 4, 4)[1, 1].tolist() == [0.5, 0.5, 1.5, 0.5]
    assert labels["box"].isnan().any(-1).sum() == 14


def test_the_smaller_of_two_objects_keeps_its_tokens():
    large, small = an_object(0, 0, 1, 1), an_object(0.5, 0.5, 0.75, 0.75, CONE)
    for seen in ([large, small], [small, large]):
        shape = label_tokens(seen, 4, 4)["shape"].view(4, 4)
        assert shape[2, 2] == CONE and (shape == BALL).sum() == 15


def test_nothing_is_asked_of_an_object_half_hidden():
    labels = label_tokens([an_object(0, 0, 0.5, 0.5, clear=False)], 4, 4)
    assert all((labels[name].view(4, 4)[:2, :2] == IGNORED).all() for name in ("shape", "colour", "size"))
    assert (labels["shape"].view(4, 4)[2:] == 0).all() and labels["centre"].view(4, 4)[1, 1] == IGNORED


@given(box=boxes(), side=st.integers(1, 8))
def test_every_object_has_a_token_and_its_box_can_be_read_from_any_of_them(box, side):
    labels = label_tokens([Seen(box, BALL, 0, 0, True)], side, side)
    assert labels["centre"].sum() == 1 and labels["shape"].any()
    for index in labels["shape"].nonzero().flatten().tolist():
        x, y = index % side + 0.5, index // side + 0.5
        left, top, right, bottom = labels["box"][index].tolist()
        read = ((x - left) / side, (y - top) / side, (x + right) / side, (y + bottom) / side)
        assert all(math.isclose(one, other, abs_tol=1e-5) for one, other in zip(read, box, strict=True))


def test_a_mirrored_picture_has_mirrored_labels(small_world, start):
    pictures = Pictures(small_world, load_records(small_world))
    assert len(pictures) == 2 * 8
    images = AutoProcessor.from_pretrained(start).image_processor
    plain = PictureCollator(images, [112], augment=False)([pictures[0]])
    assert plain["shape"].shape == (49,) and plain["shape"].any()
    collate = PictureCollator(images, [112])
    batches = [collate([{**pictures[0], "index": index}]) for index in range(8)]  # mirrored for half of the draws
    batch = next(batch for batch in batches if not torch.equal(batch["pixel_values"], plain["pixel_values"]))
    assert torch.equal(batch["shape"].view(7, 7).flip(1), plain["shape"].view(7, 7))
    assert torch.equal(
        batch["box"].view(7, 7, 4).flip(1)[..., [2, 1, 0, 3]].nan_to_num(), plain["box"].view(7, 7, 4).nan_to_num()
    )


@pytest.fixture(scope="module")
def train_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision") / "train"
    return make_world(folder, scenes=2, seed=3, size=112, split="train", workers=1, progress=False)


def arguments(world, start, out, **more):
    options = {"world": world, "config_name": start, "output_dir": out, "held_out": 1, "max_steps": 2, "use_cpu": True}
    options |= {"per_device_train_batch_size": 4, "report_to": "none", "save_steps": 1, "disable_tqdm": True, **more}
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def test_the_trained_tower_stands_in_a_plain_qwen_checkpoint(train_world, start, tmp_path):
    main(arguments(train_world, start, tmp_path / "one"))
    model, loading = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "one", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert PolyVProcessor.from_pretrained(tmp_path / "one", add_synergy=False).scenes_kwargs["num_views"] == 6
    measured = json.loads((tmp_path / "one" / "eval_results.json").read_text())
    assert all(0 <= measured[f"eval_{name}"] <= 1 for name in CLASSES)

    # A run that was cut after its first step ends as one that was not; a finished one takes no further step.
    (tmp_path / "one" / "checkpoint-2").rename(tmp_path / "second")
    main(arguments(train_world, start, tmp_path / "one"))
    main(arguments(train_world, start, tmp_path / "one"))
    assert not (tmp_path / "one" / "checkpoint-3").exists()
    resumed = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "one")
    for (name, one), (_, two) in zip(model.named_parameters(), resumed.named_parameters(), strict=True):
        if "visual" in name:
            torch.testing.assert_close(one, two, msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": -1}, "max_steps: got -1"),
        ({"held_out": 2}, "held_out: got 2 of the 2 scenes"),
        ({"config_name": "no/such/folder"}, "config_name=no/such/folder"),
    ],
)
def test_bad_arguments_are_named(train_world, start, tmp_path, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        main(arguments(train_world, start, tmp_path, **change))


def test_the_test_split_is_not_trained_on(small_world, start, tmp_path):
    with pytest.raises(ValueError, match="of the test split"):
        main(arguments(small_world, start, tmp_path))
