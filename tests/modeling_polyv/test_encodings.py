# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyv.modeling_polyv.encodings import PolyVSinusoidalEncoding


def encoding(num_axes=3, dtype=torch.float32, **arguments) -> PolyVSinusoidalEncoding:
    torch.manual_seed(0)
    defaults = dict(num_frequencies=16, periods=(0.1, 40.0), hidden_size=64)
    module = PolyVSinusoidalEncoding(num_axes, **{**defaults, **arguments})
    torch.nn.init.normal_(module.weight)
    return module.to(dtype)


def test_tokens_without_a_value_get_zero_whatever_is_learned():
    values = torch.tensor([[0.0, 1.0, 2.0], [torch.nan, 1.0, 2.0], [torch.nan] * 3])
    output = encoding()(values)
    assert output[0].abs().min() > 0
    assert output[1:].abs().max() == 0


def test_no_gradient_comes_from_tokens_without_a_value():
    module = encoding()
    module(torch.full((4, 3), torch.nan)).sum().backward()
    assert module.weight.grad.abs().max() == 0


def test_values_are_clipped_to_the_box():
    module = encoding(box=((-1.0, -1.0, -1.0), (1.0, 2.0, 1.0)))
    far, corner = torch.tensor([[9.0, 9.0, -9.0]]), torch.tensor([[1.0, 2.0, -1.0]])
    torch.testing.assert_close(module(far), module(corner))


@given(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), st.integers(0, 2), st.floats(0.02, 0.05))
def test_points_two_centimetres_apart_differ_even_in_bfloat16(point, axis, step):
    module = encoding(dtype=torch.bfloat16)
    moved = list(point)
    moved[axis] += step
    one, other = module(torch.tensor([point, moved]))
    assert (one - other).abs().max() > 0


def test_features_have_the_periods_asked_for():
    module = encoding(num_axes=1, num_frequencies=2, periods=(0.5, 8.0), hidden_size=4)
    with torch.no_grad():
        module.weight.copy_(torch.eye(4))  # the features themselves: sin(0.5), sin(8), cos(0.5), cos(8)
        features = module(torch.tensor([[0.0], [0.5], [2.0]]))
    torch.testing.assert_close(features[0], torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert features[1, 0].item() == pytest.approx(0.0, abs=1e-5)  # one whole short period later
    torch.testing.assert_close(features[2, [1, 3]], torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)  # a quarter long one


def test_zero_values_are_not_missing_values():
    assert encoding()(torch.zeros(1, 3)).abs().max() > 0
