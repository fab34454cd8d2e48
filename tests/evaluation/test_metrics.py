# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scores: what counts as right, and how sure a share of `n` is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyv.evaluation.metrics import ExactMatch, normalise, wilson_interval


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("Red.", "red", True),
        (" red  ball ", "red ball", True),
        ("red .", "red", True),
        ("3", "3.", True),
        ("red", "red ball", False),
        ("", "red", False),
    ],
)
def test_normalise_says_which_answers_are_equal(left, right, equal):
    assert (normalise(left) == normalise(right)) is equal


@given(st.text())
def test_normalise_is_idempotent_but_for_further_stops(text):
    once = normalise(text)
    assert not once.endswith("..") or text.rstrip().endswith("..")
    assert normalise(once) == once.removesuffix(".").rstrip()


def test_wilson_interval_gives_the_known_values():
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3 (Wilson without continuity correction).
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)


@given(st.integers(1, 5000), st.data())
def test_wilson_interval_holds_the_share_and_mirrors(n, data):
    right = data.draw(st.integers(0, n))
    low, high = wilson_interval(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(n - right, n))


@pytest.mark.parametrize(("right", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_impossible_counts(right, n):
    with pytest.raises(ValueError, match=f"right={right}, n={n}"):
        wilson_interval(right, n)


def test_exact_match_counts():
    scores = ExactMatch(keep_in_memory=True).compute(
        predictions=["Red.", "blue", "two", "2"], references=["red", "red", "two", "two"]
    )
    assert scores == {"accuracy": 0.5, "n": 4, "interval": list(wilson_interval(2, 4))}


def test_exact_match_can_be_used_again():
    metric = ExactMatch(keep_in_memory=True)
    assert metric.compute(predictions=["a"], references=["a"])["accuracy"] == 1
    assert metric.compute(predictions=["a", "b"], references=["a", "a"])["n"] == 2


def test_exact_match_refuses_lists_of_different_lengths():
    with pytest.raises(ValueError, match="predictions"):
        ExactMatch(keep_in_memory=True).compute(predictions=["a", "b"], references=["a"])
