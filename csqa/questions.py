# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""All question templates of CSQA, of four families."""

from polyv.csqa.object_questions import OBJECT_CONSISTENCY, OBJECT_CONTINUITY
from polyv.csqa.predicate_questions import (
    PREDICATE_CONSISTENCY,
    PREDICATE_CONTINUITY,
    PREDICATE_INTERACTION,
    PREDICATE_VIEW_DEPENDENCY,
)
from polyv.csqa.relation_questions import RELATION_INTERACTION, RELATION_VIEW_DEPENDENCY
from polyv.csqa.templates import Template


TEMPLATES: tuple[Template, ...] = (
    OBJECT_CONSISTENCY
    + PREDICATE_CONSISTENCY
    + OBJECT_CONTINUITY
    + PREDICATE_CONTINUITY
    + RELATION_INTERACTION
    + PREDICATE_INTERACTION
    + RELATION_VIEW_DEPENDENCY
    + PREDICATE_VIEW_DEPENDENCY
)
BY_NAME = {template.name: template for template in TEMPLATES}
