# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Of which predicates an annotation tells all there is, so that what it does not tell is not so.

Annotators write down what happens, and in the word that says most: who carries a thing holds it, too, and where things are
is told where it matters.
"""

from collections.abc import Iterable

from polyv.csqa.records import Relation


_PLACES = {
    "above",
    "behind",
    "below",
    "beside",
    "in",
    "in front of",
    "near",
    "next to",
    "on",
    "over",
    "toward",
    "under",
}
_IN_HAND = {"carrying", "catching", "eating", "drinking from", "grabbing", "hugging", "lifting", "picking", "throwing"}
# What other words say, too; None: what any may say.
_SAID_BY = {
    "holding": _IN_HAND,
    "standing on": {"jumping on", "running on", "stepping on", "walking on"},
    "walking on": {"running on", "stepping on"},
    "touching": None,
    "looking at": None,
}


def told_throughout(relations: Iterable[Relation]) -> tuple[str, ...]:
    """The predicates of a scene that mean neither a place nor what another one of them says, too."""
    told = {relation.predicate for relation in relations}
    return tuple(
        sorted(word for word in told - _PLACES if word not in _SAID_BY or not told & (_SAID_BY[word] or told))
    )


__all__ = ["told_throughout"]
