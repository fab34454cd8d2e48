# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""How plainly a video shows what happened: whether a hit can be seen, and whether a pass might be taken for one.

The simulation knows of each touch, however faint; a viewer does not. Both work on the tracks that a record holds, one
position a frame. Metres, seconds, and metres a second.
"""

import numpy as np

from polyv.world.records import WorldObject


# A hit shows when the two close in on each other this fast before it, or when it shoves the other one this far.
_CLOSING_SPEED = 0.4
_SHOVE = 0.05
# Where the surfaces come nearer than this, one pixel or two in a picture of 112, a pass looks like a hit.
CLEAR_PASS = 0.05
# What changes its height by more than this goes down, or up.
_HEIGHT_CHANGE = 0.03
# Positions between two frames at which a gap is measured: a fast ball goes half its width in a frame.
_BETWEEN = 4
# Seconds after the clip: what hits something then has not hit nothing, where the question is what it will hit.
_BEYOND = 1.0


def hit_shows(mover: WorldObject, target: WorldObject, start: float, fps: float) -> bool:
    """Whether a viewer sees that `mover` hits `target` at `start` seconds: the one stops or turns, or the other gives.

    A brush, the touch of a ball that has almost stopped, and one between the last two frames do not show.
    """
    a, b = np.asarray(mover.track), np.asarray(target.track)
    frame = max(int(start * fps), 1)
    if frame >= len(a) - 2:
        return False
    distance = np.linalg.norm(a - b, axis=1)
    closing = (distance[frame - 1] - distance[frame]) * fps
    shove = np.linalg.norm(b[frame:] - b[frame], axis=1).max()
    return bool(closing >= _CLOSING_SPEED or shove >= _SHOVE)


def least_gap(a: WorldObject, b: WorldObject, fps: float) -> float:
    """How near the surfaces of two objects come in the clip and, going on as they do at its end, in the second after.

    Round objects are taken as upright cylinders, others as their boxes at time 0; negative where these overlap.
    """
    half_a, half_b = np.asarray(a.extent) / 2, np.asarray(b.extent) / 2
    offset = _path(a, fps) - _path(b, fps)
    radius, half = np.zeros(()), np.zeros(2)
    for thing, its in ((a, half_a), (b, half_b)):
        if thing.category == "box":
            half = half + its[:2]
        else:
            radius = radius + its[0]
    flat = np.linalg.norm(np.clip(np.abs(offset[:, :2]) - half, 0, None), axis=1) - radius
    upright = np.abs(offset[:, 2]) - half_a[2] - half_b[2]
    return float(np.maximum(flat, upright).min())


def _path(thing: WorldObject, fps: float) -> np.ndarray:
    """Its centre over the clip and the time after, several times a frame, `[N, 3]`."""
    track = np.asarray(thing.track)
    step = (track[-1] - track[-2]) * (1, 1, 0)  # along the floor: what still falls does not sink into it
    track = np.concatenate([track, track[-1] + step * np.arange(1, _BEYOND * fps + 1)[:, None]])
    frames = np.arange(len(track))
    fine = np.linspace(0, frames[-1], _BETWEEN * frames[-1] + 1)
    return np.stack([np.interp(fine, frames, axis) for axis in track.T], axis=1)


def changes_height(thing: WorldObject) -> bool:
    """Whether its centre rises or sinks: it falls, rolls down, or is tipped over."""
    height = np.asarray(thing.track)[:, 2]
    return bool(np.abs(height - height[0]).max() > _HEIGHT_CHANGE)
