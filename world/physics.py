# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Things, the MuJoCo model made of them, and what happens to them within a clip.

Units: metres, seconds, kilograms. z points up, the floor is z = 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import mujoco
import numpy as np

from polyv.world.records import Vector, WorldRelation


FPS = 8.0
FRAMES = 16
TIMESTEP = 0.005
_STEPS_A_FRAME = round(1 / FPS / TIMESTEP)

STILL = 0.03  # metres: an object that never strays further has not moved
MOVED = 0.15  # metres: one that strays further has; scenes with anything between the two are refused

FURNITURE = ("table", "ramp")
TABLE_TOP = 0.06  # thickness, metres
_TABLE_LEG = 0.035  # half its side
_SIDES = 40  # of the polygon that stands for a cone's base
_BALL_CONTACT = 6  # MuJoCo's condim with rolling friction: without it a ball rolls forever
_FRICTION = (0.9, 0.02, 0.006)  # sliding, torsional (m), rolling (m)


@dataclass(frozen=True)
class Thing:
    """An object or a piece of furniture at time 0.

    `half` is half its size along its own axes, `position` the centre of its bounding box, `rotation` a quaternion
    (w, x, y, z), `support` the id of what it rests on (None: the floor) and `velocity` that of a rolling ball.
    `plateau` is the length of a ramp's flat part. A ramp descends along its own +x.
    """

    id: str
    category: str
    colour: str
    size: str
    half: Vector
    position: Vector
    rotation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    support: str | None = None
    velocity: Vector = (0.0, 0.0, 0.0)
    plateau: float = 0.0

    @property
    def is_furniture(self) -> bool:
        return self.category in FURNITURE

    def turned(self, angle: float) -> "Thing":
        """The same thing after the whole world turned by `angle` radians around the z axis."""
        turn = np.array([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])
        rotation, position, velocity = np.empty(4), np.empty(3), np.empty(3)
        mujoco.mju_mulQuat(rotation, turn, np.array(self.rotation))
        mujoco.mju_rotVecQuat(position, np.array(self.position), turn)
        mujoco.mju_rotVecQuat(velocity, np.array(self.velocity), turn)
        w, x, y, z = rotation.tolist()
        return replace(self, rotation=(w, x, y, z), position=vector(position), velocity=vector(velocity))

    def outline(self) -> np.ndarray:
        """Points `[N, 3]` on its surface, in the world, whose bounding box is that of the thing."""
        x, y, z = self.half
        if self.category == "ball":
            return np.array(self.position) + np.concatenate([np.eye(3), -np.eye(3)]) * x
        if self.category in ("cylinder", "cone"):
            turn = np.arange(_SIDES) * (2 * np.pi / _SIDES)
            ring = np.stack([x * np.cos(turn), y * np.sin(turn), np.full(_SIDES, -z)], axis=1)
            top = np.array([[0.0, 0.0, z]]) if self.category == "cone" else ring * [1, 1, -1]
            local = np.concatenate([ring, top])
        elif self.category == "ramp":
            profile = [(-x, -z), (-x, z), (-x + self.plateau, z), (x, -z)]
            local = np.array([(px, side, pz) for px, pz in profile for side in (-y, y)])
        else:
            local = np.array([(sx * x, sy * y, sz * z) for sx in (-1, 1) for sy in (-1, 1) for sz in (-1, 1)])
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, np.array(self.rotation))
        return local @ matrix.reshape(3, 3).T + self.position


@dataclass(frozen=True)
class Motion:
    """What happened in a clip of F frames with T things, by simulation.

    `states` `[F, nq]` are MuJoCo's joint positions at each frame; `tracks` `[S, T, 3]` the things' centres after each
    step of `TIMESTEP` (step 0 is the start); `contacts` maps a pair of things (indices, ascending) to the steps, in
    order, at which they touch.
    """

    states: np.ndarray
    tracks: np.ndarray
    contacts: dict[tuple[int, int], list[int]]

    @property
    def frame_tracks(self) -> np.ndarray:
        """Centres at the video's frames, `[F, T, 3]`."""
        return self.tracks[::_STEPS_A_FRAME]

    @property
    def displacement(self) -> np.ndarray:
        """The furthest each thing gets from where it started, metres, `[T]`."""
        return np.linalg.norm(self.tracks - self.tracks[0], axis=2).max(axis=0)


def vector(values: Sequence[float] | np.ndarray) -> Vector:
    """Three numbers as plain Python floats."""
    x, y, z = values
    return (float(x), float(y), float(z))


def build_model(things: tuple[Thing, ...]) -> mujoco.MjModel:
    """Compile things and a floor to a MuJoCo model. Body i + 1 is thing i."""
    spec = mujoco.MjSpec()
    spec.option.timestep = TIMESTEP
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10  # keeps what rests on a slope from creeping down
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], friction=_FRICTION)
    for thing in things:
        body = spec.worldbody.add_body(name=thing.id, pos=thing.position, quat=thing.rotation)
        if not thing.is_furniture:
            body.add_freejoint()
        _add_geoms(spec, body, thing)
    return spec.compile()


def _add_geoms(spec: mujoco.MjSpec, body: mujoco.MjsBody, thing: Thing) -> None:
    x, y, z = thing.half
    kind = mujoco.mjtGeom
    surface = {"friction": _FRICTION, "density": 400}
    if thing.category == "ball":
        body.add_geom(type=kind.mjGEOM_SPHERE, size=[x, 0, 0], condim=_BALL_CONTACT, **surface)
    elif thing.category == "box":
        body.add_geom(type=kind.mjGEOM_BOX, size=[x, y, z], **surface)
    elif thing.category == "cylinder":
        body.add_geom(type=kind.mjGEOM_CYLINDER, size=[x, z, 0], **surface)
    elif thing.category == "table":
        body.add_geom(type=kind.mjGEOM_BOX, pos=[0, 0, z - TABLE_TOP / 2], size=[x, y, TABLE_TOP / 2], **surface)
        for sx, sy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            inset, leg = 1.5 * _TABLE_LEG, z - TABLE_TOP / 2
            corner = [sx * (x - inset), sy * (y - inset), -TABLE_TOP / 2]
            body.add_geom(type=kind.mjGEOM_BOX, pos=corner, size=[_TABLE_LEG, _TABLE_LEG, leg], **surface)
    else:  # cone and ramp: convex meshes, given in the thing's own axes
        local = replace(thing, position=(0.0, 0.0, 0.0), rotation=(1.0, 0.0, 0.0, 0.0)).outline()
        spec.add_mesh(name=thing.id, uservert=local.ravel())
        body.add_geom(type=kind.mjGEOM_MESH, meshname=thing.id, **surface)


def simulate(model: mujoco.MjModel, things: tuple[Thing, ...]) -> Motion:
    """Run the clip: `FRAMES` frames at `FPS`, the first at time 0."""
    data = mujoco.MjData(model)
    for index, thing in enumerate(things):
        if any(thing.velocity):
            address = model.body_dofadr[index + 1]
            data.qvel[address : address + 3] = thing.velocity
            # Rolling without slipping. A freejoint's angular velocity is in the body's own axes.
            spin = np.cross([0.0, 0.0, 1.0], thing.velocity) / thing.half[0]
            inverse, local = np.empty(4), np.empty(3)
            mujoco.mju_negQuat(inverse, np.array(thing.rotation))
            mujoco.mju_rotVecQuat(local, spin, inverse)
            data.qvel[address + 3 : address + 6] = local
    steps = (FRAMES - 1) * _STEPS_A_FRAME
    states = np.empty((FRAMES, model.nq))
    tracks = np.empty((steps + 1, len(things), 3))
    contacts: dict[tuple[int, int], list[int]] = {}
    for step in range(steps + 1):
        mujoco.mj_step1(model, data)  # positions and contacts of this step, before it is integrated
        tracks[step] = data.xpos[1:]
        if step % _STEPS_A_FRAME == 0:
            states[step // _STEPS_A_FRAME] = data.qpos
        for pair in set(map(tuple, np.sort(model.geom_bodyid[data.contact.geom], axis=1).tolist())):
            if pair[0] > 0:
                contacts.setdefault((pair[0] - 1, pair[1] - 1), []).append(step)
        mujoco.mj_step2(model, data)
    return Motion(states, tracks, contacts)


def relations(things: tuple[Thing, ...], motion: Motion) -> tuple[WorldRelation, ...]:
    """Everything that holds or happens, sorted by when it starts. See `WorldRelation` for the predicates."""
    index = {thing.id: number for number, thing in enumerate(things)}
    found = []
    for thing in things:
        support = things[index[thing.support]] if thing.support else None
        if support is not None:
            found.append(WorldRelation(subject=thing.id, predicate="on", object=support.id))
            found += _leaving(thing, support, index, motion)
        found += _moving(thing, index, motion)
    found += _hits(things, motion)
    return tuple(sorted(found, key=lambda relation: -1.0 if relation.start is None else relation.start))


def _hits(things: tuple[Thing, ...], motion: Motion) -> list[WorldRelation]:
    """First touch of two objects that did not touch at the start; the subject is the one that came."""
    hits = []
    for (a, b), steps in motion.contacts.items():
        resting = things[a].support == things[b].id or things[b].support == things[a].id
        if steps[0] == 0 or resting or things[a].is_furniture or things[b].is_furniture:
            continue
        before = max(steps[0] - 4, 0)
        came = np.linalg.norm(motion.tracks[steps[0]] - motion.tracks[before], axis=1)
        subject, target = (a, b) if came[a] >= came[b] else (b, a)
        parted = next((s for s, after in pairwise(steps) if after > s + 4), steps[-1])
        hits.append(
            WorldRelation(
                subject=things[subject].id,
                predicate="hits",
                object=things[target].id,
                start=_seconds(steps[0]),
                end=_seconds(parted),
            )
        )
    return hits


def _leaving(thing: Thing, support: Thing, index: dict[str, int], motion: Motion) -> list[WorldRelation]:
    """ "falls_from" if the centre sinks below the support's top, "rolls_down" if a ball went down a ramp."""
    track = motion.tracks[:, index[thing.id]]
    first, second = sorted((index[thing.id], index[support.id]))
    left = motion.contacts.get((first, second), [0])[-1]
    if support.category == "ramp":
        if thing.category != "ball" or track[0, 2] - track[:, 2].min() < MOVED:
            return []
        start = int(np.argmax(np.linalg.norm(track - track[0], axis=1) > STILL))
        return [_event(thing.id, "rolls_down", support.id, start, left)]
    top = support.position[2] + support.half[2]
    below = track[:, 2] < top - STILL
    if not below.any():
        return []
    start = int(np.argmax(below))
    rest = np.flatnonzero(track[:, 2] < track[:, 2].min() + STILL)[0]
    return [_event(thing.id, "falls_from", support.id, start, max(int(rest), start))]


def _moving(thing: Thing, index: dict[str, int], motion: Motion) -> list[WorldRelation]:
    track = motion.tracks[:, index[thing.id]]
    if motion.displacement[index[thing.id]] < MOVED:
        return []
    start = int(np.argmax(np.linalg.norm(track - track[0], axis=1) > STILL))
    end = len(track) - 1 - int(np.argmax(np.linalg.norm(track[::-1] - track[-1], axis=1) > STILL))
    return [_event(thing.id, "moves", None, start, max(end, start))]


def _event(subject: str, predicate, target: str | None, start: int, end: int) -> WorldRelation:
    return WorldRelation(
        subject=subject, predicate=predicate, object=target, start=_seconds(start), end=_seconds(max(end, start))
    )


def _seconds(step: int) -> float:
    return round(step * TIMESTEP, 3)
