# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Posed RGB-D views of a 3D scene: in memory, in the folder layouts of ScanNet and 3RScan, in a nerfstudio `transforms.json`.

Conventions: OpenCV cameras (x right, y down, z forward), camera-to-world poses, metres, and the *centre* of the
top-left pixel at (0, 0), as in OpenCV and ScanNet: a camera of width w that looks straight ahead has
cx = (w - 1) / 2. Depth is the z coordinate in the camera, not the length of the ray.
"""

import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polyv.processing.scene_checks import check_depths, check_intrinsics, check_pose, check_shapes
from polyv.processing.scene_files import (
    RSCAN_INFO,
    as_matrix,
    inside,
    pinhole,
    read_depth,
    rscan_files,
    scannet_files,
    turn_intrinsics,
    turn_pose,
    write_matrix,
)
from polyv.processing.still_images import MAX_IMAGE_PIXELS, open_image, short, to_rgb, unreadable
from polyv.processing.view_sampling import select_views


_MAX_STORED_DEPTH = 65.535  # metres: the largest 16-bit number of millimetres
_MIN_OVERLAP = 1e-6  # of one depth pixel's area: less is rounding
_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class PosedViews:
    """K views of one scene, all of one camera resolution. Build it by `from_arrays` or `load`.

    Attributes:
        images: uint8 `[K, H, W, 3]`, RGB.
        depths: float32 `[K, h, w]`, metres; NaN where there is no measurement. h×w may differ from H×W.
        intrinsics: float64 `[K, 3, 3]` for pixels of the **depth** map.
        poses: float64 `[K, 4, 4]`, camera-to-world.
        image_intrinsics: float64 `[K, 3, 3]` for pixels of the colour image. Colour and depth share the pose; where
            their cameras differ (ScanNet's do, slightly) this says which depth pixels a piece of the image shows.

    Raises:
        ValueError: on construction, naming what is wrong: shapes or counts that do not fit, a depth without any valid
            pixel, or with zeros in place of NaN, or with a median beyond 200 m (millimetres), a pose that is not a rigid
            motion, intrinsics that belong to another resolution.
    """

    images: np.ndarray
    depths: np.ndarray
    intrinsics: np.ndarray
    poses: np.ndarray
    image_intrinsics: np.ndarray

    def __post_init__(self):
        check_shapes(vars(self))
        check_depths(self.depths)
        for view in range(len(self)):
            check_pose(self.poses[view], f"poses[{view}]")
            check_intrinsics(self.intrinsics[view], self.depths.shape[1:], f"intrinsics[{view}] (of the depth map)")
            check_intrinsics(
                self.image_intrinsics[view], self.images.shape[1:3], f"image_intrinsics[{view}] (of the colour image)"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"PosedViews(images={self.images.shape}, depths={self.depths.shape})"

    @classmethod
    def from_arrays(cls, images, depths, intrinsics, poses, image_intrinsics=None) -> "PosedViews":
        """Build from arrays or sequences of arrays (NumPy, torch on CPU, PIL pictures).

        Args:
            images: `[K, H, W, 3]` uint8; PIL pictures may be of any mode.
            depths: `[K, h, w]` metres, floating point; zero, negative, NaN and infinite mean "not measured".
            intrinsics: `[K, 3, 3]`, or `[3, 3]` for all views, in pixels of the depth map (centre of the first pixel
                at 0).
            poses: `[K, 4, 4]` camera-to-world, OpenCV axes.
            image_intrinsics: the same for the colour image. Left out, colour and depth cover the same field of view.

        Raises:
            TypeError: `images` are not uint8, or `depths` are integers (millimetres?) instead of metres.
            ValueError: as the class says.
        """
        for name, values in (("images", images), ("depths", depths)):
            if not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
                raise TypeError(f"{name}: got {type(values).__name__}, expected an array or a list, one entry a view.")
        images = _stack(
            "images", [to_rgb(x) if isinstance(x, Image.Image) else x for x in images], (0, 0, 0, 3), np.uint8
        )
        depths = _stack("depths", depths, (0, 0, 0), np.float32)
        if images.dtype != np.uint8:
            raise TypeError(f"images: got {images.dtype}, expected uint8 RGB in 0..255.")
        if not np.issubdtype(depths.dtype, np.floating):
            raise TypeError(f"depths: got {depths.dtype}, expected metres as floats. Divide millimetres by 1000.")
        depths = depths.astype(np.float32)
        with np.errstate(invalid="ignore"):
            depths = np.where(np.isfinite(depths) & (depths > 0), depths, np.float32(np.nan))
        intrinsics = _per_view("intrinsics", intrinsics, len(images))
        if image_intrinsics is None and depths.ndim == 3 and images.ndim == 4 and depths.size:
            image_intrinsics = _scale_intrinsics(intrinsics, depths.shape[1:], images.shape[1:3])
        elif image_intrinsics is None:
            image_intrinsics = intrinsics  # of no matter: the shapes are about to be refused
        image_intrinsics = _per_view("image_intrinsics", image_intrinsics, len(images))
        return cls(images, depths, intrinsics, _array("poses", poses, np.float64), image_intrinsics)

    @classmethod
    def load(
        cls, path: str | os.PathLike, num_views: int | None = None, max_image_pixels: int = MAX_IMAGE_PIXELS
    ) -> "PosedViews":
        """Read a folder of ScanNet's or 3RScan's layout, a folder holding a `transforms.json`, or such a file itself.

        `num_views` keeps at most that many views, spread evenly over the trajectory; only those are decoded.

        Raises:
            FileNotFoundError: nothing is there.
            ValueError: it is none of these, or its content is refused (see `from_folder`, `from_transforms`).
        """
        path = Path(path)
        try:
            there = path.exists()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise unreadable(f"scene {path}", error) from error
            there = False
        if not there:
            raise FileNotFoundError(f"scene {short(str(path))}: no such file or folder.")
        if path.is_file():
            return cls.from_transforms(path, num_views, max_image_pixels)
        if (path / "transforms.json").is_file():
            return cls.from_transforms(path / "transforms.json", num_views, max_image_pixels)
        if any((path / name).exists() for name in ("color", "depth", RSCAN_INFO)):
            return cls.from_folder(path, num_views, max_image_pixels)
        raise ValueError(
            f"scene {path}: expected ScanNet's layout (color/, depth/, pose/, intrinsic/), 3RScan's (_info.txt, frame-*) or "
            "a transforms.json with depth."
        )

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike, num_views: int | None = None, max_image_pixels: int = MAX_IMAGE_PIXELS
    ) -> "PosedViews":
        """Read ScanNet's layout: `color/N.jpg|png`, `depth/N.png` (16-bit millimetres), `pose/N.txt` (4×4
        camera-to-world), `intrinsic/intrinsic_color.txt` and `intrinsic/intrinsic_depth.txt` (4×4 or 3×3); or that of
        3RScan's unpacked `sequence.zip`: `_info.txt` and `frame-N.color.jpg`, `frame-N.depth.pgm`, `frame-N.pose.txt`.

        Views that the tracker lost (a pose full of -inf) are skipped with a warning.

        Raises:
            FileNotFoundError: an intrinsics file, or the depth or pose of a view, is missing.
            ValueError: no view is left, or a file's content is refused.
        """
        folder = Path(folder)
        files = rscan_files(folder) if (folder / RSCAN_INFO).is_file() else scannet_files(folder)
        poses = files.tracked()
        if len(poses) < len(files.pose):
            message = f"{folder}: {len(files.pose) - len(poses)} of {len(files.pose)} views have no pose (lost by the tracker)"
            if not poses:
                raise ValueError(f"{message}; no view is left.")
            warnings.warn(f"{message}; they are skipped.", stacklevel=2)
        tracked = list(poses)
        chosen = [tracked[index] for index in select_views(len(tracked), num_views)]
        for name in chosen:
            check_pose(poses[name], str(files.pose[name]))
        views = _from_files(
            [files.colour[name] for name in chosen],
            [files.depth[name] for name in chosen],
            np.stack([poses[name] for name in chosen]),
            [files.cameras["color"]] * len(chosen),
            files.cameras["depth"],
            sizes=[files.colour_size] * len(chosen),
            max_image_pixels=max_image_pixels,
        )
        return views._turned() if files.lying else views

    @classmethod
    def from_transforms(
        cls, path: str | os.PathLike, num_views: int | None = None, max_image_pixels: int = MAX_IMAGE_PIXELS
    ) -> "PosedViews":
        """Read a nerfstudio `transforms.json` whose frames name a `depth_file_path`.

        Its OpenGL camera axes become OpenCV's, and its pixel centres at (0.5, 0.5) move to (0, 0). Depth (PNG of 16
        bits, or NPY) is multiplied by `depth_unit_scale_factor`, nerfstudio's own default 0.001 (millimetres).

        Raises:
            FileNotFoundError: a named file is missing.
            ValueError: no JSON, a frame without depth or pose, a path that leads out of the folder, a camera with
                lens distortion, pictures of another size than `w` and `h` say, or as the class says.
        """
        path = Path(path)
        try:
            transforms = json.loads(path.read_text(encoding="utf-8"))
        except Exception as error:
            raise unreadable(str(path), error, "not a nerfstudio transforms.json") from error
        frames = transforms.get("frames") if isinstance(transforms, dict) else None
        if not isinstance(frames, list) or not frames:
            raise ValueError(f"{path}: not a nerfstudio transforms.json: it has no list of 'frames'.")
        for index, frame in enumerate(frames):
            if not isinstance(frame, dict):
                raise ValueError(
                    f"{path}: frames[{index}] is {frame!r:.50}, expected an object of three keys or more."
                )
            for key in ("file_path", "depth_file_path", "transform_matrix"):
                if key not in frame:
                    raise ValueError(
                        f"{path}: frames[{index}] has no {key!r}. Every view needs image, depth and pose."
                    )
        frames = [frames[index] for index in select_views(len(frames), num_views)]
        names = [f"{path}: {frame['file_path']}" for frame in frames]
        poses = []
        for name, frame in zip(names, frames, strict=True):
            pose = as_matrix(frame["transform_matrix"], f"{name}: transform_matrix")
            check_pose(pose, f"{name}: transform_matrix")
            poses.append(pose @ _OPENGL_TO_OPENCV)
        cameras = [pinhole({**transforms, **frame}, name) for name, frame in zip(names, frames, strict=True)]
        return _from_files(
            [inside(path.parent, frame["file_path"]) for frame in frames],
            [inside(path.parent, frame["depth_file_path"]) for frame in frames],
            np.stack(poses),
            [(name, intrinsics) for name, (intrinsics, _) in zip(names, cameras, strict=True)],
            depth_scale=_depth_scale(path, transforms.get("depth_unit_scale_factor", 0.001)),
            sizes=[size for _, size in cameras],
            max_image_pixels=max_image_pixels,
        )

    def _turned(self) -> "PosedViews":
        """The same views, each turned clockwise."""
        images, depths = (np.rot90(pictures, -1, (1, 2)) for pictures in (self.images, self.depths))
        intrinsics = turn_intrinsics(self.intrinsics, self.depths.shape[1])
        image_intrinsics = turn_intrinsics(self.image_intrinsics, self.images.shape[1])
        return PosedViews(images, depths, intrinsics, turn_pose(self.poses), image_intrinsics)

    def select(self, num_views: int | None) -> "PosedViews":
        """At most `num_views` of the views, spread evenly over the trajectory."""
        chosen = select_views(len(self), num_views)
        return self if len(chosen) == len(self) else PosedViews(*(value[chosen] for value in vars(self).values()))

    def unproject(self) -> np.ndarray:
        """World coordinates of every depth pixel's centre: float32 `[K, h, w, 3]`, metres, NaN where not measured."""
        x, y = self._slopes()
        x, y = x.astype(np.float32)[:, None, :], y.astype(np.float32)[:, :, None]
        camera = np.stack([self.depths * x, self.depths * y, self.depths], axis=-1)
        rotation, translation = self.poses[:, :3, :3].astype(np.float32), self.poses[:, :3, 3].astype(np.float32)
        return np.einsum("kij,khwj->khwi", rotation, camera) + translation[:, None, None]

    def token_coordinates(self, rows: int, columns: int) -> np.ndarray:
        """Mean world coordinates of each cell of a rows×columns grid laid over the colour images.

        A resize of the whole image maps areas linearly, so each merged visual token shows one cell of that grid.
        Every measured depth pixel counts by the share of its area that falls into the cell, found through both
        cameras' intrinsics (SPEC §2: "average over the valid-depth pixels of each merged visual token").

        Returns:
            float32 `[K, rows, columns, 3]`, metres; NaN where a cell holds no measured pixel.
        """
        cameras = np.stack([self.intrinsics, self.image_intrinsics], axis=1)
        camera = np.empty((len(self), rows, columns, 3), dtype=np.float32)
        weight = np.empty((len(self), rows, columns, 1), dtype=np.float32)
        for view, (x, y) in enumerate(zip(*self._slopes(), strict=True)):
            if view == 0 or (cameras[view] != cameras[view - 1]).any():
                down = _overlap(self.intrinsics[view, 1], self.image_intrinsics[view, 1], 1, self, rows)
                across = _overlap(self.intrinsics[view, 0], self.image_intrinsics[view, 0], 0, self, columns)
                right = np.concatenate([across, across * x]).astype(np.float32).T  # [w, 2 · columns]
                # Each row of cells sees a band of the depth map; the other rows weigh nothing.
                bands = [slice(seen.argmax(), seen.argmax() + seen.sum()) for seen in down > 0]
                stacked = np.stack([down, down * y], axis=1).astype(np.float32)  # [rows, 2, h]
                weights = [row[:, band] for row, band in zip(stacked, bands, strict=True)]
            # Unprojection is linear in depth, x and y: the mean of points needs no array of points. Products give the
            # sums of depth times x, times y, and times 1, one cell a number; in the depth's own precision.
            sums = np.empty((rows, 3, len(x)), dtype=np.float32)
            for row, band in enumerate(bands):
                depth = self.depths[view, band]
                np.matmul(weights[row], np.fmax(depth, np.float32(0)), out=sums[row, :2])  # NaN counts as 0
                np.matmul(weights[row][0], (depth > 0).astype(np.float32), out=sums[row, 2])
            sums = (sums.reshape(3 * rows, -1) @ right).reshape(rows, 3, 2 * columns)
            camera[view] = np.stack([sums[:, 0, columns:], sums[:, 1, :columns], sums[:, 0, :columns]], axis=-1)
            weight[view, ..., 0] = sums[:, 2, :columns]
        camera /= np.where(weight > _MIN_OVERLAP, weight, np.float32(np.nan))
        points = camera.reshape(len(self), -1, 3) @ self.poses[:, :3, :3].swapaxes(1, 2) + self.poses[:, None, :3, 3]
        return points.astype(np.float32).reshape(camera.shape)

    def depths_in_millimetres(self) -> np.ndarray:
        """The depth maps as files hold them: uint16 `[K, h, w]`, 0 where there is no measurement or it is beyond 65.535 m."""
        near = np.where(self.depths <= _MAX_STORED_DEPTH, self.depths, 0)  # NaN is not
        return (near * 1000.0).round().astype(np.uint16)

    def _slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """x / z of each column `[K, w]` and y / z of each row `[K, h]` of the depth maps, at pixel centres."""
        rows, columns = (np.arange(size) for size in self.depths.shape[1:])
        k = self.intrinsics[..., None]
        return (columns - k[:, 0, 2]) / k[:, 0, 0], (rows - k[:, 1, 2]) / k[:, 1, 1]

    def save(self, folder: str | os.PathLike) -> None:
        """Write ScanNet's layout, with PNG colour. The folder appears complete or not at all.

        Depth is stored in whole millimetres; what lies beyond 65.535 m does not fit and is stored as not measured.

        Raises:
            FileExistsError: `folder` exists.
            ValueError: the views have different intrinsics, for which that layout has no place.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{folder}: exists already. Remove it first or choose another name.")
        for name, matrices in (("intrinsics", self.intrinsics), ("image_intrinsics", self.image_intrinsics)):
            if not np.allclose(matrices, matrices[:1]):
                raise ValueError(f"{name}: views differ, but ScanNet's layout holds one camera for all of them.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name in ("color", "depth", "pose", "intrinsic"):
                (temporary / name).mkdir()
            write_matrix(temporary / "intrinsic" / "intrinsic_depth.txt", _as_4x4(self.intrinsics[0]))
            write_matrix(temporary / "intrinsic" / "intrinsic_color.txt", _as_4x4(self.image_intrinsics[0]))
            for view, depth in enumerate(self.depths_in_millimetres()):
                Image.fromarray(self.images[view]).save(temporary / "color" / f"{view}.png")
                Image.fromarray(depth).save(temporary / "depth" / f"{view}.png")
                write_matrix(temporary / "pose" / f"{view}.txt", self.poses[view])
            temporary.chmod(0o755)  # mkdtemp's 0700 would make the scene private to its writer
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _scale_intrinsics(intrinsics: np.ndarray, old: tuple[int, ...], new: tuple[int, ...]) -> np.ndarray:
    """Intrinsics after a resize from `old` to `new` (height, width). Pixel *edges* scale; centres sit half a pixel in."""
    scale = np.array([new[1] / old[1], new[0] / old[0], 1.0])[:, None]
    half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    return (intrinsics + half) * scale - half


def _overlap(depth_row: np.ndarray, image_row: np.ndarray, axis: int, views: PosedViews, cells: int) -> np.ndarray:
    """Share of each depth pixel (of a column, or row) that lies in each of `cells` equal parts of the image.

    `depth_row` and `image_row` are the intrinsics' rows of this axis (0: x, 1: y), each with one focal length and one
    principal point. Both cameras share the pose, so that pixels correspond linearly. Returns float64 `[cells, pixels]`.
    """
    depth_size, image_size = views.depths.shape[2 - axis], views.images.shape[2 - axis]
    edges = np.arange(depth_size + 1) - 0.5
    edges = (edges - depth_row[2]) / depth_row[axis] * image_row[axis] + image_row[2]
    edges = (edges + 0.5) / image_size * cells
    cell = np.arange(cells)[:, None]
    shared = np.minimum(edges[1:], cell + 1) - np.maximum(edges[:-1], cell)
    return shared.clip(min=0) / (edges[1] - edges[0])


def _from_files(
    colour: list[Path],
    depth: list[Path],
    poses: np.ndarray,
    cameras: list[tuple[str, np.ndarray]],
    depth_camera: tuple[str, np.ndarray] | None = None,
    *,
    depth_scale: float = 0.001,
    sizes: list[tuple[int, int] | None] | None = None,
    max_image_pixels: int,
) -> PosedViews:
    """Decode the files. `cameras` are intrinsics of the colour images, each with the name of where they stand;
    `depth_camera` is the depth maps', None where they cover the colour images' field of view.
    """
    # As stored: intrinsics and depth know nothing of an EXIF mark that would turn the picture.
    images = [np.asarray(to_rgb(open_image(path, max_image_pixels))) for path in colour]
    depths = [read_depth(path, depth_scale, max_image_pixels) for path in depth]
    for path, picture in zip([*colour, *depth], [*images, *depths], strict=True):
        first = images[0] if picture.ndim == 3 else depths[0]
        if picture.shape != first.shape:
            raise ValueError(
                f"{path}: {picture.shape[1]}x{picture.shape[0]} pixels, but the first view has "
                f"{first.shape[1]}x{first.shape[0]}. All views must have one size."
            )
    for path, size in zip(colour, sizes or [None] * len(colour), strict=True):
        if size is not None and size != images[0].shape[1::-1]:
            raise ValueError(
                f"{path}: {images[0].shape[1]}x{images[0].shape[0]} pixels, but its intrinsics are for {size[0]}x{size[1]}: "
                "intrinsics of another resolution."
            )
    for name, matrix in cameras:
        check_intrinsics(matrix, images[0].shape[:2], name)
    image_intrinsics = np.stack([matrix for _, matrix in cameras])
    if depth_camera is None:
        intrinsics = _scale_intrinsics(image_intrinsics, images[0].shape[:2], depths[0].shape)
    else:
        name, intrinsics = depth_camera
        check_intrinsics(intrinsics, depths[0].shape, name)
    try:
        return PosedViews.from_arrays(images, depths, intrinsics, poses, image_intrinsics)
    except ValueError as error:  # only the depth is left to be refused, by all views together
        others = f" and {len(depth) - 1} more" if len(depth) > 1 else ""
        raise ValueError(f"{depth[0]}{others}: {error}") from error


def _depth_scale(path: Path, value: Any) -> float:
    """Metres of one step of stored depth."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise ValueError(
            f"{path}: depth_unit_scale_factor is {value!r:.50}, expected metres in one step, such as 0.001."
        )
    return float(value)


def _array(name: str, value: Any, dtype: type | None = None) -> np.ndarray:
    try:
        return np.asarray(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # torch's own are RuntimeErrors
        raise TypeError(f"{name}: got {type(value).__name__}, which is no array of numbers ({error}).") from error


def _stack(name: str, values: Any, empty: tuple[int, ...], dtype: type) -> np.ndarray:
    arrays = [_array(name, value) for value in values]
    for index, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"{name}[{index}]: got shape {list(array.shape)}, but {name}[0] has {list(arrays[0].shape)}. "
                "All views must have one size."
            )
    return np.stack(arrays) if arrays else np.empty(empty, dtype)


def _per_view(name: str, matrices: Any, views: int) -> np.ndarray:
    matrices = _array(name, matrices, np.float64)
    if matrices.ndim not in (2, 3) or matrices.shape[-2:] != (3, 3):
        raise ValueError(
            f"{name}: got shape {list(matrices.shape)}, expected [K, 3, 3], or [3, 3] for all views. "
            "Of 4x4 camera matrices pass the upper left 3x3."
        )
    return np.repeat(matrices[None], views, axis=0) if matrices.ndim == 2 else matrices


def _as_4x4(intrinsics: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = intrinsics
    return matrix
