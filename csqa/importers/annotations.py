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

import av
import numpy as np
from pydantic import ValidationError

from polyv.csqa.records import Appearance, Relation, SceneRecord, Split, first_fault
from polyv.processing.still_images import open_image
from polyv.processing.view_sampling import VIDEO_FORMATS


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
        """Note the row instead of raising what reading it raised."""
        try:
            yield
        except ValidationError as error:
            self.add(file, row, first_fault(error))
        except KeyError as error:
            self.add(file, row, f"it has no {error}")
        except (ValueError, OSError) as error:
            self.add(file, row, str(error))
        except (
            TypeError,
            AttributeError,
            LookupError,
            ArithmeticError,
            MemoryError,
        ) as error:  # of values of any kind
            self.add(file, row, f"it is of another form ({type(error).__name__}: {error})")

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


def with_keys(**kinds: type) -> Callable[[Any], bool]:
    """Whether something is an object with these keys, of these kinds."""
    return lambda it: isinstance(it, dict) and all(isinstance(it.get(key), kind) for key, kind in kinds.items())


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


class _Dtype:
    """Stands for numpy.dtype: numbers only, as bytes could not be taken for the addresses of objects then."""

    def __init__(self, code: Any, *_: Any):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"it holds an array of {code!r:.40}, expected numbers")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands for numpy.ndarray, with the arrays that `_Dtype` allows."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # of Python 2
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("it holds an array that is none of numbers")
        super().__setstate__((1, shape, dtype.dtype, by_columns, data))


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(bytes(data), dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


_STAND_INS: dict[str, Any] = {
    "_reconstruct": lambda *_: _Array((0,), "b"),
    "_frombuffer": _from_buffer,
    "scalar": lambda dtype, data: np.frombuffer(data, dtype.dtype)[0],
    "ndarray": _Array,
    "dtype": _Dtype,
}


class _Unpickler(pickle.Unpickler):
    """Calls nothing of NumPy's, which trusts its pickles, but what stands for it."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in _STAND_INS:
            return _STAND_INS[name]
        if (module, name) not in (("_codecs", "encode"), ("__builtin__", "bytes"), ("builtins", "bytes")):
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which annotations have no need of")
        return super().find_class(module, name)


def label_boxes(file: Path, ids: Sequence[int], size: tuple[int, int]) -> dict[int, Appearance]:
    """How each object shows in a picture of which a pixel is the id of what it shows; `size` is (height, width).

    Of pictures of 720 lines and more, every second pixel is looked at.

    Raises:
        ValueError: it is no picture of one channel and of that size.
    """
    pixels = np.asarray(open_image(file))
    if pixels.shape != size:
        raise ValueError(f"{file.name} is of shape {list(pixels.shape)}, expected {list(size)}")
    step = max(min(size) // 360, 1)
    pixels = pixels[::step, ::step].astype(np.intp)
    rows, columns = (np.zeros((length, max(pixels.max(), *ids) + 1), dtype=bool) for length in pixels.shape)
    rows[np.arange(len(rows))[:, None], pixels] = True
    columns[np.arange(len(columns)), pixels] = True
    looks = {}
    for id in ids:
        (down,), (across,) = rows[:, id].nonzero(), columns[:, id].nonzero()
        box = (across[0], down[0], across[-1] + 1, down[-1] + 1) if len(down) else None
        x0, y0, x1, y1 = np.multiply(box, step).tolist() if box else (0, 0, 0, 0)
        looks[id] = Appearance(box=(x0, y0, min(x1, size[1]), min(y1, size[0])) if box else None)
    return looks


def video_clock(path: Path) -> tuple[float, float]:
    """Frames a second and seconds of a video. ValueError: it does not tell, or is none."""
    with av.open(str(path), options={"format_whitelist": VIDEO_FORMATS}) as container:
        for stream in container.streams.video:
            fps, duration = float(stream.average_rate or 0), float((stream.duration or 0) * (stream.time_base or 0))
            if fps * duration:
                return fps, duration
    raise ValueError(f"{path.name} does not tell its frames a second, or its length")


def check_name(name: str) -> str:
    """The name of one file or folder, which leads nowhere else. ValueError."""
    if name in ("", ".", "..") or set(name) & set("/\\:\0"):
        raise ValueError(f"{name!r:.80} is no name of a file")
    return name


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


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of frames, (first, last), in order; those that touch or overlap as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


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
    "check_name",
    "in_time",
    "label_boxes",
    "merged",
    "read_json",
    "read_pickle",
    "runs",
    "video_clock",
    "with_keys",
]
