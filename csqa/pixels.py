# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Answers about the simulated world, derived a second time: from the text of the question and from rendered pixels.

Nothing here comes from the programs, the executor or the scene graph. A scene is built again from its seed and rendered:
which thing each pixel shows, its depth, and where the camera stood. Objects are what their pixels show, in space;
what a question asks about is read from its words. So an error in a graph, a program, a wording or the executor shows here as a difference.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from polyv.csqa.records import Split
from polyv.world.cameras import camera
from polyv.world.rendering import Renderer
from polyv.world.scenes import build


# Of an object's pixels in a frame, how many must lie outside of where it was, and how far (metres), for it to have moved: what
# rests never leaves its box, and half of what moves by its own radius stays in it.
_OUTSIDE, _SLACK = 0.03, 0.05
# Metres around a thing, within which what carries it shows; and above the floor, from where on it carries.
_AROUND, _LIFTED = 0.06, 0.05
# Metres: what has gone this far has set out.
_SET_OUT = 0.25

Slots = dict[str, str]


class Pixels:
    """The rendered pictures of one scene."""

    def __init__(self, split: Split, seed: int, index: int, size: int):
        scene = build(split, seed, index)
        self._scene, self._size = scene, size
        self._renderer = Renderer(scene.model, scene.things, scene.look)
        self.names = [f"{thing.colour} {thing.category}" for thing in scene.things]

    def thing(self, name: str) -> int:
        """The number that an object's pixels bear. ValueError if none, or several, are called so."""
        if self.names.count(name) != 1:
            raise ValueError(f"{self.names.count(name)} things are called {name}")
        return self.names.index(name)

    def name(self, thing: int) -> str:
        return self.names[thing]

    @cached_property
    def image(self) -> "_Picture":
        return self._shoot(0, self._scene.image_pose)

    @cached_property
    def views(self) -> list["_Picture"]:
        return [self._shoot(0, pose) for pose in self._scene.view_poses]

    @cached_property
    def frames(self) -> list["_Picture"]:
        return [self._shoot(frame, pose) for frame, pose in enumerate(self._scene.video_poses)]

    @cached_property
    def objects(self) -> list[int]:
        """All but furniture."""
        return [number for number, thing in enumerate(self._scene.things) if not thing.is_furniture]

    def cloud(self, thing: int) -> np.ndarray:
        """All points of an object that the views show, at the start, [N, 3]."""
        return np.concatenate([view.points(thing) for view in self.views])

    def centre(self, thing: int) -> np.ndarray:
        """Middle of the box around them: the views look from all sides."""
        cloud = self.cloud(thing)
        return (cloud.min(axis=0) + cloud.max(axis=0)) / 2

    def moved(self, thing: int) -> bool:
        """Whether in some frame it shows where it was not at the start."""
        cloud = self.cloud(thing)
        low, high = cloud.min(axis=0) - _SLACK, cloud.max(axis=0) + _SLACK
        for frame in self.frames:
            points = frame.points(thing)
            if len(points) and ((points < low) | (points > high)).any(axis=1).mean() > _OUTSIDE:
                return True
        return False

    def path(self, thing: int) -> np.ndarray:
        """Where it shows in the frames: the middle of the box around its points, [frames that show it, 3]."""
        clouds = [points for frame in self.frames if len(points := frame.points(thing))]
        return np.array([(points.min(axis=0) + points.max(axis=0)) / 2 for points in clouds])

    def shown(self, thing: int) -> list[int]:
        """Frames that show it."""
        return [number for number, frame in enumerate(self.frames) if (frame.segments == thing).any()]

    def _shoot(self, frame: int, pose: np.ndarray) -> "_Picture":
        view = camera(pose, self._size)
        drawn = self._renderer.render(self._renderer.pose_things(self._scene.motion.states[frame]), view)
        return _Picture(drawn.segments, drawn.depth, np.array(view.intrinsics), np.array(view.pose))


class _Picture:
    def __init__(self, segments: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray):
        self.segments, self.depth, self.intrinsics, self.pose = segments, depth, intrinsics, pose

    def points(self, thing: int) -> np.ndarray:
        """What its pixels show of a thing, in the world, [N, 3]."""
        v, u = np.nonzero(self.segments == thing)
        rays = np.linalg.inv(self.intrinsics) @ np.stack([u, v, np.ones_like(u)])
        in_camera = rays * self.depth[v, u]
        return (self.pose[:3, :3] @ in_camera).T + self.pose[:3, 3]

    def column(self, thing: int) -> float:
        """Middle of the columns that show it."""
        columns = np.nonzero((self.segments == thing).any(axis=0))[0]
        return float(columns[0] + columns[-1]) / 2


def derive(template: str, slots: Slots, pixels: Pixels) -> str | None:
    """The answer to a template's question about these words; None for templates that pixels alone do not answer.

    Raises:
        ValueError: a word names no object, or several.
    """
    of = _ANSWERS.get(template)
    return None if of is None else of(pixels, slots)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _view(pixels: Pixels, slots: Slots, slot: str = "view") -> _Picture:
    return pixels.views[_ORDINALS.index(slots[slot])]


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def _turn(pixels: Pixels, slots: Slots) -> complex:
    """Where c is for somebody at a who looks at b: ahead is 1, to the left is 1j."""
    a, b, c = (complex(*pixels.centre(pixels.thing(slots[slot]))[:2]) for slot in "abc")
    turn = (c - a) / (b - a)
    return turn / abs(turn)


def _is_left(picture: _Picture, pixels: Pixels, slots: Slots) -> bool:
    return picture.column(pixels.thing(slots["a"])) < picture.column(pixels.thing(slots["b"]))


def _more(measure: Callable[[Pixels, int, Slots], float]) -> Callable[[Pixels, Slots], str]:
    """Whichever of a and b has more of it."""

    def answer(pixels: Pixels, slots: Slots) -> str:
        return max((slots["a"], slots["b"]), key=lambda name: measure(pixels, pixels.thing(name), slots))

    return answer


def _height(pixels: Pixels, thing: int, _: Slots) -> float:
    return float(np.ptp(pixels.cloud(thing)[:, 2]))


def _travel(pixels: Pixels, thing: int, _: Slots) -> float:
    path = pixels.path(thing)
    return float(np.linalg.norm(path - path[0], axis=1).max()) if pixels.moved(thing) else 0.0


def _nearness(pixels: Pixels, thing: int, slots: Slots) -> float:
    return -float(np.linalg.norm(pixels.centre(thing) - pixels.centre(pixels.thing(slots["c"]))))


def _nearness_to_camera(pixels: Pixels, thing: int, slots: Slots) -> float:
    return -float(np.linalg.norm(pixels.centre(thing) - _view(pixels, slots).pose[:3, 3]))


def _in_front(pixels: Pixels, slots: Slots) -> str:
    a, b = (_nearness_to_camera(pixels, pixels.thing(slots[slot]), slots) for slot in "ab")
    return "front" if a > b else "behind"


def _direction(pixels: Pixels, slots: Slots) -> str:
    path = pixels.path(pixels.thing(slots["a"]))
    gone = np.linalg.norm(path - path[0], axis=1)
    out = path[int(np.argmax(gone > min(_SET_OUT, 0.8 * gone.max())))] - path[0]
    across, _, away = pixels.frames[0].pose[:3, :3].T @ out
    if abs(across) > abs(away):
        return "right" if across > 0 else "left"
    return "away" if away > 0 else "towards"


def _mover(pixels: Pixels, _: Slots) -> str:
    moved = [pixels.name(thing) for thing in pixels.objects if pixels.moved(thing)]
    return moved[0] if len(moved) == 1 else f"{len(moved)} objects"


def _same_side(pixels: Pixels, slots: Slots) -> str:
    return _yes(_is_left(pixels.image, pixels, slots) == _is_left(pixels.frames[-1], pixels, slots))


def _same_order(pixels: Pixels, slots: Slots) -> str:
    views = (_view(pixels, slots), _view(pixels, slots, "other"))
    return _yes(_is_left(views[0], pixels, slots) == _is_left(views[1], pixels, slots))


def _is_shown(picture: _Picture, pixels: Pixels, slots: Slots) -> str:
    return _yes(bool((picture.segments == pixels.thing(slots["a"])).any()))


def _hidden(pixels: Pixels, slots: Slots) -> str:
    """Whether a view does not show what the other views show to be before it."""
    picture, thing = _view(pixels, slots), pixels.thing(slots["a"])
    if (picture.segments == thing).any():
        return "no"
    x, y, z = ((pixels.cloud(thing) - picture.pose[:3, 3]) @ picture.pose[:3, :3] @ picture.intrinsics.T).T
    inside = (z > 0) & (x >= 0) & (y >= 0) & (x < z * picture.depth.shape[1]) & (y < z * picture.depth.shape[0])
    return _yes(bool(inside.all()))


def _reappears(pixels: Pixels, slots: Slots) -> str:
    shown = pixels.shown(pixels.thing(slots["a"]))
    return _yes(shown[-1] - shown[0] >= len(shown))


def _rests_on(pixels: Pixels, slots: Slots) -> str:
    """What is right below the lowest points that the last frame shows of a thing."""
    thing, picture = pixels.thing(slots["a"]), pixels.frames[-1]
    points = picture.points(thing)
    if not len(points):
        raise ValueError(f"the last frame does not show the {slots['a']}")
    base = float(np.quantile(points[:, 2], 0.02))
    if slots["a"].endswith("ball"):  # one looks down at it, and does not see where it touches what it is on
        base = points[:, 2].max() - np.ptp(pixels.cloud(thing)[:, 0])
    low, high = points[:, :2].min(axis=0) - _AROUND, points[:, :2].max(axis=0) + _AROUND
    tops = {"floor": 0.0}
    for other in (number for number in range(len(pixels.names)) if number != thing):
        # Furniture stays where it is, and the views show all of it. What carries a thing shows around it, mostly from above.
        around = picture.points(other) if other in pixels.objects else pixels.cloud(other)
        near = around[((around[:, :2] > low) & (around[:, :2] < high)).all(axis=1), 2]
        if len(near) and (top := float(np.quantile(near, 0.75))) > _LIFTED:
            tops[pixels.name(other)] = top
    return min(tops, key=lambda name: abs(base - tops[name]))


def _moves(pixels: Pixels, slots: Slots, slot: str) -> str:
    return _yes(pixels.moved(pixels.thing(slots[slot])))


_ANSWERS: dict[str, Callable[[Pixels, Slots], str]] = {
    "mover": _mover,
    "still_on": lambda pixels, slots: _yes(_rests_on(pixels, slots) == slots["under"]),
    "ends_on": _rests_on,
    "will_end_on": _rests_on,
    "same_side": _same_side,
    "seen_in_view": lambda pixels, slots: _is_shown(_view(pixels, slots), pixels, slots),
    "taller": _more(_height),
    "taller_from_picture": _more(_height),
    "direction": _direction,
    "still_in_view": lambda pixels, slots: _is_shown(pixels.frames[-1], pixels, slots),
    "reappears": _reappears,
    "leaves_first": _more(lambda pixels, thing, _: -pixels.shown(thing)[-1]),
    "comes_later": _more(lambda pixels, thing, _: pixels.shown(thing)[0]),
    "goes_farther": _more(_travel),
    "will_go_farther": _more(_travel),
    "will_move": lambda pixels, slots: _moves(pixels, slots, "a"),
    "moves_after": lambda pixels, slots: _moves(pixels, slots, "b"),
    "will_move_after": lambda pixels, slots: _moves(pixels, slots, "b"),
    "side_from": lambda pixels, slots: "left" if _turn(pixels, slots).imag > 0 else "right",
    "side_from_picture": lambda pixels, slots: "left" if _turn(pixels, slots).imag > 0 else "right",
    "ahead_from": lambda pixels, slots: "ahead" if _turn(pixels, slots).real > 0 else "behind",
    "ahead_from_picture": lambda pixels, slots: "ahead" if _turn(pixels, slots).real > 0 else "behind",
    "beside_in_view": lambda pixels, slots: "left" if _is_left(_view(pixels, slots), pixels, slots) else "right",
    "same_order": _same_order,
    "in_front": _in_front,
    "hidden_in_view": _hidden,
    "nearer_in_view": _more(_nearness_to_camera),
    "nearer_in_space": _more(_nearness),
    "nearer_from_picture": _more(_nearness),
}
DERIVABLE = tuple(_ANSWERS)
"""Templates that `derive` answers."""


__all__ = ["DERIVABLE", "Pixels", "derive"]
