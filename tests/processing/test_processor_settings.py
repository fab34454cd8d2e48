# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json

import pytest

from polyv.processing.processing_polyv import PolyVProcessor
from tests.processing.conftest import user


def test_it_loads_from_a_qwen_checkpoint_and_takes_the_next_id(qwen, processor):
    assert processor.synergy_token_id == len(qwen.tokenizer) == 264
    assert processor.tokenizer("a<synergy>b").input_ids[1] == 264
    assert processor.tokenizer.decode([264, 65], skip_special_tokens=True) == processor.tokenizer.decode([65])
    for name, token in qwen.tokenizer.get_vocab().items():
        assert processor.tokenizer.get_vocab()[name] == token


def test_settings_survive_saving_and_stay_out_of_the_tokenizer(qwen_folder, tmp_path):
    settings = {"add_synergy": False, "num_synergy_tokens": 2, "max_image_pixels": 99_999}
    first = PolyVProcessor.from_pretrained(qwen_folder, scenes_kwargs={"num_views": 5}, **settings)
    first.save_pretrained(tmp_path)
    again = PolyVProcessor.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in settings} == settings
    assert again.scenes_kwargs == {"num_views": 5, "min_pixels": None, "max_pixels": 256 * 28 * 28}
    assert again.synergy_token_id == 264 and len(again.tokenizer) == 265 and again.chat_template == first.chat_template
    assert not settings.keys() & json.loads((tmp_path / "tokenizer_config.json").read_text()).keys()
    text = again.apply_chat_template(user("q"), add_generation_prompt=True)
    assert text.endswith("assistant\n")
    assert (
        PolyVProcessor.from_pretrained(tmp_path, add_synergy=True)
        .apply_chat_template(user("q"), add_generation_prompt=True)
        .endswith("assistant\n<synergy><synergy>")
    )
    assert again.apply_chat_template(user("q"), add_generation_prompt=True, add_synergy=True).endswith("<synergy>")


@pytest.mark.parametrize(
    "name, value", [("max_image_pixels", None), ("max_image_pixels", 0), ("num_synergy_tokens", True)]
)
def test_settings_that_are_no_counts_are_refused_at_once(qwen_folder, name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: expected a whole number of at least 1"):
        PolyVProcessor.from_pretrained(qwen_folder, **{name: value})


def test_unknown_scene_settings_are_refused(qwen_folder, processor):
    with pytest.raises(ValueError, match=r"scenes_kwargs: unknown \['views'\]"):
        PolyVProcessor.from_pretrained(qwen_folder, scenes_kwargs={"views": 3})
    with pytest.raises(ValueError, match=r"scenes_kwargs: unknown \['views'\]"):
        processor(text="a", scenes_kwargs={"views": 3})


def test_input_names(processor):
    assert {"image_coords", "second_per_grid_ts", "mm_token_type_ids", "pixel_values_videos"} < set(
        processor.model_input_names
    )


@pytest.mark.parametrize("count", [0, -1, 1.5, None])
def test_a_synergy_count_below_one_is_refused(qwen_folder, processor, count):
    for attempt in (
        lambda: PolyVProcessor.from_pretrained(qwen_folder, num_synergy_tokens=count),
        lambda: PolyVProcessor(processor.image_processor, processor.tokenizer, num_synergy_tokens=count),
        lambda: processor.apply_chat_template(user("q"), num_synergy_tokens=count),
    ):
        with pytest.raises(ValueError, match=rf"num_synergy_tokens={count}: expected a whole number of at least 1"):
            attempt()


def test_the_synergy_count_comes_from_the_model_unless_somebody_says_otherwise(qwen, tmp_path):
    qwen.save_pretrained(tmp_path)
    for model_type, expected in (("qwen2_5_vl", 1), ("polyv", 3)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "num_synergy_tokens": 3}))
        loaded = PolyVProcessor.from_pretrained(tmp_path)
        assert loaded.num_synergy_tokens == expected
    assert loaded.apply_chat_template(user("q"), add_generation_prompt=True).endswith("\n" + 3 * "<synergy>")
    assert PolyVProcessor.from_pretrained(tmp_path, num_synergy_tokens=4).num_synergy_tokens == 4
    PolyVProcessor.from_pretrained(tmp_path, num_synergy_tokens=2).save_pretrained(tmp_path)
    assert PolyVProcessor.from_pretrained(tmp_path).num_synergy_tokens == 2
