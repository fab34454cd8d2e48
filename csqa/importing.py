# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv csqa import`: scene graphs of published annotations as JSON Lines, for `polyv csqa build`."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from polyv.csqa.importers.action_genome import read_action_genome
from polyv.csqa.importers.annotations import Faults, Importer
from polyv.csqa.importers.pvsg import read_pvsg
from polyv.csqa.importers.threedssg import read_3dssg
from polyv.csqa.pairing import with_image
from polyv.csqa.records import SceneRecord, write_records


IMPORTERS: dict[str, Importer] = {"pvsg": read_pvsg, "action_genome": read_action_genome, "3dssg": read_3dssg}


def import_graphs(
    form: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    media: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[int, Faults]:
    """Write the scene graphs of published annotations, whole or not at all.

    A scene without a picture of its own gets the frame, or the view, in which most of its objects are in plain view.

    Args:
        form: a key of `IMPORTERS`.
        source: pvsg.json; or the folder "annotations" of Action Genome; or that of 3DSSG's and 3RScan's JSON files.
        out: JSON Lines to write; it must not exist.
        media: folder of the media; None: graphs without what only these tell.
        progress: show a progress bar.

    Returns:
        How many graphs there are, and the rows that were left out.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: `source`, or `media`, is not there.
        ValueError: `form` is none of them, a file is of another format, or there is no graph in it.
    """
    out, source = Path(out), Path(source)
    if out.exists():
        raise FileExistsError(f"out={out}: it exists already. Give another name, or remove it.")
    if form not in IMPORTERS:
        raise ValueError(f"form={form!r}: expected one of {', '.join(IMPORTERS)}.")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"out={out}: its folder is not there.")
    if media is not None and not Path(media).is_dir():
        raise FileNotFoundError(f"media={media}: no such folder.")
    faults = Faults()
    records = IMPORTERS[form](source, None if media is None else Path(media), faults)
    bar = tqdm(map(with_image, records), desc=f"import {form}", unit="scene", disable=not progress)
    count = write_records(out, _some(bar, source, faults))
    return count, faults


def _some(records: Iterable[SceneRecord], source: Path, faults: Faults) -> Iterator[SceneRecord]:
    """Each of them once; ValueError where there is none."""
    seen = set()
    for record in records:
        if record.scene_id in seen:
            faults.add(source, record.scene_id, "it stands there twice")
            continue
        seen.add(record.scene_id)
        yield record
    if not seen:
        raise ValueError(f"source={source}: no scene graph could be read: {faults.to_text()}.")


__all__ = ["IMPORTERS", "import_graphs"]
