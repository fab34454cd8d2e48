# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Which token is what, and which experts it goes to."""

from collections import Counter

import pytest
import torch

from polyv.evaluation.assignments import KINDS, count, token_kinds
from tests import tiny


def kinds_of(row: torch.Tensor) -> dict[str, int]:
    return {KINDS[kind]: number for kind, number in sorted(Counter(row.tolist()).items()) if kind >= 0}


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_every_token_of_a_mixed_batch_is_what_its_entry_says(padding_side):
    pictures = [kind for row in tiny.MIXED for kind, *_ in row if kind != "video"]
    batch = tiny.inputs(tiny.MIXED, padding_side=padding_side)
    batch["image_coords"][:] = torch.nan  # no depth anywhere: a view is a view
    kinds_BT = token_kinds(batch, pictures, tiny.polyv_config())
    # Text: 9 and the row's number, and two marks around each medium.
    assert list(map(kinds_of, kinds_BT)) == [
        {"text": 11, "image": 6, "<synergy>": 1},
        {"text": 10, "<synergy>": 1},
        {"text": 13, "video": 12, "<synergy>": 1},
        {"text": 16, "scene": 8, "<synergy>": 1},
        {"text": 19, "image": 4, "video": 8, "scene": 4, "<synergy>": 1},
    ]
    assert ((kinds_BT == -1) == (batch["attention_mask"] == 0)).all() and (kinds_BT == -1).any()
    last = [KINDS[kind] for kind in kinds_BT[4] if kind > 0]
    assert last == ["image"] * 4 + ["video"] * 8 + ["scene"] * 4 + ["<synergy>"]


def test_a_model_without_synergy_has_text_there():
    batch = tiny.inputs([tiny.IMAGE_ROW])
    config = tiny.polyv_config(synergy_token_id=None)
    assert kinds_of(token_kinds(batch, ["image"], config)[0]) == {"text": 12, "image": 6}


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_counting_equals_counting_by_hand(top_k):
    torch.manual_seed(0)
    kinds_BT = torch.randint(-1, len(KINDS), (3, 20))
    logits = [torch.randn(60, 4) for _ in range(2)]
    expected = torch.zeros(3, 2, 2, len(KINDS), 4)
    for layer, logits_NE in enumerate(logits):
        for token, logits_E in enumerate(logits_NE):
            row, kind = token // 20, kinds_BT.flatten()[token]
            if kind >= 0:
                expected[row, 0, layer, kind, logits_E.argsort(descending=True)[:top_k]] += 1 / top_k
                expected[row, 1, layer, kind] += logits_E.exp() / logits_E.exp().sum()
    assert torch.allclose(count(logits, kinds_BT, top_k), expected, atol=1e-5)


def test_padding_counts_nowhere():
    batch = tiny.inputs(tiny.MIXED)
    pictures = [kind for row in tiny.MIXED for kind, *_ in row if kind != "video"]
    kinds_BT = token_kinds(batch, pictures, tiny.polyv_config())
    logits = torch.randn(kinds_BT.numel(), 4)
    otherwise = logits.where(batch["attention_mask"].flatten()[:, None] == 1, 100 * torch.randn(4))
    counts, others = (count([values], kinds_BT, 2) for values in (logits, otherwise))
    assert torch.equal(counts, others) and not torch.equal(logits, otherwise)
    assert counts[:, 0].sum() == pytest.approx(batch["attention_mask"].sum().item())


def test_coordinates_tell_views_from_images():
    batch, config = tiny.inputs(tiny.MIXED), tiny.polyv_config()
    pictures = [kind for row in tiny.MIXED for kind, *_ in row if kind != "video"]
    told = token_kinds(batch, pictures, config)
    batch["image_coords"][batch["image_coords"].isfinite().all(-1).nonzero()[0]] = (
        torch.nan
    )  # no depth under one token
    assert torch.equal(token_kinds(batch, None, config), told)
    batch["image_coords"][:] = torch.nan
    assert not (token_kinds(batch, None, config) == KINDS.index("scene")).any()
    for row in ([tiny.IMAGE_ROW], [[]]):
        batch = tiny.inputs(row)
        assert torch.equal(token_kinds(batch, None, config), token_kinds(batch, ["image"] * len(row[0]), config))
