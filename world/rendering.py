# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Pictures, metric depth and segmentation by casting rays with MuJoCo and shading them with NumPy. No OpenGL.

Lambert's law with one point light and its shadows, an ambient term that is brighter from above, a checkered floor that
fades into the horizon, a sky gradient. Anti-aliasing (five rays a pixel) only where neighbouring pixels show different surfaces.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from polyv.world.physics import Thing
from polyv.world.records import Box, Camera


FLOOR, SKY = -1, -2  # in a segmentation, beside the indices of things
FAR = 30.0  # metres: beyond it there is sky

PALETTE = {
    "red": (0.84, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.02),
    "yellow": (0.98, 0.87, 0.12),
    "green": (0.12, 0.60, 0.18),
    "cyan": (0.15, 0.80, 0.85),
    "blue": (0.10, 0.22, 0.85),
    "purple": (0.55, 0.16, 0.72),
    "black": (0.09, 0.09, 0.10),
    "brown": (0.55, 0.38, 0.24),
    "grey": (0.56, 0.57, 0.60),
}
_FLOORS = (  # two tones of tiles each
    ((0.80, 0.78, 0.74), (0.70, 0.68, 0.64)),
    ((0.76, 0.79, 0.81), (0.66, 0.69, 0.72)),
    ((0.78, 0.80, 0.74), (0.68, 0.70, 0.65)),
    ((0.84, 0.80, 0.76), (0.74, 0.69, 0.66)),
)
_HORIZON = np.array((0.88, 0.91, 0.94), np.float32)
_ZENITH = np.array((0.45, 0.65, 0.90), np.float32)
_TILE = 0.5  # metres
_HAZE = (5.0, 18.0)  # metres at which the floor begins and ends to fade
_AMBIENT, _SKYLIGHT, _DIFFUSE = 0.48, 0.07, 0.62  # from everywhere, more from above, from the light
_CREASE = 0.7  # neighbouring pixels whose normals have a smaller cosine lie on different facets
_SHADOW_GAP = 2e-3  # metres: a ray from the light that ends this close to its goal has reached it
_CONE_SLACK = 1e-5  # of a cosine in float32
_GROUP_0 = np.array([1, 0, 0, 0, 0, 0], np.uint8)
# A rotated grid: its four points, with the centre, tell steep from flat edges better than 2×2 do, and cost half of 3×3.
_SUBPIXELS = np.array([(-3, -1), (1, -3), (3, 1), (-1, 3)]) / 8


@dataclass(frozen=True)
class Look:
    """What varies in a scene's appearance: position of the light, tones and offset of the floor's tiles."""

    light: np.ndarray
    tones: np.ndarray
    offset: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Look":
        azimuth, reach = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 3.5)
        light = np.array([reach * np.cos(azimuth), reach * np.sin(azimuth), rng.uniform(5.0, 6.5)])
        return cls(light, np.array(_FLOORS[rng.integers(len(_FLOORS))], np.float32), rng.uniform(0, 2 * _TILE, 2))


@dataclass(frozen=True)
class Frame:
    """One rendered picture: `colour` uint8 `[H, W, 3]`, `depth` float32 `[H, W]` (metres along the camera's axis, 0
    for sky) and `segments` int16 `[H, W]` (index of the thing, `FLOOR` or `SKY`)."""

    colour: np.ndarray
    depth: np.ndarray
    segments: np.ndarray


class Renderer:
    """Renders the states of one scene.

    Args:
        model: as `physics.build_model` makes it of `things`.
        things: objects and furniture; a segmentation holds their indices.
        look: light and floor.
    """

    def __init__(self, model: mujoco.MjModel, things: tuple[Thing, ...], look: Look):
        self.model, self.things, self.look = model, things, look
        self._thing_of_geom = model.geom_bodyid.astype(np.int16) - 1  # the world's own geom is the floor: -1
        self._albedo = np.array([PALETTE[thing.colour] for thing in things], np.float32)
        self._data = mujoco.MjData(model)

    def pose_things(self, state: np.ndarray) -> mujoco.MjData:
        """Put the things where `state` (MuJoCo's qpos) says. The returned data is reused by the next call."""
        self._data.qpos[:] = state
        mujoco.mj_kinematics(self.model, self._data)
        return self._data

    def render(self, data: mujoco.MjData, camera: Camera) -> Frame:
        """What `camera` sees of the things as posed in `data`."""
        size = (camera.height, camera.width)
        rotation, eye = _pose(camera)
        rays = _rays(camera, _pixels(camera))
        colour, (geom, distance, normal), lit = self._shade(data, eye, rays @ rotation.T, camera)
        edge = _edges(geom.reshape(size), normal.reshape(*size, 3), lit.reshape(size)).ravel()
        if edge.any():
            around = (_pixels(camera)[edge][:, None] + _SUBPIXELS).reshape(-1, 2)
            fine = self._shade(data, eye, _rays(camera, around) @ rotation.T, camera)[0]
            colour[edge] = (colour[edge] + fine.reshape(-1, len(_SUBPIXELS), 3).sum(axis=1)) / (len(_SUBPIXELS) + 1)
        colour = np.clip(colour, 0, 1) * np.float32(255) + np.float32(0.5)
        depth = np.where(geom >= 0, distance * rays[:, 2], 0.0)
        return Frame(
            colour.astype(np.uint8).reshape(*size, 3),
            depth.astype(np.float32).reshape(size),
            self._segments(geom).reshape(size),
        )

    def visibility(self, data: mujoco.MjData, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Per thing: its visible pixels, and `fractions` of them. Cheaper than a picture."""
        rotation, eye = _pose(camera)
        segments = self._segments(self._cast(data, eye, _rays(camera, _pixels(camera)) @ rotation.T)[0])
        pixels = np.bincount(segments[segments >= 0], minlength=len(self.things))
        return pixels, self.fractions(data, camera, pixels)

    def fractions(self, data: mujoco.MjData, camera: Camera, pixels: np.ndarray) -> np.ndarray:
        """Visible part of each thing: `pixels` over those it would cover with nothing in front of it and a picture
        large enough to hold it."""
        return np.array(
            [
                count / max(self._alone(data, camera, index), count) if count else 0.0
                for index, count in enumerate(pixels.tolist())
            ]
        )

    def _alone(self, data: mujoco.MjData, camera: Camera, index: int) -> int:
        """Pixels that thing `index` covers on its own, also beyond the picture's edges."""
        rotation, eye = _pose(camera)
        body = index + 1
        geoms = np.flatnonzero(self.model.geom_bodyid == body)
        corners = np.concatenate(
            [
                data.geom_xpos[geom]
                + (self.model.geom_aabb[geom, :3] + _CORNERS * self.model.geom_aabb[geom, 3:])
                @ data.geom_xmat[geom].reshape(3, 3).T
                for geom in geoms
            ]
        )
        local = (corners - eye) @ rotation
        if local[:, 2].min() < 0.05:
            return camera.width * camera.height  # around the camera: its silhouette has no bounds
        k = np.array(camera.intrinsics)
        image = local[:, :2] / local[:, 2:] * k[[0, 1], [0, 1]] + k[:2, 2]
        low, high = np.floor(image.min(axis=0)), np.ceil(image.max(axis=0))
        grid = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True))), axis=-1)
        self.model.geom_group[:] = 1
        self.model.geom_group[geoms] = 0
        hit = self._cast_all(data, eye, _rays(camera, grid.reshape(-1, 2)) @ rotation.T, _GROUP_0)[0]
        return int((hit >= 0).sum())

    def _cast(self, data, origin, rays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First hits of unit rays `[N, 3]`: geom (-1 none) `[N]`, distance `[N]`, normal `[N, 3]`.

        Most rays pass all things by and reach the floor or nothing. Those, told by the cones in which the things'
        bounding spheres appear from `origin`, are solved here; MuJoCo gets the rest. This is three times as fast.
        """
        towards = data.geom_xpos[1:] - origin
        away = np.linalg.norm(towards, axis=1)
        cosine = np.sqrt(np.maximum(1 - (self.model.geom_rbound[1:] / away) ** 2, 0)) - _CONE_SLACK
        cosine[self.model.geom_rbound[1:] >= away] = -1 - _CONE_SLACK
        along = rays.astype(np.float32) @ (towards / away[:, None]).T.astype(np.float32)
        near = np.flatnonzero((along > cosine.astype(np.float32)).any(axis=1))
        with np.errstate(divide="ignore"):
            distance = -origin[2] / rays[:, 2]
        floor = (distance > 0) & (distance < FAR)
        geom = np.where(floor, np.int32(0), np.int32(-1))
        distance[~floor] = 0.0
        normal = np.zeros(rays.shape)
        normal[:, 2] = floor
        if len(near):
            geom[near], distance[near], normal[near] = self._cast_all(data, origin, rays[near])
        return geom, distance, normal

    def _cast_all(self, data, origin, rays, groups=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same by MuJoCo alone, among the geoms of `groups`."""
        count = len(rays)
        geom, distance, normal = np.empty(count, np.int32), np.empty(count), np.empty(3 * count)
        vectors = np.ascontiguousarray(rays).ravel()
        mujoco.mj_multiRay(self.model, data, origin, vectors, groups, True, -1, geom, distance, normal, count, FAR)
        geom[distance > FAR] = -1  # MuJoCo's cutoff leaves planes in
        return geom, distance, normal.reshape(count, 3)

    def _segments(self, geom: np.ndarray) -> np.ndarray:
        return np.where(geom < 0, np.int16(SKY), self._thing_of_geom[geom])

    def _shade(self, data, eye, rays, camera):
        """Colour float32 `[N, 3]`, what the rays `[N, 3]` hit, and whether the light reaches it (bool `[N]`)."""
        hits = self._cast(data, eye, rays)
        geom, distance, normal = hits
        index = np.flatnonzero(geom >= 0)
        points = eye + rays[index] * distance[index, None]
        lit = np.zeros(len(rays), bool)
        lit[index], incidence = self._light(data, points, normal[index])
        segments = self._segments(geom[index])
        floor = np.flatnonzero(segments == FLOOR)
        albedo = self._albedo[segments]
        albedo[floor] = self._tiles(points[floor], camera)
        brightness = np.float32(_AMBIENT) + np.float32(_SKYLIGHT) * normal[index, 2].astype(np.float32)
        brightness += np.float32(_DIFFUSE) * incidence * lit[index]
        albedo *= brightness[:, None]
        haze = np.clip((distance[index[floor]] - _HAZE[0]) / (_HAZE[1] - _HAZE[0]), 0, 1).astype(np.float32)
        albedo[floor] += (_HORIZON - albedo[floor]) * haze[:, None]
        colour = _sky(rays) if len(index) < len(rays) else np.empty(rays.shape, np.float32)
        colour[index] = albedo
        return colour, hits, lit

    def _tiles(self, points, camera) -> np.ndarray:
        """Colour `[N, 3]` of the floor's tiles, averaged over the patch that one pixel sees.

        The mean of a checkerboard over a rectangle is a product of two means of a square wave, and that is a
        difference of triangle waves: no ray needs to be cast for smooth tiles.
        """
        rotation, eye = _pose(camera)
        towards = (points - eye).astype(np.float32)
        depth = towards @ rotation[:, 2].astype(np.float32)
        slant = towards[:, :2] / towards[:, 2:]
        # One pixel along the picture's axis a moves the point by depth / focal * (a_xy - slant a_z).
        steps = sum(np.abs(a[:2] - slant * a[2]) for a in rotation.T[:2].astype(np.float32))
        width = np.maximum(steps * (depth / np.float32(camera.intrinsics[0][0] * _TILE))[:, None], np.float32(1e-3))
        place = ((points[:, :2] + self.look.offset) / _TILE).astype(np.float32)
        wave = (_triangle(place + width / 2) - _triangle(place - width / 2)) / width
        share = (np.float32(0.5) + np.float32(0.5) * wave[:, 0] * wave[:, 1])[:, None]
        return self.look.tones[0] * share + self.look.tones[1] * (1 - share)

    def _light(self, data, points, normals) -> tuple[np.ndarray, np.ndarray]:
        """Whether the light reaches each point (bool), and the cosine at which it comes (float32, 0 from behind).

        MuJoCo casts many rays from one origin, so shadows are found from the light's side.
        """
        rays = points - self.look.light
        length = np.linalg.norm(rays, axis=1)
        rays /= length[:, None]
        incidence = -np.einsum("nd,nd->n", rays, normals)
        geom, reached, _ = self._cast(data, self.look.light, rays)
        lit = (geom < 0) | (reached > length - _SHADOW_GAP)
        return lit & (incidence > 0), np.maximum(incidence, 0).astype(np.float32)


_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def visible_box(segments: np.ndarray, index: int) -> Box | None:
    """The box (x0, y0, x1, y1) that just holds the pixels of thing `index`; `picture.crop(box)` shows them."""
    mask = segments == index
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _pose(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    pose = np.array(camera.pose)
    return pose[:3, :3], np.ascontiguousarray(pose[:3, 3])


def _pixels(camera: Camera) -> np.ndarray:
    """Coordinates (u, v) of all pixels, row by row, `[H * W, 2]`."""
    return np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1).reshape(-1, 2)


def _rays(camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """Unit rays through `pixels` in the camera's own axes, `[N, 3]`."""
    k = np.array(camera.intrinsics)
    rays = np.ones((len(pixels), 3))
    rays[:, :2] = (pixels - k[:2, 2]) / k[[0, 1], [0, 1]]
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _edges(geom: np.ndarray, normal: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """Pixels `[H, W]` with a neighbour, right, left, above or below, of another surface, facet or brightness."""
    normal = normal.astype(np.float32)
    across = (geom[:, 1:] != geom[:, :-1]) | (lit[:, 1:] != lit[:, :-1])
    across |= np.einsum("hwd,hwd->hw", normal[:, 1:], normal[:, :-1]) < _CREASE
    down = (geom[1:] != geom[:-1]) | (lit[1:] != lit[:-1])
    down |= np.einsum("hwd,hwd->hw", normal[1:], normal[:-1]) < _CREASE
    edge = np.zeros(geom.shape, bool)
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _triangle(x: np.ndarray) -> np.ndarray:
    """The integral of a square wave of period 2 that is 1 on [0, 1) and -1 on [1, 2)."""
    return 1 - np.abs(x % 2 - 1)


def _sky(rays: np.ndarray) -> np.ndarray:
    height = np.clip(rays[:, 2:3] * 2, 0, 1).astype(np.float32)
    return _HORIZON + (_ZENITH - _HORIZON) * height
