# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Positions of text around videos: upstream's fault, its switch, and what replaces it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny


def positions(model, batch):
    return model.get_rope_index(
        batch["input_ids"], batch["mm_token_type_ids"], batch.get("image_grid_thw"), batch.get("video_grid_thw"),
        second_per_grid_ts=batch.get("second_per_grid_ts"), attention_mask=batch["attention_mask"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def models():
    return tiny.polyv().model, tiny.polyv(mrope_upstream=True).model, tiny.dense().model


def test_the_fault_and_its_mending(models):
    mended, upstream, _ = models
    batch = tiny.inputs([[("video", 30, 4, 4, 0.5)]], synergy=False)  # 30 grids of 2 x 2 tokens, half a second apart
    last_video = (batch["input_ids"] == tiny.VIDEO).nonzero()[-1, 1]
    faulty, delta = positions(upstream, batch)
    # Upstream: the text after the video starts inside the video's time, yet generation goes on behind it.
    assert faulty[0, 0, last_video] > faulty[0, 0, -1]
    length = batch["input_ids"].shape[1]
    assert length + delta.item() != faulty[0, 0, -1] + 1
    fixed, delta = positions(mended, batch)
    assert fixed[0, 0, last_video + 1] == fixed[:, 0, last_video].max() + 1
    assert length + delta.item() == fixed[0, 0, -1] + 1


MEDIA = st.one_of(
    st.tuples(st.sampled_from(["image", "scene"]), st.sampled_from([2, 4, 8]), st.sampled_from([2, 4, 8])),
    st.tuples(
        st.just("video"),
        st.integers(1, 6),
        st.sampled_from([2, 4]),
        st.sampled_from([2, 8]),
        st.sampled_from([0.3, 1.0]),
    ),
)


@settings(max_examples=40)
@given(st.lists(st.lists(MEDIA, max_size=3), min_size=1, max_size=3), st.sampled_from(["left", "right"]))
def test_positions_hold_for_any_media(models, rows, padding_side):
    if not any(rows):
        return
    mended, upstream, native = models
    batch = tiny.inputs(rows, padding_side=padding_side)
    expected, expected_delta = positions(native, batch)
    measured, measured_delta = positions(upstream, batch)
    assert torch.equal(measured, expected) and torch.equal(measured_delta, expected_delta)

    fixed, delta = positions(mended, batch)
    for row in range(len(rows)):
        keep = batch["attention_mask"][row].bool()
        here, types = fixed[:, row, keep], batch["mm_token_type_ids"][row, keep]
        # Every text token stands behind all that came before it, and generation behind everything.
        reached = torch.cummax(here.amax(dim=0), dim=0).values
        text = (types == 0).nonzero().flatten()
        for index in text[text > 0].tolist():
            assert here[:, index].tolist() == [reached[index - 1] + 1] * 3
        assert delta[row].item() + keep.sum() == here.max() + 1
        # Inside a medium nothing changed but the start.
        for kind in (1, 2):
            inside = (types == kind).nonzero().flatten()
            if len(inside):
                shift = here[:, inside] - expected[:, row, keep][:, inside]
                assert (shift == shift[0]).all() and (shift >= 0).all()
        assert (fixed[:, row, ~keep] == expected[:, row, ~keep]).all()
