# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""How much better one arm of a study is than another that was asked the same, with an interval.

Differences are paired: question by question, seed by seed, and then averaged. Intervals are of a bootstrap over scenes, since
the questions about one scene stand or fall together: they say how far other test scenes could have moved the number. How
far other seeds would, the spread over seeds says.
"""

import functools
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

import numpy as np

from polyv.evaluation.measurements import KINDS
from polyv.evaluation.study import Run, Test


_DRAWS = 4000
_COLUMNS = 10


def compare(
    ours: Mapping[int, str],
    theirs: Mapping[int, str],
    there: Mapping[int, str] | None = None,
    kinds: Sequence[str] = (),
) -> dict[str, Any]:
    """One arm against another, over the seeds that both have.

    Args:
        ours, theirs: by seed, the measurements' "right" (`polyv.evaluation.measurements`) on the same questions.
        there: those of an arm that marks the upper end; with it, the share of the gap from `theirs` to it that `ours`
            closes, over the seeds that all three have.
        kinds: of each question, its kind.

    Returns:
        "seeds" (how many), "n" (questions), "difference" in accuracy with "interval" (95 %) and "spread" (the standard
        deviation over seeds; None of one), "wins" and "losses" (questions that one had right and the other not, over all
        seeds); with a seed of `there` in common, "gap", "gap_seeds" (how many) and "closed" with "closed_interval"; with
        `kinds` also "kinds": of each its "n", "difference" and "interval", and those of all others: "rest", "rest_interval".

    Raises:
        ValueError: there is no seed in common, or not the same questions were asked.
    """
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        raise ValueError(f"ours, theirs: seeds {sorted(ours)} and {sorted(theirs)}; expected one in common.")
    there = there or {}
    every = (*ours.values(), *theirs.values(), *there.values())
    if len({tuple(map(len, right.split())) for right in every}) > 1:
        raise ValueError("ours, theirs, there: expected answers to the same questions about the same scenes.")
    differences = [_bits(ours[seed]) - _bits(theirs[seed]) for seed in seeds]
    ends = [seed for seed in seeds if seed in there]
    per_question = np.mean(differences, axis=0)
    scenes = np.repeat(np.arange(len(ours[seeds[0]].split())), list(map(len, ours[seeds[0]].split())))
    draws = _resample(len(ours[seeds[0]].split()))

    def resampled(values: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Means over the questions of each draw of scenes, which may hold none of a rare kind: NaN."""
        asked = draws @ np.bincount(scenes, chosen)
        drawn = draws @ np.bincount(scenes, values if chosen is None else values * chosen)
        return np.divide(drawn, asked, where=asked > 0, out=np.full(_DRAWS, np.nan))

    by_seed = [float(difference.mean()) for difference in differences]
    result: dict[str, Any] = {
        "seeds": len(seeds),
        "n": len(per_question),
        "difference": float(per_question.mean()),
        "interval": np.quantile(resampled(per_question), [0.025, 0.975]).tolist(),
        "spread": stdev(by_seed) if len(seeds) > 1 else None,
        "wins": int(sum((difference > 0).sum() for difference in differences)),
        "losses": int(sum((difference < 0).sum() for difference in differences)),
    }
    if kinds:

        def told(chosen: np.ndarray) -> tuple[float, list[float]]:
            interval = np.nanquantile(resampled(per_question, chosen), [0.025, 0.975])
            return float(per_question[chosen].mean()), interval.tolist()

        result["kinds"] = {}
        for kind in dict.fromkeys(kinds):
            chosen = np.array([each == kind for each in kinds])
            difference, interval = told(chosen)
            row = {"n": int(chosen.sum()), "difference": difference, "interval": interval}
            if not chosen.all():
                row["rest"], row["rest_interval"] = told(~chosen)
            result["kinds"][kind] = row
    if ends:
        # Of the same seeds: theirs differ by as much as the gap is wide.
        gap = np.mean([_bits(there[seed]) - _bits(theirs[seed]) for seed in ends], axis=0)
        closed = np.mean([_bits(ours[seed]) - _bits(theirs[seed]) for seed in ends], axis=0)
        result["gap"], result["gap_seeds"] = float(gap.mean()), len(ends)
        result["closed"] = float(closed.mean()) / result["gap"] if result["gap"] > 0 else None
        # Where a resampled gap is not open, nothing can close it: the interval then has no end.
        gaps = resampled(gap)
        shares = np.divide(resampled(closed), gaps, out=np.full(_DRAWS, np.nan), where=gaps > 0)
        fit = not np.isnan(shares).any()
        result["closed_interval"] = np.quantile(shares, [0.025, 0.975]).tolist() if fit else None
    return result


@functools.cache
def _resample(scenes: int) -> np.ndarray:
    """How often each scene is drawn, [draws, scenes]."""
    return np.random.default_rng(0).multinomial(scenes, np.full(scenes, 1 / scenes), _DRAWS)


def _bits(right: str) -> np.ndarray:
    return np.array(list(right.replace(" ", "")), dtype=np.int8).astype(float)


def compare_all(found: Sequence[tuple[Run, Test, dict[str, Any]]], bases: Sequence[str]) -> list[dict[str, Any]]:
    """Every arm of a study against each of `bases`, case by case and test by test, as far as they are measured; of two
    bases the later one against the earlier.

    Where questions are labelled in one modality and tested in another, the base that was labelled in the tested one, alike
    in all other fields (but what was "silent"), marks the upper end.

    Args:
        found: what `polyv.evaluation.measurements.gather` gives.
        bases: names of arms.

    Returns:
        What `compare` gives of each two, with the fields of the case and of the test, "arm" and "base". The kinds are
        templates, or suites where there are more than ten of these.
    """
    rights: dict[tuple, dict[str, dict[int, str]]] = {}
    kinds: dict[tuple, list[str]] = {}
    for run, test, measured in found:
        fields = tuple({**run.case, **test.fields}.items())
        kinds[fields] = _kinds(measured)
        rights.setdefault(fields, {}).setdefault(run.step["name"], {})[run.seed] = measured["right"]
    rows = []
    for fields, arms in rights.items():
        named = dict(fields)
        for base in (base for base in bases if base in arms):
            there = {
                seed: right
                for others, by_arm in rights.items()
                if named.get("labelled") not in (None, named.get("tested"))
                if dict(others) | {"silent": ""} == named | {"labelled": named.get("tested"), "silent": ""}
                for seed, right in by_arm.get(base, {}).items()
            }
            for arm in arms:
                if arm not in bases[: bases.index(base) + 1] and set(arms[arm]) & set(arms[base]):
                    compared = compare(arms[arm], arms[base], there, kinds[fields])
                    rows.append({**named, "arm": arm, "base": base, **compared})
    return rows


def _kinds(measured: Mapping[str, Any]) -> list[str]:
    """Each question's template; or, where these are too many for a table, its suite."""
    whole = sorted(measured["templates"])
    suites, templates = ([name.partition("/")[part] for name in whole] for part in (0, 2))
    if len(whole) <= _COLUMNS:
        suites = templates if len(set(templates)) == len(whole) else whole
    letters = dict(zip(KINDS, suites, strict=False))
    return [letters[letter] for letter in measured["kinds"].replace(" ", "")]


__all__ = ["compare", "compare_all"]
