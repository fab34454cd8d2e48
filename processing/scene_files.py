# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The single files of which a posed RGB-D scene on disk consists: depth, matrices, cameras, and their names."""

from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from polyv.processing.still_images import check_pixels, open_image, unreadable


RSCAN_INFO = "_info.txt"
_SCANNET_FOLDERS = (("color", (".jpg", ".jpeg", ".png")), ("depth", (".png",)), ("pose", (".txt",)))


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


class SceneFiles(NamedTuple):
    """The files of a scene by view, in order; (where it stands, 3×3 intrinsics) of the cameras "color" and "depth"; (width,
    height) of the pictures, if that is told; whether they lie on their left side and are to be turned clockwise."""

    colour: dict[str, Path]
    depth: dict[str, Path]
    pose: dict[str, Path]
    cameras: dict[str, tuple[str, np.ndarray]]
    colour_size: tuple[int, int] | None = None
    lying: bool = False

    def tracked(self) -> dict[str, np.ndarray]:
        """The poses of those views that the tracker did not lose."""
        poses = {name: read_matrix(path, (4, 4)) for name, path in self.pose.items()}
        return {name: pose for name, pose in poses.items() if not np.isinf(pose).any()}


def scannet_files(folder: Path) -> SceneFiles:
    """The files of a folder of ScanNet's layout. FileNotFoundError where one is missing."""
    colour, depth, pose = (_list_frames(folder / name, suffixes) for name, suffixes in _SCANNET_FOLDERS)
    _check_views({folder / "color": colour, folder / "depth": depth, folder / "pose": pose})
    files = {name: folder / "intrinsic" / f"intrinsic_{name}.txt" for name in ("depth", "color")}
    cameras = {name: (str(file), read_matrix(file, (3, 3))) for name, file in files.items()}
    return SceneFiles(colour, depth, pose, cameras)


def rscan_files(folder: Path) -> SceneFiles:
    """The files of 3RScan's unpacked sequence.zip. FileNotFoundError where one is missing.

    As in github.com/WaldJohannaU/3RScan (FAQ.md; c++/rio_lib/src/rio_lib/sequence.cc). Its pictures were taken with a phone held
    upright and are stored lying: its own renderer turns what it draws (c++/rio_renderer/src/renderer.cc).
    """
    ends = (".color.jpg", ".depth.pgm", ".pose.txt")
    colour, depth, pose = (
        {path.name[: -len(end)]: path for path in sorted(folder.glob(f"frame-*{end}"))} for end in ends
    )
    _check_views({folder / f"frame-*{end}": frames for end, frames in zip(ends, (colour, depth, pose), strict=True)})
    info = folder / RSCAN_INFO
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    told = {key.strip(): value for key, _, value in (line.partition("=") for line in lines)}
    cameras = {}
    for camera in ("color", "depth"):
        key = f"m_calibration{camera.title()}Intrinsic"
        try:
            matrix = np.array(told.get(key, "").split(), dtype=np.float64).reshape(4, 4)[:3, :3]
        except ValueError as error:
            raise ValueError(f"{info}: {key} is {told.get(key)!r:.80}, expected 16 numbers.") from error
        cameras[camera] = (f"{info}: {key}", matrix)
    size = told.get("m_colorWidth", ""), told.get("m_colorHeight", "")
    if not all(number.strip().isdecimal() for number in size):
        raise ValueError(f"{info}: m_colorWidth and m_colorHeight are {size!r:.80}, expected two numbers.")
    return SceneFiles(colour, depth, pose, cameras, (int(size[0]), int(size[1])), lying=True)


# Columns: the axes of a camera that is turned clockwise (right, down, ahead), as the camera that was not has them.
_TURNED = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def turn_pose(pose: np.ndarray) -> np.ndarray:
    """Camera-to-world poses `[..., 4, 4]` of cameras whose pictures are turned clockwise."""
    return pose @ _TURNED


def turn_intrinsics(intrinsics: np.ndarray, height: int) -> np.ndarray:
    """Intrinsics `[..., 3, 3]` of pictures turned clockwise, which were `height` pixels high."""
    turned = np.zeros_like(intrinsics)
    turned[..., 0, 0], turned[..., 1, 1], turned[..., 2, 2] = intrinsics[..., 1, 1], intrinsics[..., 0, 0], 1
    turned[..., 0, 2], turned[..., 1, 2] = height - 1 - intrinsics[..., 1, 2], intrinsics[..., 0, 2]
    return turned


def _check_views(frames: dict[Path, dict[str, Path]]) -> None:
    """Refuse a scene without views, or with a view that lacks a file."""
    counts = ", ".join(f"{len(files)} {path.name}" for path, files in frames.items())
    everything = set().union(*frames.values())
    for path, files in frames.items():
        if missing := sorted(everything - files.keys()):
            raise FileNotFoundError(
                f"{path}: no file for view {missing[0]!r} ({counts} files). Every view needs all three."
            )
    if not everything:
        raise ValueError(f"{next(iter(frames)).parent}: it holds no view at all.")


def _list_frames(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
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
