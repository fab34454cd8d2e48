# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What `PosedViews` refuses: shapes that do not fit, depth that is no metric depth, poses and cameras that are none."""

from typing import Any

import numpy as np


_PRINCIPAL_POINT_TOLERANCE = 0.15  # of the picture's size; a factor of 1.3 between two resolutions already exceeds it
# Metres. Depth cameras see from about 0.2 m, which is 200 in millimetres; a drone may fly 120 m high.
_LARGEST_MEDIAN_DEPTH = 200
_FURTHEST = 1e8  # metres: more than any place on Earth has in any system of coordinates


def check_shapes(views: dict[str, np.ndarray]) -> None:
    arrays = {name: np.shape(value) for name, value in views.items()}
    expected: dict[str, tuple[Any, ...]] = {
        "images": ("K", "H", "W", 3),
        "depths": ("K", "h", "w"),
        "intrinsics": ("K", 3, 3),
        "poses": ("K", 4, 4),
        "image_intrinsics": ("K", 3, 3),
    }
    for name, shape in arrays.items():
        want = expected[name]
        if len(shape) != len(want) or any(isinstance(w, int) and w != s for s, w in zip(shape, want, strict=True)):
            raise ValueError(f"{name}: got shape {list(shape)}, expected [{', '.join(map(str, want))}].")
        if shape[0] != arrays["images"][0]:
            raise ValueError(f"{name}: got {shape[0]} views, but there are {arrays['images'][0]} images.")
        if 0 in shape:
            raise ValueError(f"{name}: shape {list(shape)} is empty; at least one view with pixels is needed.")


def check_depths(depths: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(depths) & (depths > 0)
    if not valid.any():
        raise ValueError(
            f"depths: none of the {depths.size} values of {len(depths)} views is valid (finite and above 0). "
            "Give metric depth, or pass the pictures as images."
        )
    if not (valid | np.isnan(depths)).all():
        raise ValueError(
            'depths: holds zero, negative or infinite values, but here NaN is what means "not measured". '
            "PosedViews.from_arrays converts them."
        )
    if (far := depths[valid].max()) > _FURTHEST:
        raise ValueError(
            f"depths: holds {far:.3g} m. Expected metres, at most {_FURTHEST:.0e}, or NaN where not measured."
        )
    middle = np.median(depths[valid])
    if middle > _LARGEST_MEDIAN_DEPTH:
        raise ValueError(
            f"depths: half of the values lie beyond {middle:.0f} m: these look like millimetres. Divide them by 1000 (in a "
            "transforms.json: set depth_unit_scale_factor to 0.001)."
        )


def check_pose(pose: np.ndarray, name: str) -> None:
    rotation = pose[:3, :3]
    if not np.isfinite(pose).all():
        raise ValueError(f"{name}: holds NaN or infinity: this view has no pose. Leave the view out.")
    if (far := np.abs(pose[:3, 3]).max()) > _FURTHEST:
        raise ValueError(
            f"{name}: its camera stands {far:.3g} m from the origin. Expected metres, at most {_FURTHEST:.0e}."
        )
    if not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-6):
        raise ValueError(f"{name}: its last row is {pose[3].tolist()}, expected [0, 0, 0, 1].")
    error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if error > 1e-3 or np.linalg.det(rotation) < 0:
        raise ValueError(
            f"{name}: not a rigid motion (RᵀR is off the identity by {error:.2g}, det R = {np.linalg.det(rotation):.3g}). "
            "Expected a rotation and a translation, camera-to-world, without scale or mirroring."
        )


def check_intrinsics(intrinsics: np.ndarray, size: tuple[int, ...], name: str) -> None:
    """A true camera's principal point lies near the middle of its picture. That is what tells intrinsics of another
    resolution, since focal lengths alone may have any ratio to the size."""
    (fx, skew, cx), (zero, fy, cy), last = intrinsics
    if not np.isfinite(intrinsics).all() or fx <= 0 or fy <= 0 or zero != 0 or not np.allclose(last, [0, 0, 1]):
        raise ValueError(
            f"{name}: got {intrinsics.tolist()}, expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], fx, fy > 0."
        )
    if abs(skew) > 1e-6 * fx:
        raise ValueError(f"{name}: skew {skew} is not supported, only [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].")
    height, width = size
    offset = np.abs([(cx + 0.5) / width - 0.5, (cy + 0.5) / height - 0.5]).max()
    if offset > _PRINCIPAL_POINT_TOLERANCE:
        raise ValueError(
            f"{name}: the principal point ({cx:.1f}, {cy:.1f}) is far from the middle of {width}x{height} pixels: these are "
            "intrinsics of another resolution. Scale fx, fy, cx, cy to the picture they belong to."
        )
