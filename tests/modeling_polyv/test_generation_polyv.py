# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""However an answer is generated, it is the same: cached, batched, in chunks, assisted, from embeddings, in a later turn."""

import pytest
import torch
import transformers
from transformers import DynamicCache, StaticCache

from polyv import PolyVForConditionalGeneration
from tests import tiny


ROWS = {
    "text": [],
    "image": tiny.IMAGE_ROW,
    # Seconds a grid other than 1, which is what a lost `second_per_grid_ts` would count as.
    "video": [("video", 3, 4, 4, 0.5)],
    "long video": [("video", 7, 4, 4, 2.0)],
    "scene": tiny.SCENE_ROW,
    "all": [("video", 9, 4, 4, 0.3), ("scene", 4, 4), ("image", 6, 4)],
}
GREEDY = dict(max_new_tokens=8, do_sample=False, eos_token_id=-1)


@pytest.fixture(scope="module")
def model() -> PolyVForConditionalGeneration:
    return tiny.polyv()


def new_tokens(model, batch, **arguments) -> list[list[int]]:
    arguments = {**GREEDY, **arguments}
    return model.generate(**batch, **arguments)[:, batch["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("row", ROWS)
def test_cached_generation_equals_recomputation(model, row):
    batch = tiny.inputs([ROWS[row]])
    cached = new_tokens(model, batch)[0]
    ids, types = batch["input_ids"], batch["mm_token_type_ids"]
    for _ in range(len(cached)):
        whole = {
            **batch,
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": torch.nn.functional.pad(types, (0, ids.shape[1] - types.shape[1])),
        }
        with torch.no_grad():
            ids = torch.cat([ids, model(**whole).logits[:, -1:].argmax(-1)], dim=1)
    assert ids[0, -len(cached) :].tolist() == cached


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
def test_a_left_padded_batch_equals_its_rows(model, arguments):
    rows = list(ROWS.values())
    together = new_tokens(model, batch := tiny.inputs(rows), **arguments)
    images = videos = 0
    for index, row in enumerate(rows):
        single = row_of(batch, index, row, images, videos)
        images += sum(kind != "video" for kind, *_ in row)
        videos += sum(kind == "video" for kind, *_ in row)
        assert new_tokens(model, single, **arguments)[0] == together[index], index


def test_a_static_cache_generates_what_a_dynamic_one_does(model):
    """On left-padded rows of every kind: the static cache has room left, which must count for nothing."""
    batch = tiny.inputs(list(ROWS.values()))
    arguments = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}
    dynamic = model.generate(**batch, **arguments)
    static = model.generate(**batch, **arguments, cache_implementation="static")
    assert isinstance(dynamic.past_key_values, DynamicCache) and isinstance(static.past_key_values, StaticCache)
    assert static.sequences.tolist() == dynamic.sequences.tolist()
    assert len(set(dynamic.sequences[:, -8:].flatten().tolist())) > 3  # not one token all along
    for step, (one, other) in enumerate(zip(static.logits, dynamic.logits, strict=True)):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4, msg=f"step {step}")


def row_of(batch: dict, index: int, row: list, first_image: int, first_video: int) -> dict:
    """One row of a batch, without its padding."""
    keep = batch["attention_mask"][index].bool()
    single = {key: batch[key][index : index + 1, keep] for key in ("input_ids", "attention_mask", "mm_token_type_ids")}
    for kind, pixels, first in (
        ("image", "pixel_values", first_image),
        ("video", "pixel_values_videos", first_video),
    ):
        count = sum((name == "video") == (kind == "video") for name, *_ in row)
        if count:
            sizes = batch[f"{kind}_grid_thw"].prod(-1)
            start, end = int(sizes[:first].sum()), int(sizes[: first + count].sum())
            single[f"{kind}_grid_thw"] = batch[f"{kind}_grid_thw"][first : first + count]
            single[pixels] = batch[pixels][start:end]
            if kind == "image":
                single["image_coords"] = batch["image_coords"][start // 4 : end // 4]
            else:
                single["second_per_grid_ts"] = batch["second_per_grid_ts"][first : first + count]
    return single


@pytest.mark.parametrize("row", ROWS)
def test_sampling_several_sequences_is_sampling_from_several_rows(model, row):
    """One seed gives the same tokens again, whether the sequences or the rows are several; another seed, others."""

    def drawn(batch: dict, seed: int, **arguments) -> list[list[int]]:
        torch.manual_seed(seed)
        return new_tokens(model, batch, do_sample=True, **arguments)

    several = drawn(tiny.inputs([ROWS[row]]), 3, num_return_sequences=3)
    assert several == drawn(tiny.inputs([ROWS[row]]), 3, num_return_sequences=3)
    assert len({tuple(tokens) for tokens in several}) == 3 and several != drawn(
        tiny.inputs([ROWS[row]]), 4, num_return_sequences=3
    )
    one = tiny.inputs([ROWS[row]])
    rows = {name: torch.cat([value] * 3) for name, value in one.items()}
    assert several == drawn(rows, 3)


@pytest.mark.parametrize("row", ROWS)
def test_beams_from_a_cache_equal_beams_without_one(model, row):
    batch = tiny.inputs([ROWS[row], []])
    arguments = {"num_beams": 3, "num_return_sequences": 2}
    cached = new_tokens(model, batch, **arguments)
    assert cached == new_tokens(model, batch, **arguments, use_cache=False)
    assert cached[::2] != new_tokens(model, batch), "beams found nothing that greedy decoding did not"


def as_embeds(model, batch):
    embeds = {key: value for key, value in batch.items() if key != "input_ids"}
    return {**embeds, "inputs_embeds": model.get_input_embeddings()(batch["input_ids"]).detach()}


@pytest.mark.parametrize("row", ROWS)
def test_inputs_embeds_equal_input_ids(model, row):
    new_tokens(model, tiny.inputs([tiny.VIDEO_ROW, []]))  # leaves positions behind that must not matter
    batch = tiny.inputs([ROWS[row], []])
    with torch.no_grad():
        expected, measured = model(**batch), model(**as_embeds(model, batch))
    torch.testing.assert_close(measured.logits, expected.logits)
    torch.testing.assert_close(measured.synergy_spatial, expected.synergy_spatial)
    generated = model.generate(**as_embeds(model, batch), **GREEDY).tolist()
    assert generated == new_tokens(model, batch)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"prefill_chunk_size": 7},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_model": "polyv"},
        {"assistant_model": "dense"},
    ],
    ids=str,
)
def test_shortcuts_generate_what_the_plain_way_does(model, row, arguments):
    if "prefill_chunk_size" in arguments and not hasattr(transformers.generation.utils, "_slice_mm_encoder_output"):
        pytest.skip("this transformers cannot prefill in chunks where positions have axes")
    assistants = {"polyv": tiny.polyv, "dense": tiny.dense}
    arguments = {
        name: assistants[value](seed=1) if value in assistants else value for name, value in arguments.items()
    }
    batch = tiny.inputs([ROWS[row]])
    lengths = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, __, inputs: lengths.append(inputs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    with hook:
        assert new_tokens(model, batch, **arguments) == new_tokens(model, batch)
    if "prefill_chunk_size" in arguments:
        assert lengths[0] == 7


def conversation(model, first: list, second: list, count: int = 2) -> tuple[dict, dict, dict]:
    """A first turn of a batch, answered; the turn that follows it alone; and both with the answer between them."""
    batch = tiny.inputs([first, []][:count])
    turn = model.generate(**batch, **GREEDY, return_dict_in_generate=True)
    asked = tiny.inputs([second, []][:count], seed=1)
    answered = torch.ones(count, turn.sequences.shape[1] - batch["input_ids"].shape[1], dtype=torch.long)
    whole = {
        "input_ids": torch.cat([turn.sequences, asked["input_ids"]], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], answered, asked["attention_mask"]], dim=1),
        "mm_token_type_ids": torch.cat(
            [batch["mm_token_type_ids"], 0 * answered.int(), asked["mm_token_type_ids"]], 1
        ),
    }
    for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "second_per_grid_ts"):
        if parts := [one[name] for one in (batch, asked) if name in one]:
            whole[name] = torch.cat(parts)
    coords = [
        one.get("image_coords", torch.full((int(one["image_grid_thw"].prod(-1).sum()) // 4, 3), torch.nan))
        for one in (batch, asked)
        if "image_grid_thw" in one
    ]
    if coords:
        whole["image_coords"] = torch.cat(coords)
    return turn, asked, whole


@pytest.mark.parametrize("second", ["text", "image", "video", "scene", "all"])
@pytest.mark.parametrize("first", ROWS)
def test_a_later_turn_continues_from_the_cache_of_the_first(model, first, second):
    """The whole conversation comes again with all of its media, as the processor gives it."""
    turn, asked, whole = conversation(model, ROWS[first], ROWS[second])
    encoded = []
    hook = model.model.visual.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    more = {"output_logits": True, "return_dict_in_generate": True}
    with hook:
        continued = model.generate(**whole, **GREEDY, **more, past_key_values=turn.past_key_values)
    new = sum(len(asked[name]) for name in ("pixel_values", "pixel_values_videos") if name in asked)
    assert sum(encoded) == new, "media of the first turn were encoded again"
    afresh = model.generate(**whole, **GREEDY, **more)
    assert continued.sequences.tolist() == afresh.sequences.tolist()
    for one, other in zip(continued.logits, afresh.logits, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_a_third_turn_continues_too(model):
    turn, _, whole = conversation(model, ROWS["video"], ROWS["scene"], count=1)
    second = model.generate(**whole, **GREEDY, past_key_values=turn.past_key_values, return_dict_in_generate=True)
    asked = tiny.inputs([[]], seed=2)["input_ids"]
    ids = torch.cat([second.sequences, asked], dim=1)
    later = {**whole, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    later["mm_token_type_ids"] = (ids == tiny.IMAGE).int() + 2 * (ids == tiny.VIDEO).int()
    continued = new_tokens(model, later, past_key_values=second.past_key_values)
    assert continued == new_tokens(model, later)


def test_several_answers_to_a_first_turn_can_be_continued(model):
    """A cache of several sequences is continued by as many rows; other counts are refused."""
    batch = tiny.inputs([tiny.SCENE_ROW])
    torch.manual_seed(0)
    arguments = {**GREEDY, "do_sample": True, "num_return_sequences": 3, "return_dict_in_generate": True}
    turn = model.generate(**batch, **arguments)
    asked = tiny.inputs([[]], seed=1)["input_ids"].expand(3, -1)
    ids = torch.cat([turn.sequences, asked], dim=1)
    whole = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == tiny.IMAGE).int(),
        "pixel_values": batch["pixel_values"].repeat(3, 1),
        "image_grid_thw": batch["image_grid_thw"].repeat(3, 1),
        "image_coords": batch["image_coords"].repeat(3, 1),
    }
    one = {name: value[: len(value) // 3] for name, value in whole.items()}
    with pytest.raises(ValueError, match="`past_key_values` holds 3 rows, but the prompt 1: repeat the conversation"):
        new_tokens(model, one, past_key_values=turn.past_key_values)
    assert new_tokens(model, whole, past_key_values=turn.past_key_values) == new_tokens(model, whole)


def test_the_new_turn_alone_continues_from_the_cache_unless_it_holds_media(model):
    """As transformers allows: the new tokens, with a mask of all positions."""
    for second, has_media in ROWS.items():
        turn, asked, whole = conversation(model, ROWS["video"], ROWS[second], count=1)
        alone = {**asked, "attention_mask": whole["attention_mask"]}
        if has_media:
            with pytest.raises(ValueError, match="a new turn with media cannot come alone"):
                new_tokens(model, alone, past_key_values=turn.past_key_values)
        else:
            new_tokens(model, tiny.inputs([ROWS["image"]]))  # another conversation in between
            assert new_tokens(model, alone, past_key_values=turn.past_key_values) == new_tokens(model, whole)


MEDIA = (
    "pixel_values",
    "image_grid_thw",
    "image_coords",
    "pixel_values_videos",
    "video_grid_thw",
    "second_per_grid_ts",
)


@pytest.mark.parametrize("first", ROWS)
def test_media_in_the_cache_may_be_left_out_where_no_others_come(model, first):
    """As of Qwen2.5-VL, and whatever was generated in between."""
    for second, has_media in ROWS.items():
        turn, asked, whole = conversation(model, ROWS[first], ROWS[second], count=1)
        without = {name: value for name, value in whole.items() if name not in MEDIA}
        new_tokens(model, tiny.inputs([ROWS["long video"]]))
        if not has_media:
            got = new_tokens(model, without, past_key_values=turn.past_key_values)
            assert got == new_tokens(model, whole)
            continue
        some = {**without, **{name: value for name, value in asked.items() if name in MEDIA}}
        for batch in (without, some) if ROWS[first] else (without,):
            with pytest.raises(
                ValueError, match=r"_grid_thw` tells of \d+ tokens, but the prompt holds \d+: pass the whole"
            ):
                new_tokens(model, batch, past_key_values=turn.past_key_values)


def test_a_prompt_shorter_than_its_cache_is_refused(model):
    turn, asked, _ = conversation(model, ROWS["long video"], ROWS["image"], count=1)
    for mask in ({}, {"attention_mask": asked["attention_mask"]}):
        batch = {name: value for name, value in asked.items() if name != "attention_mask"}
        with pytest.raises(ValueError, match=r"holds \d+ positions, but the prompt \d+: pass the whole conversation"):
            model.generate(**batch, **mask, **GREEDY, past_key_values=turn.past_key_values)


def test_a_cache_that_ends_within_a_medium_is_refused(model):
    batch = tiny.inputs([tiny.SCENE_ROW])
    turn = model.generate(**batch, **GREEDY, return_dict_in_generate=True)
    inside = int((batch["input_ids"][0] == tiny.IMAGE).nonzero()[1])
    turn.past_key_values.crop(inside - turn.past_key_values.get_seq_length())
    with pytest.raises(
        ValueError, match=f"`past_key_values` ends at position {inside}, within the tokens of a medium"
    ):
        model.generate(**batch, **GREEDY, past_key_values=turn.past_key_values)


def test_an_assistant_of_another_width_helps_too(model):
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]}
    vision = {**tiny.VISION, "out_hidden_size": 64}
    assistant = tiny.polyv(seed=1, text={"hidden_size": 64, "rope_parameters": rope}, vision_config=vision)
    batch = tiny.inputs([ROWS["all"]])
    assert new_tokens(model, batch, assistant_model=assistant) == new_tokens(model, batch)
