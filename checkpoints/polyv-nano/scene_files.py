# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The single files of which a posed RGB-D scene on disk consists: depth, matrices, cameras, and their names."""

from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from .still_images import check_pixels, open_image, unreadable


def read_depth(path: Path, scale: float, max_pixels: int) -> np.ndarray:
    if path.suffix == ".npy":
        try:
            depth = open_memmap(path, mode="r")  # never a pickle, nor more than the file holds
        except Exception as error:
            raise unreadable(str(path), error, "not a NumPy array of numbers") from error
        if depth.ndim != 2 or depth.size == 0:
            raise ValueError(f"{path}: got shape {list(depth.shape)}, expected [h, w], neither of them 0.")
        if depth.dtype.kind not in "iuf":
            raise ValueError(f"{path}: got an array of {depth.dtype}, expected depth in numbers.")
        check_pixels(depth.shape[1], depth.shape[0], max_pixels, str(path))
        return (depth * np.float64(scale)).astype(np.float32)
    image = open_image(path, max_pixels)
    if not image.mode.startswith("I"):
        raise ValueError(f"{path}: a picture of mode {image.mode!r}, expected depth as one channel of 16 bits.")
    return (np.asarray(image) * np.float64(scale)).astype(np.float32)


def list_frames(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files of a ScanNet sub-folder by view name, in the order of their numbers."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder. Expected ScanNet's layout: color/, depth/, pose/, intrinsic/."
        )
    paths = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    return {path.stem: path for path in sorted(paths, key=_natural_order)}


def inside(folder: Path, name: Any) -> Path:
    """`folder / name`, unless it leads out. Lexical on purpose: the Hub's cache is made of links out of its folders."""
    if not isinstance(name, str):
        raise ValueError(
            f"{folder / 'transforms.json'}: {name!r} is no path. Expected a string, relative to the folder."
        )
    path = PureWindowsPath(name)  # it splits at both kinds of slash
    if path.root or path.drive or ".." in path.parts:
        raise ValueError(f"{folder / 'transforms.json'}: {name!r} leads out of the folder. Use paths relative to it.")
    return folder / name


def pinhole(camera: dict, name: str) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Intrinsics (and the size they are for, if told) of a nerfstudio frame laid over its file's common keys."""
    if camera.get("camera_model", "OPENCV") not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise ValueError(f"{name}: camera_model {camera['camera_model']!r} is not supported, only OPENCV and PINHOLE.")
    bent = [key for key in ("k1", "k2", "k3", "k4", "p1", "p2") if camera.get(key)]
    if bent:
        raise ValueError(
            f"{name}: lens distortion ({', '.join(bent)}) is not supported. Undistort pictures and depth first."
        )
    missing = [key for key in ("fl_x", "cx", "cy") if key not in camera]
    if missing:
        raise ValueError(
            f"{name}: no {', '.join(missing)}. Expected fl_x, fl_y, cx and cy, in the file or in each frame."
        )
    try:
        fx, fy, cx, cy = (float(camera.get(key, camera["fl_x"])) for key in ("fl_x", "fl_y", "cx", "cy"))
        size = (int(camera["w"]), int(camera["h"])) if "w" in camera and "h" in camera else None
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: fl_x, fl_y, cx, cy, w and h must be numbers ({error}).") from error
    return np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]], dtype=np.float64), size


def as_matrix(values: Any, name: str) -> np.ndarray:
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: not a matrix of numbers ({error}).") from error
    if matrix.shape != (4, 4):
        raise ValueError(f"{name}: got shape {list(matrix.shape)}, expected [4, 4].")
    return matrix


def read_matrix(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A text matrix; intrinsics may come as 4×4, of which the upper left 3×3 counts."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. ScanNet's layout needs it.")
    try:
        matrix = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except Exception as error:
        raise unreadable(str(path), error, "not a matrix of numbers") from error
    if matrix.shape not in (shape, (4, 4)):
        raise ValueError(f"{path}: got shape {list(matrix.shape)}, expected {list(shape)}.")
    return matrix[: shape[0], : shape[1]]


def write_matrix(path: Path, matrix: np.ndarray) -> None:
    np.savetxt(path, matrix, fmt="%.9g")


def _natural_order(path: Path) -> tuple[int, int, str]:
    """Sort key that puts frame 2 before frame 10, and names that are no numbers after those that are."""
    return (0, int(path.stem), path.name) if path.stem.isdecimal() else (1, 0, path.name)
