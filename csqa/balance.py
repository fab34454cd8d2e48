# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Keeps the answers of each kind of question level, so that the wording of a question tells little about its answer."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

import numpy as np


# No answer of a kind may be given more than this many times as often as the next most frequent one, plus one.
_DOMINANCE = 1.1
_FEW = 1


class Answered(Protocol):
    """A question's `answer`, and `given`, a word of the question that might tell it ("ball", where most of what moves are
    balls): answers are kept level for each `given` apart."""

    @property
    def answer(self) -> str: ...

    @property
    def given(self) -> str: ...


_Found = TypeVar("_Found", bound=Answered)


class Balance:
    """Keeps the answers of each kind level while questions are chosen scene by scene.

    Of the answers that a scene offers, the one given least often so far comes first; one that dominates its kind is not
    given again until the others catch up.
    """

    def __init__(self) -> None:
        self.given: defaultdict[tuple[Hashable, str], Counter[str]] = defaultdict(Counter)

    def choose(self, kind: Hashable, found: Sequence[_Found], most: int, rng: np.random.Generator) -> list[_Found]:
        """At most `most` of the instances found, in random order."""
        offered: dict[tuple[str, str], list[_Found]] = {}
        for i in rng.permutation(len(found)):
            offered.setdefault((found[i].given, found[i].answer), []).append(found[i])
        chosen: list[_Found] = []
        while offered and len(chosen) < most:
            key = min(offered, key=lambda key: self._lead(kind, *key))
            if self._lead(kind, *key) >= _FEW:
                break
            self.given[kind, key[0]][key[1]] += 1
            chosen.append(offered[key].pop())
            if not offered[key]:
                del offered[key]
        return chosen

    def _lead(self, kind: Hashable, given: str, answer: str) -> float:
        """By how many an answer is ahead of where it may be: a little more frequent than the next one."""
        answers = self.given[kind, given]
        return answers[answer] - _DOMINANCE * max((n for word, n in answers.items() if word != answer), default=0)


__all__ = ["Balance"]
