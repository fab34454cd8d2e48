# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    EvalPrediction,
    Qwen2_5_VLForConditionalGeneration,
)

from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.collator import IGNORED
from polyv.recipes.vision import (
    CLASSES,
    PictureCollator,
    Pictures,
    Seen,
    TokenReader,
    accuracies,
    label_tokens,
    main,
    seen_in,
)
from polyv.world.make import load_records, make_world
from polyv.world.records import Appearance


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


def test_of_an_object_half_hidden_only_the_box_is_asked():
    labels = label_tokens([an_object(0, 0, 0.5, 0.5, clear=False)], 4, 4)
    assert all((labels[name].view(4, 4)[:2, :2] == IGNORED).all() for name in ("shape", "colour", "size"))
    assert (labels["shape"].view(4, 4)[2:] == 0).all() and labels["centre"].view(4, 4)[1, 1] == IGNORED
    assert not labels["box"].view(4, 4, 4)[:2, :2].isnan().any()


@given(box=boxes(), side=st.integers(1, 8))
def test_every_object_has_a_token_and_its_box_can_be_read_from_any_of_them(box, side):
    labels = label_tokens([Seen(box, BALL, 0, 0, True)], side, side)
    assert labels["centre"].sum() == 1 and labels["shape"].any()
    for index in labels["shape"].nonzero().flatten().tolist():
        x, y = index % side + 0.5, index // side + 0.5
        left, top, right, bottom = labels["box"][index].tolist()
        read = ((x - left) / side, (y - top) / side, (x + right) / side, (y + bottom) / side)
        assert all(math.isclose(one, other, abs_tol=1e-5) for one, other in zip(read, box, strict=True))


def test_pictures_are_paired_with_what_shows_in_them(small_world):
    record = load_records(small_world)[0]
    pictures = Pictures(small_world, [record])
    assert len(pictures) == 8
    looks = {0: "in_image", 1: "in_moved", 2: "in_views", 7: "in_views"}
    names = {0: "image.png", 1: "moved.png", 2: "0.png", 7: "5.png"}
    for index, name in names.items():
        path, seen = pictures.shots[index]
        found = [getattr(thing, looks[index]) for thing in record.objects]
        found = [look[index - 2] if isinstance(look, tuple) else look for look in found]
        assert path.name == name and path.is_file()
        boxes = [[edge * 112 for edge in one.box] for one in seen]
        assert boxes == [pytest.approx(look.box) for look in found if look.box is not None]


def test_furniture_is_asked_for_its_shape_alone(small_world):
    table = (
        load_records(small_world)[0]
        .objects[0]
        .model_copy(update={"category": "table", "attributes": {"colour": "brown"}})
    )
    (seen,) = seen_in([table], [Appearance(box=(0, 0, 56, 56), visible=0.9)], 112, 112)
    assert (seen.shape, seen.colour, seen.size) == (CLASSES["shape"].index("table"), IGNORED, IGNORED)


def test_accuracy_counts_what_is_asked():
    right = np.eye(8)[[[1, 1, 0, 0]]]  # predicts 1, 1, 0, 0
    labels = np.array([[1, 2, 0, IGNORED]])
    found = accuracies(EvalPrediction((right,) * 4, (labels,) * 4))
    assert found == {"shape": 0.5, "centre": 0.5, "colour": pytest.approx(2 / 3), "size": pytest.approx(2 / 3)}


def test_a_mirrored_picture_has_mirrored_labels(small_world, start):
    picture = Pictures(small_world, load_records(small_world))[0]
    images = AutoProcessor.from_pretrained(start).image_processor
    still, moving = PictureCollator(images, [112], augment=False), PictureCollator(images, [112])
    plain = still([picture])
    assert plain["shape"].shape == (1, 49) and plain["shape"].any()
    batches = [moving([{**picture, "index": index}]) for index in range(8)]  # mirrored for half of the draws
    batch = next(batch for batch in batches if not torch.equal(batch["pixel_values"], plain["pixel_values"]))
    mirrored = still([{**picture, "picture": ImageOps.mirror(picture["picture"])}])
    assert torch.equal(batch["pixel_values"], mirrored["pixel_values"])
    assert torch.equal(batch["shape"].view(7, 7).flip(1), plain["shape"].view(7, 7))
    box = batch["box"].view(7, 7, 4).flip(1)[..., [2, 1, 0, 3]]
    torch.testing.assert_close(box, plain["box"].view(7, 7, 4), equal_nan=True, atol=1e-5, rtol=0)


def test_a_batch_that_shows_nothing_has_a_loss(start):
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(start))
    images = AutoProcessor.from_pretrained(start).image_processor
    row = {"index": 0, "picture": Image.new("RGB", (64, 64)), "seen": []}
    output = TokenReader(model.model.visual, 32)(**PictureCollator(images, [64])([row]))
    assert output["loss"].isfinite() and output["shape"].shape == (1, 16, len(CLASSES["shape"]))


@pytest.fixture(scope="module")
def train_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision") / "train"
    return make_world(folder, scenes=2, seed=3, size=112, split="train", workers=1, progress=False)


def arguments(world, start, out, **more):
    options = {"world": world, "config_name": start, "output_dir": out, "held_out": 1, "max_steps": 2, "use_cpu": True}
    options |= {"per_device_train_batch_size": 4, "report_to": "none", "save_steps": 1, "disable_tqdm": True}
    options |= {"resume_from_checkpoint": "auto"}
    options |= {"per_device_eval_batch_size": 5, **more}
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def test_the_trained_tower_stands_in_a_plain_qwen_checkpoint(train_world, start, tmp_path, capsys):
    main(arguments(train_world, start, tmp_path / "one"))
    model, loading = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "one", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert PolyVProcessor.from_pretrained(tmp_path / "one", add_synergy=False).scenes_kwargs["num_views"] == 6
    measured = json.loads((tmp_path / "one" / "eval_results.json").read_text())
    assert all(0 <= measured[f"eval_{name}"] <= 1 for name in CLASSES)

    # A run that was cut after its first step ends as one that was not; a finished one takes no further step.
    (tmp_path / "one" / "checkpoint-2").rename(tmp_path / "second")
    first = (tmp_path / "one" / "checkpoint-1" / "model.safetensors").stat().st_mtime_ns
    main(arguments(train_world, start, tmp_path / "one"))
    main(arguments(train_world, start, tmp_path / "one"))
    assert (tmp_path / "one" / "checkpoint-1" / "model.safetensors").stat().st_mtime_ns == first
    assert not (tmp_path / "one" / "checkpoint-3").exists()
    said = capsys.readouterr().out
    assert "checkpoint-1: going on after step 1" in said and "checkpoint-2: all 2 steps are done" in said
    resumed = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "one")
    for (name, one), (_, two) in zip(model.named_parameters(), resumed.named_parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": -1}, "max_steps: got -1"),
        ({"held_out": 2}, "held_out: got 2 of the 2 scenes"),
        ({"sides": 100}, r"sides: got \[100\], expected one or more multiples of 16"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint=x: no complete checkpoint"),
        ({"config_name": "no/such/folder"}, "config_name=no/such/folder"),
    ],
)
def test_bad_arguments_are_named(train_world, start, tmp_path, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        main(arguments(train_world, start, tmp_path, **change))


def test_the_test_split_is_not_trained_on(small_world, start, tmp_path):
    with pytest.raises(ValueError, match="of the test split"):
        main(arguments(small_world, start, tmp_path))
