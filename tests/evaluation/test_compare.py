# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Arms against arms: what is paired, what is averaged, and how wide the intervals are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyv.evaluation.compare import compare, compare_all
from polyv.evaluation.study import Study


def draw(accuracy: float, seed: int, scenes: int = 400, questions: int = 2) -> str:
    bits = np.random.default_rng(seed).random((scenes, questions)) < accuracy
    return " ".join("".join("01"[bit] for bit in scene.astype(int)) for scene in bits)


def test_differences_are_paired_by_question_and_seed():
    result = compare({0: "11 0", 1: "10 1"}, {1: "00 1", 0: "01 1"}, {0: "11 1", 1: "11 1", 2: "00 0"})
    assert (result["seeds"], result["n"], result["wins"], result["losses"]) == (2, 3, 2, 1)
    assert result["difference"] == pytest.approx((0 + 1 / 3) / 2)
    assert result["spread"] == pytest.approx(np.std([0, 1 / 3], ddof=1))
    assert result["gap"] == pytest.approx(1 / 2) and result["closed"] == pytest.approx(1 / 3)


def test_a_gap_is_of_seeds_that_were_measured_there_too():
    """Theirs of seed 1 are far better than those of seed 0: that is no part of the gap of seed 0."""
    result = compare({0: "1100", 1: "1111"}, {0: "1000", 1: "1110"}, {0: "1110"})
    assert (result["seeds"], result["gap_seeds"], result["difference"]) == (2, 1, 0.25)
    assert result["gap"] == 0.5 and result["closed"] == 0.5
    assert "gap" not in compare({0: "1"}, {0: "0"}, {1: "1"})


def test_only_seeds_of_both_count():
    result = compare({0: "1", 1: "1", 2: "0"}, {2: "1", 7: "1"})
    assert (result["seeds"], result["difference"], result["spread"]) == (1, -1.0, None)
    assert "gap" not in result


@pytest.mark.parametrize("theirs", [{0: "11"}, {0: "1 1 1"}, {0: "1"}])
def test_other_questions_are_refused(theirs):
    with pytest.raises(ValueError, match="answers to the same questions about the same scenes"):
        compare({0: "1 1"}, theirs)


def test_no_seed_in_common_is_refused():
    with pytest.raises(ValueError, match=r"seeds \[0\] and \[1\]; expected one in common"):
        compare({0: "1"}, {1: "1"})


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 200 pairs of arms whose true difference is 0.1: in 95 % ± what 200 draws leave open."""
    held = 0
    for trial in range(200):
        low, high = compare({0: draw(0.6, 2 * trial)}, {0: draw(0.5, 2 * trial + 1)})["interval"]
        held += low <= 0.1 <= high
    assert 180 <= held <= 199


def test_questions_of_one_scene_stand_or_fall_together():
    """Ten questions that always agree tell no more than one."""
    one, other = draw(0.6, 0, 200, 1).split(), draw(0.5, 1, 200, 1).split()
    single = compare({0: " ".join(one)}, {0: " ".join(other)})["interval"]
    copied = compare({0: " ".join(10 * bit for bit in one)}, {0: " ".join(10 * bit for bit in other)})["interval"]
    assert copied == pytest.approx(single, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=20), st.integers(0, 2**31))
def test_the_other_way_round_the_sign_turns(sizes, seed):
    rng = np.random.default_rng(seed)
    ours, theirs = (" ".join("".join(rng.choice(["0", "1"], size)) for size in sizes) for _ in range(2))
    there, back = compare({0: ours}, {0: theirs}), compare({0: theirs}, {0: ours})
    assert there["difference"] == pytest.approx(-back["difference"])
    assert there["wins"] == back["losses"] and there["losses"] == back["wins"]
    assert there["interval"] == pytest.approx([-end for end in reversed(back["interval"])])


def test_a_gap_that_may_not_be_open_has_no_interval():
    result = compare({0: draw(0.5, 0)}, {0: draw(0.5, 1)}, {0: draw(0.5, 2)})
    assert result["closed_interval"] is None
    open_gap = compare({0: draw(0.7, 0)}, {0: draw(0.5, 1)}, {0: draw(0.9, 2)})
    low, high = open_gap["closed_interval"]
    assert low < open_gap["closed"] < high and 0.3 < low < high < 0.7


def test_the_upper_end_is_the_base_labelled_where_others_are_tested():
    cases = [
        {"teacher": "t", "labelled": "video", "silent": "image"},
        {"teacher": "t", "labelled": "image", "silent": "scene"},
        {"teacher": "u", "labelled": "image", "silent": "scene"},
    ]
    steps = [{"name": name, "from": "x", "arm": True} for name in ("dense", "full")]
    study = Study(
        "o", steps, {"questions": "{teacher}-{tested}.jsonl", "tested": ["image", "video"]}, "r.json", cases=cases
    )
    right = {
        ("t", "video", "image", "dense"): "000 0", ("t", "video", "image", "full"): "100 0",
        ("t", "image", "image", "dense"): "110 0", ("t", "video", "video", "dense"): "1 1",
        ("u", "image", "image", "dense"): "000 0",  # of another teacher
    }  # fmt: skip
    found = [
        (run, test, {"right": right[key], "kinds": "aba b", "templates": {"one/x": {}, "one/y": {}}})
        for run in study.runs()
        for test in run.tests()
        if (key := (run.case["teacher"], run.case["labelled"], test.fields["tested"], run.step["name"])) in right
    ]
    (row,) = compare_all(found, ["dense"])
    assert row["labelled"] == "video" and row["tested"] == "image" and row["arm"] == "full"
    assert row["gap"] == 0.5 and row["closed"] == 0.5
    assert {kind: (told["n"], told["difference"], told["rest"]) for kind, told in row["kinds"].items()} == {
        "x": (2, 0.5, 0.0),
        "y": (2, 0.0, 0.5),
    }


def test_kinds_are_compared_apart_and_without_each():
    """What is gained in one kind alone is no gain of the others; their intervals are as those of the questions alone."""
    x, y = draw(0.9, 0, questions=1).split(), draw(0.5, 1, questions=1).split()
    before = draw(0.5, 2, questions=1).split()
    ours, theirs = (" ".join(a + b for a, b in zip(one, y, strict=True)) for one in (x, before))
    found = compare({0: ours}, {0: theirs}, kinds=["x", "y"] * 400)["kinds"]
    alone = compare({0: " ".join(x)}, {0: " ".join(before)})
    assert found["x"]["difference"] == found["y"]["rest"] == pytest.approx(alone["difference"])
    assert found["x"]["interval"] == found["y"]["rest_interval"] == pytest.approx(alone["interval"])
    assert (found["y"]["difference"], found["y"]["interval"], found["x"]["rest"]) == (0, [0, 0], 0)
    assert "rest" not in compare({0: ours}, {0: theirs}, kinds=["x"] * 800)["kinds"]["x"]
