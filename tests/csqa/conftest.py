# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import pytest

from polyv.csqa.importers.world import read_world
from polyv.csqa.records import SceneRecord
from polyv.world.make import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A world of 80 small scenes of the validation split."""
    folder = tmp_path_factory.mktemp("csqa") / "world"
    return make_world(folder, scenes=80, seed=11, size=48, split="validation", progress=False)


@pytest.fixture(scope="session")
def records(world) -> list[SceneRecord]:
    return list(read_world(world))
