# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Specialisation against tables worked out by hand and closed forms; its interval and its chance level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyv.evaluation.specialisation import bootstrap, measure, shuffle, specialisation


def loads(*parts: list, layers: int = 1) -> np.ndarray:
    """[Q, L, M, E] from the [M, E] of each question."""
    return np.repeat(np.array(parts, float)[:, None], layers, axis=1)


@pytest.mark.parametrize(
    ("load", "top_k", "expected"),
    [
        # By hand, in bits: of two experts, one takes 3/4 of one modality and 1/4 of the other. The marginal is even,
        # I = 1 - H(1/4) = 1 - 0.811278, and the bound is min(log 2, log 2 - log 1) = 1.
        ([[3, 1], [1, 3]], 1, 0.188722),
        # One expert a modality; two of four a modality; four modalities with two experts each, each shared by two.
        (np.eye(4), 1, 1),
        ([[1, 1, 0, 0], [0, 0, 1, 1]], 2, 1),
        ([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]], 2, 1),
        # The roles that the paper reports: an expert for each of image, scene and video, and one for all. The marginal
        # is (1, 1, 1, 3) / 6 with H = log2(6) / 2 + 1 / 2, each row's H is 1, the bound is min(log2 3, 2 - 1) = 1.
        ([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]], 2, np.log2(6) / 2 - 0.5),
        # One expert for one modality, another for two: I = H(1/3), the bound is log 2.
        ([[1, 0], [0, 1], [0, 1]], 1, np.log2(3) - 2 / 3),
        # Nothing to tell: the same load; one modality; experts that every token goes to.
        ([[3, 1, 2], [6, 2, 4]], 1, 0),
        ([[3, 1, 2]], 1, 0),
        ([[2, 2], [1, 1]], 2, 0),
    ],
)
def test_closed_forms(load, top_k, expected):
    assert specialisation(np.array(load, float), top_k) == pytest.approx(expected, abs=1e-6)


@st.composite
def routed(draw) -> tuple[np.ndarray, int]:
    """The load of a few tokens, each sent to its `top_k` experts."""
    experts = draw(st.integers(2, 6))
    top_k = draw(st.integers(1, experts))
    load = np.zeros((draw(st.integers(1, 5)), experts))
    for modality in range(len(load)):
        for _ in range(draw(st.integers(0, 4))):
            load[modality, draw(st.permutations(range(experts)))[:top_k]] += 1 / top_k
    return load, top_k


@given(routed(), st.randoms(use_true_random=False))
def test_it_is_within_bounds_and_ignores_order_and_number_of_tokens(given_load, random):
    load, top_k = given_load
    value = specialisation(load, top_k)
    assert 0 <= value <= 1 + 1e-9
    experts, modalities = list(range(load.shape[1])), list(range(load.shape[0]))
    random.shuffle(experts)
    random.shuffle(modalities)
    assert specialisation(load[:, experts], top_k) == pytest.approx(value)
    assert specialisation(load[modalities], top_k) == pytest.approx(value)
    assert specialisation(load * [[random.choice([1, 7, 1000])] for _ in load], top_k) == pytest.approx(value)
    assert specialisation(np.vstack([load, 0 * load[:1]]), top_k) == pytest.approx(value)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.lists(st.integers(0, 9), min_size=2, max_size=6))
def test_independent_experts_tell_nothing(tokens, shares):
    assert specialisation(np.outer(tokens, shares).astype(float), 1) == pytest.approx(0, abs=1e-9)


def test_layers_are_taken_one_by_one():
    load = np.random.default_rng(0).integers(0, 9, (3, 2, 4, 5)).astype(float)
    one_by_one = [[specialisation(table, 1) for table in row] for row in load]
    assert specialisation(load, 1) == pytest.approx(np.array(one_by_one))


def test_layers_that_specialise_in_opposite_ways_do_not_cancel():
    load_QLME = np.array([[[[9, 0], [0, 9]], [[0, 9], [9, 0]]]] * 3, float)
    mean, first, second = measure(load_QLME, np.array(["a"] * 3), 1, seed=0)
    assert [row["value"] for row in (mean, first, second)] == pytest.approx([1, 1, 1])
    assert first["interval"] == [1, 1]


def test_the_mean_comes_first_and_a_seed_decides_all():
    rng = np.random.default_rng(0)
    load_QLME, suites_Q = rng.integers(0, 9, (12, 2, 3, 4)).astype(float), np.array(["a", "b"] * 6)
    mean, *layers = measure(load_QLME, suites_Q, 1, seed=1)
    assert mean["value"] == pytest.approx(np.mean([layer["value"] for layer in layers]))
    assert [mean, *layers] == measure(load_QLME, suites_Q, 1, seed=1) != measure(load_QLME, suites_Q, 1, seed=2)
    assert all(row["chance_interval"][0] < row["chance"] < row["chance_interval"][1] for row in (mean, *layers))


def test_resampling_keeps_the_number_of_questions_of_each_suite():
    a, b = [[1, 0], [0, 0]], [[0, 0], [0, 1]]
    rng = np.random.default_rng(0)
    by_suite = bootstrap(loads(a, b, a, b), np.array(["a", "b", "a", "b"]), 1, rng)
    assert by_suite == pytest.approx(np.ones((len(by_suite), 1)))
    mixed = bootstrap(loads(a, b, a, b), np.array(["a"] * 4), 1, rng)  # now and then, one modality is drawn alone
    assert set(mixed.round(9).flat) == {0, 1}


def test_the_interval_narrows_with_questions_and_reaches_down_to_no_specialisation():
    rng = np.random.default_rng(0)

    def interval(num_questions: int) -> list[float]:
        load = rng.multinomial(5, [0.25] * 4, size=(num_questions, 1, 2)).astype(float)  # no specialisation at all
        return measure(load, np.array(["a"] * num_questions), 1, seed=0)[0]["interval"]

    (few_low, few_high), (many_low, many_high) = interval(20), interval(500)
    assert few_low == many_low == 0
    assert many_high < few_high / 4


def test_chance_is_that_of_whole_parts_not_of_single_tokens():
    """All tokens of a part share an expert: 20 draws, not 20,000, and as many find a pattern in noise."""
    rng = np.random.default_rng(0)
    parts = np.eye(4)[rng.integers(4, size=(20, 1, 2))] * 500
    alike = shuffle(parts, 1, rng).mean()
    single = shuffle(rng.multinomial(500, [0.25] * 4, size=(20, 1, 2)).astype(float), 1, rng).mean()
    assert alike > 0.03 > 10 * single


def test_chance_forgets_who_is_who_but_not_how_much_there_is():
    specialised = loads(*[[[50, 0], [0, 0]], [[0, 0], [0, 50]]] * 20, layers=2)
    values = shuffle(specialised, 1, np.random.default_rng(0))
    assert values.shape[1] == 2 and values.mean() < 0.05
    assert values[:, 0] == pytest.approx(values[:, 1])  # the same labels in every layer
