# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What the importers of published annotations share: reading their files, and what to do about rows that are amiss.

A file of another format is refused at once. A bad row of a file of the right format is left out, counted and named:
published annotations have some, and a graph in ten thousand is no reason to have none.
"""

import json
import pickle
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from torchvision.ops import masks_to_boxes

from polyv.csqa.records import Appearance, Relation, SceneRecord, Split, first_fault
from polyv.processing.still_images import open_image


# As publishers call them.
SPLIT_NAMES: dict[str, Split] = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


_Row = TypeVar("_Row")


class Fault(NamedTuple):
    """A row that was left out: where it stands and why."""

    file: str
    row: str
    cause: str


class Faults:
    """Rows that were left out."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def add(self, file: Path, row: str, cause: str) -> None:
        """Note a row."""
        self.found.append(Fault(file.name, row, cause))

    @contextmanager
    def leaving_out(self, file: Path, row: str) -> Iterator[None]:
        """Note the row instead of raising ValueError, KeyError or FileNotFoundError."""
        try:
            yield
        except ValidationError as error:
            self.add(file, row, first_fault(error))
        except KeyError as error:
            self.add(file, row, f"it has no {error}")
        except (ValueError, FileNotFoundError) as error:
            self.add(file, row, str(error))

    def read(self, file: Path, where: str, rows: Iterable[Any], reader: Callable[[Any], _Row]) -> Iterator[_Row]:
        """What `reader` makes of each of the rows; those that it refuses are noted as `where[number]`."""
        for number, row in enumerate(rows):
            with self.leaving_out(file, f"{where}[{number}]"):
                yield reader(row)

    def to_text(self, most: int = 20) -> str:
        """How many there are of each file, and the first of them, a line each."""
        if not self.found:
            return "no row was left out"
        count = Counter(fault.file for fault in self.found)
        lines = [", ".join(f"{number} rows of {file} were left out" for file, number in sorted(count.items()))]
        lines += [f"{fault.file}, {fault.row}: {fault.cause}" for fault in self.found[:most]]
        more = len(self.found) - most
        return "\n".join([*lines, *([f"… and {more} more"] if more > 0 else [])])


Importer = Callable[[Path, Path | None, Faults], Iterator[SceneRecord]]
"""Reads the scene graphs of published annotations, one by one: of a file or a folder of them, the folder of the media (None: not
at hand), and what gathers the rows that are left out. FileNotFoundError and ValueError: a file is not there, or of another format."""


def read_json(path: Path, what: str, fits: Callable[[Any], bool]) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no JSON, or `fits` says that it is not `what`.
    """
    return _read(path, what, fits, lambda file: json.loads(file.read().decode("utf-8-sig")))


def read_pickle(path: Path, what: str, fits: Callable[[Any], bool]) -> Any:
    """The content of a pickle of containers, numbers, text and NumPy arrays; what calls anything else is refused.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no such pickle, or `fits` says that it is not `what`.
    """
    return _read(path, what, fits, lambda file: _Unpickler(file, encoding="latin1").load())


def _read(path: Path, what: str, fits: Callable[[Any], bool], read: Callable[[BinaryIO], Any]) -> Any:
    try:
        with path.open("rb") as file:
            content = read(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file. Expected {what}.") from None
    except Exception as error:  # of a broken pickle, anything
        raise ValueError(f"{path}: it cannot be read ({error}). Expected {what}.") from error
    if not fits(content):
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else ""
        came = f"the keys {keys or '(none)'}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{path}: got {came}. Expected {what}.")
    return content


# What NumPy 1 and 2 name in pickles of arrays, of protocols 2 to 5.
_ALLOWED = {
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("__builtin__", "bytes"),
    ("builtins", "bytes"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which annotations have no need of")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def label_boxes(file: Path, ids: Sequence[int], size: tuple[int, int]) -> dict[int, Appearance]:
    """How each object shows in a picture of which a pixel is the id of what it shows; `size` is (height, width).

    Raises:
        ValueError: it is no picture of one channel and of that size.
    """
    pixels = torch.from_numpy(np.array(open_image(file)).astype(np.int64))
    if tuple(pixels.shape) != size:
        raise ValueError(f"{file.name} is of shape {list(pixels.shape)}, expected {list(size)}")
    seen = [id for id in ids if (pixels == id).any()]
    boxes = masks_to_boxes(pixels == torch.tensor(seen).view(-1, 1, 1)).tolist() if seen else []
    places = {id: (x0, y0, x1 + 1, y1 + 1) for id, (x0, y0, x1, y1) in zip(seen, boxes, strict=True)}
    return {id: Appearance(box=places.get(id)) for id in ids}


def check_ends(subject: Hashable, target: Hashable, ids: Set[Hashable]) -> None:
    """Refuse a relation of what is no object, or of an object to itself. ValueError."""
    for id in (subject, target):
        if id not in ids:
            raise ValueError(f"{id} is the id of no object")
    if subject == target:
        raise ValueError(f"it relates {subject} to itself")


def in_time(relations: Iterable[Relation]) -> tuple[Relation, ...]:
    """Relations by when they start."""
    return tuple(sorted(relations, key=lambda relation: relation.start or 0.0))


def runs(told: Mapping[int, bool]) -> Iterator[tuple[int, int]]:
    """First and last key of each run of True."""
    for is_so, run in groupby(told, key=told.__getitem__):
        if is_so:
            keys = list(run)
            yield keys[0], keys[-1]


__all__ = [
    "SPLIT_NAMES",
    "Fault",
    "Faults",
    "Importer",
    "check_ends",
    "in_time",
    "label_boxes",
    "read_json",
    "read_pickle",
    "runs",
]
