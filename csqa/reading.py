# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""From the words of a question back to its program: by templates, not by the program that it came from."""

import json
import re
from typing import Any

import numpy as np

from polyv.csqa.programs import QuestionProgram
from polyv.csqa.records import SceneRecord
from polyv.csqa.templates import ORDINALS, Scene, Template, refer


OBJECT_SLOTS = ("a", "b", "c")
PREDICATE_SLOTS = ("p", "q")
VIEW_SLOTS = ("view", "other")
_SHAPES: dict[str, str] = {}  # programs of templates as JSON, with the names of slots in place of what stands there


def slots_of(template: Template, question: str, record: SceneRecord) -> dict[str, str] | None:
    """The words that stand in the slots of a template's wording; None: it is no wording of it.

    Where one could part the words in several ways, those are taken that the scene holds.
    """
    names = {thing.name for thing in record.objects}
    predicates = {relation.predicate for relation in record.relations}
    known = {**dict.fromkeys(OBJECT_SLOTS, names), **dict.fromkeys(PREDICATE_SLOTS, predicates)}
    found = None
    for wording in template.wordings:
        if match := re.fullmatch(_pattern(wording, {}), question):
            found = match.groupdict()
            if any(word not in known.get(slot, (word,)) for slot, word in found.items()):
                match = re.fullmatch(_pattern(wording, known), question)
                found = match.groupdict() if match else found
    return found


def program_of(template: Template, slots: dict[str, str], record: SceneRecord) -> Any:
    """The program of the question that has these words in its slots.

    Raises:
        ValueError: the scene has no such thing, or gives no question of this template.
    """
    named = {thing.name: refer(thing).model_dump_json(exclude_none=True) for thing in record.objects}
    parts = {slot: _part(slot, word, named) for slot, word in slots.items() if slot != "under"}
    if template.name not in _SHAPES:
        for proposal in template.propose(Scene(record, np.random.default_rng(0))):
            those = {slot: _part(slot, word, named) for slot, word in proposal.slots.items() if slot != "under"}
            if those == parts:
                return proposal.program
            if len(set(those.values())) == len(those):
                shape = QuestionProgram(answer=proposal.program).model_dump_json(exclude_none=True)
                for slot, part in those.items():
                    end = r"\b" if part[-1].isdigit() else ""
                    shape = re.sub(re.escape(part) + end, f"<{slot}>", shape)
                _SHAPES[template.name] = shape
                break
        else:
            raise ValueError(f"the scene gives no question of {template.name}")
    text = re.sub(r"<(\w+)>", lambda found: parts[found[1]], _SHAPES[template.name])
    return QuestionProgram.model_validate_json(text).answer


def _part(slot: str, word: str, named: dict[str, str]) -> str:
    """What stands in a program, as JSON, for a word of its question. ValueError: nothing does."""
    if slot in OBJECT_SLOTS and word in named:
        return named[word]
    if slot in VIEW_SLOTS and word in ORDINALS:
        return f'"at":{ORDINALS.index(word)}'
    if slot in PREDICATE_SLOTS:
        return f'"predicate":{json.dumps(word)}'
    raise ValueError(f"{word!r} is no {'view' if slot in VIEW_SLOTS else 'object of the scene'}")


def _pattern(wording: str, known: dict[str, set[str]]) -> str:
    """A wording, with words in place of its slots (any, or those known), the same in the same one."""
    seen: set[str] = set()
    pattern = ""
    for part in re.split(r"(\{\w+\})", wording):
        name = part[1:-1]
        if not part.startswith("{"):
            pattern += re.escape(part)
        elif name in seen:
            pattern += f"(?P={name})"
        else:
            words = "|".join(map(re.escape, sorted(known[name]))) if name in known else ".+?"
            pattern += f"(?P<{name}>{words})"
            seen.add(name)
    return pattern


__all__ = ["OBJECT_SLOTS", "PREDICATE_SLOTS", "program_of", "slots_of"]
