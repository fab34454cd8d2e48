# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""How answers are scored. Metrics are `evaluate.Metric` subclasses, defined here: `evaluate.load` would download."""

import math
from statistics import NormalDist

import datasets
import evaluate


def normalise(answer: str) -> str:
    """What two answers must share to be equal: lower case, single spaces, no full stop at the end."""
    return " ".join(answer.lower().split()).removesuffix(".").rstrip()


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: it stays within 0..1 and is honest for small `n` and at the ends.

    Source: Wilson (1927), Journal of the American Statistical Association 22, 209-212.

    Raises:
        ValueError: `n` is below 1, or `right` not within 0..n.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"right={right}, n={n}: expected n of at least 1 and 0 <= right <= n.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; rounding must not say otherwise.
    return (0.0 if right == 0 else centre - half, 1.0 if right == n else centre + half)


class ExactMatch(evaluate.Metric):
    """The share of predictions that equal their reference once both are normalised.

    Example:

    ```py
    >>> ExactMatch(keep_in_memory=True).compute(predictions=["Red."], references=["red"])["accuracy"]
    1.0
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of answers that equal the true one after lower-casing and dropping a final full stop.",
            citation="",
            inputs_description="predictions, references: lists of strings. Gives accuracy, n, interval (95 %, Wilson).",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references) -> dict:
        right = sum(normalise(p) == normalise(r) for p, r in zip(predictions, references, strict=True))
        n = len(references)
        return {"accuracy": right / n, "n": n, "interval": list(wilson_interval(right, n))}
