# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Small files in the formats in which PVSG, Action Genome, 3DSSG and 3RScan are published; what is in them is ours.

Each field stands as the publisher has it; the sources are named where it is written.
"""

import json
import pickle
from pathlib import Path

import av
import numpy as np
from PIL import Image

from polyv.csqa.records import SceneRecord
from polyv.processing.posed_views import PosedViews


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """uint8 [T, H, W, 3] as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


# --- PVSG. pvsg.json: its keys and those of a video are in pvsg_relation.py, pvsg_video.py and utils.py of
# github.com/LilyDaytoy/OpenPVSG (datasets/datasets); rows of relations and their spans, in its tools and in
# prepare_rel_set; videos at 5 frames a second and the folders, in README.md; masks, in pipelines/loading.py.

WIDTH, HEIGHT, LENGTH = 64, 48, 50
OBJECTS = ("adult", "child", "cup", "table", "floor", "ball")
# Where each object stands (x0, y0, x1, y1), and the frames in which it is there.
PLACES = {
    1: ((4, 8, 20, 40), range(LENGTH)),
    2: ((44, 12, 60, 40), range(15, LENGTH)),
    3: ((24, 16, 32, 24), range(LENGTH)),
    4: ((22, 24, 40, 38), range(LENGTH)),
    5: ((0, 40, 64, 48), range(LENGTH)),
    6: ((34, 40, 42, 48), range(40)),
}
RELATIONS = [
    [1, 3, "holding", [[5, 20]]],
    [1, 6, "holding", [[30, 50]]],  # one frame more than there are, as some files have it
    [2, 1, "looking at", [[15, 49]]],
    [3, 4, "on", [[0, 4], [21, 49]]],
    [2, 6, "kicking", [[17, 19]]],
    [1, 5, "standing on", [[0, 49]]],
    [
        2,
        6,
        "squatting beside",
        [[22, 24]],
    ],  # not in the list of relations: issue 11 of OpenPVSG says that there are some
]


def pvsg_video(video: str, **changes) -> dict:
    objects = [
        {"object_id": number, "category": name, "is_thing": name != "floor", "status": []}
        for number, name in enumerate(OBJECTS, start=1)
    ]
    meta = {"height": HEIGHT, "width": WIDTH, "num_frames": LENGTH, "fps": 5}
    return {"video_id": video, "meta": meta, "objects": objects, "relations": RELATIONS, **changes}


def write_pvsg(root: Path, videos: list[dict] | None = None) -> Path:
    """pvsg.json and the videos, with masks of the first two; returns its path."""
    videos = videos or [pvsg_video("0001_4164158586"), pvsg_video("0003_3396832512"), pvsg_video("P01_01")]
    names = [video["video_id"] for video in videos]
    content = {
        "split": {
            "vidor": {"train": names[:1], "val": names[1:2]},
            "epic_kitchen": {"train": names[2:3], "val": []},
            "ego4d": {"train": [], "val": []},
        },
        "objects": {"thing": ["adult", "ball", "child", "cup", "table"], "stuff": ["floor"]},
        "relations": ["holding", "kicking", "looking at", "on", "standing on"],
        "data": videos,
    }
    for index, name in enumerate(names):
        source = root / ("vidor" if index < 2 else "epic_kitchen")
        frames = np.full((LENGTH, HEIGHT, WIDTH, 3), 200, dtype=np.uint8)
        masks = np.zeros((LENGTH, HEIGHT, WIDTH), dtype=np.uint8)
        for number in (5, 4, 3, 1, 2, 6):
            (x0, y0, x1, y1), there = PLACES[number]
            for frame in there:
                frames[frame, y0:y1, x0:x1] = np.array([37, 91, 151]) * number % 256
                masks[frame, y0:y1, x0:x1] = number
        write_video(source / "videos" / f"{name}.mp4", frames, 5)
        if index < 2:
            (source / "masks" / name).mkdir(parents=True)
            for frame, mask in enumerate(masks):
                Image.fromarray(mask).save(source / "masks" / name / f"{frame:04d}.png")
    (root / "pvsg.json").write_text(json.dumps(content))
    return root / "pvsg.json"


# --- Action Genome. Both pickles: README.md of github.com/JingweiJ/ActionGenome; an entry that is not visible: its issue 6;
# boxes of both kinds, with an example of each: its issue 7; "n may be 0": the check for it in users' loaders; frames
# counted from 1 and dumped at the video's own rate: tools/dump_frames.py.


def ag_entry(
    video: str, frame: int, name: str, contact=(), spatial=("in_front_of",), attention=("looking_at",), **more
):
    return {
        "class": name,
        "bbox": (10.5, 12.0, 20.0, 16.5),
        "attention_relationship": list(attention),
        "spatial_relationship": list(spatial),
        "contacting_relationship": list(contact),
        "metadata": {"tag": f"{video}/{name}/{frame:06d}", "set": "train"},
        "visible": True,
        **more,
    }


def ag_unseen(video: str, frame: int, name: str) -> dict:
    """As issue 6 shows it: nothing is told of what is not visible."""
    nothing = {f"{kind}_relationship": None for kind in ("attention", "spatial", "contacting")}
    return {**ag_entry(video, frame, name), **nothing, "bbox": None, "visible": False}


def ag_person(found: int = 1) -> dict:
    boxes = np.array([[2, 4, 30, 46], [0, 0, 5, 5]], dtype=np.float32)[:found]
    scores = np.array([0.95, 0.5], dtype=np.float32)[:found]
    points = np.zeros((found, 17, 3), dtype=np.float32)
    size = (WIDTH, HEIGHT)
    return {"bbox": boxes, "bbox_score": scores, "bbox_size": size, "bbox_mode": "xyxy", "keypoints": points}


def ag_annotations(video: str = "50N4E.mp4", split: str = "train") -> tuple[dict, dict]:
    """A cup is touched, held and drunk from; then a book is held, the cup having gone out of sight."""
    cup, book = "cup/glass/bottle", "book"
    told = {
        13: [ag_entry(video, 13, cup, ["touching"])],
        25: [ag_entry(video, 25, cup, ["holding"])],
        37: [
            ag_entry(video, 37, cup, ["holding"]),
            ag_entry(video, 37, book, ["not_contacting"], attention=["unsure"]),
        ],
        49: [ag_entry(video, 49, cup, ["drinking_from"]), ag_entry(video, 49, book, ["not_contacting"])],
        73: [ag_unseen(video, 73, cup), ag_entry(video, 73, book, ["holding"])],
    }
    for entries in told.values():
        for entry in entries:
            entry["metadata"]["set"] = split
    frames = {f"{video}/{number:06d}.png": entries for number, entries in told.items()}
    persons = {key: ag_person(0 if "000037" in key else 2) for key in frames}
    return frames, persons


def write_action_genome(root: Path, *annotations: tuple[dict, dict], protocol: int = 2) -> Path:
    """The folders annotations and videos (of 24 frames a second); returns the first."""
    annotations = annotations or (ag_annotations(), ag_annotations("001YG.mp4", "test"))
    folder = root / "annotations"
    folder.mkdir(parents=True)
    for index, name in enumerate(("object_bbox_and_relationship.pkl", "person_bbox.pkl")):
        together = {key: value for each in annotations for key, value in each[index].items()}
        (folder / name).write_bytes(pickle.dumps(together, protocol=protocol))
    frames = np.random.default_rng(0).integers(0, 255, (80, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for video in sorted({key.split("/")[0] for each in annotations for key in each[0]}):
        write_video(root / "videos" / video, frames, 24)
    return folder


# --- 3DSSG and 3RScan. objects.json and relationships.json: README.md of github.com/3DSSG/3DSSG.github.io and FAQ.md of
# github.com/WaldJohannaU/3RScan; 3RScan.json: README.md there, its order of numbers: ReadMatrix in
# c++/rio_lib/src/rio_lib/data.cc (Eigen's matrices are stored by columns); semseg.v2.json: FAQ.md; folders: c++/README.md;
# _info.txt: LoadInfoIntrinsics in sequence.cc; .bb.txt and .visibility.txt: FAQ.md.

MOTION = np.array(  # from the rescan to its reference, metres
    [[np.cos(1.1), -np.sin(1.1), 0, 1.5], [np.sin(1.1), np.cos(1.1), 0, -0.4], [0, 0, 1, 0.02], [0, 0, 0, 1]]
)


def write_3rscan(
    root: Path, scenes: dict[str, tuple[SceneRecord, Path]], rescans: dict[str, str], unit: float = 1000.0
) -> Path:
    """Scenes of the simulated world as scans: {id: (record, folder of its media)}; `rescans` names the reference of some, in
    whose place they would stand after `MOTION`. Returns the folder of the JSON files; the scans are in "3RScan" beside it."""
    nodes, edges, environments = [], [], []
    for scan, (record, folder) in scenes.items():
        motion = np.linalg.inv(MOTION) if scan in rescans else np.eye(4)
        ids = {thing.id: number for number, thing in enumerate(record.objects, start=1)}
        nodes.append({"scan": scan, "objects": [_node(thing, ids[thing.id]) for thing in record.objects]})
        supports = [
            [ids[r.subject], ids[r.object], 15, "standing on"]
            for r in record.relations
            if r.object in ids and r.predicate == "on"
        ]
        pairs = [
            [one, other, 8, "bigger than"]
            for one, other in zip(list(ids.values())[:-1], list(ids.values())[1:], strict=True)
        ]
        edges.append({"scan": scan, "relationships": [*supports, *pairs, [1, 2, 2, "left"], [2, 1, 26, "build in"]]})
        _write_scan(root / "3RScan" / scan, record, folder, ids, motion)
    for scan in [scan for scan in scenes if scan not in rescans]:
        moved = MOTION.copy()
        moved[:3, 3] *= unit
        again = [
            {"reference": id, "transform": moved.T.ravel().tolist(), "rigid": [], "nonrigid": [], "removed": []}
            for id, reference in rescans.items()
            if reference == scan
        ]
        kind = {"train": "train", "validation": "validation", "test": "test"}[scenes[scan][0].split]
        environments.append({"reference": scan, "type": kind, "ambiguity": [], "scans": again})
    folder = root / "3DSSG"
    folder.mkdir()
    (folder / "objects.json").write_text(json.dumps({"scans": nodes}))
    (folder / "relationships.json").write_text(json.dumps({"scans": edges}))
    (folder / "3RScan.json").write_text(json.dumps(environments))
    return folder


def _node(thing, number: int) -> dict:
    attributes = {
        "color": [thing.attributes["colour"]],
        "lexical": ["inside", "low"],
        "size": [thing.attributes["size"]],
    }
    return {
        "global_id": str(100 + number),
        "label": thing.category,
        "ply_color": "#aec7e8",
        "id": str(number),
        "affordances": ["moving"],
        "attributes": attributes if "size" in thing.attributes else {},
    }


def _write_scan(folder: Path, record: SceneRecord, media: Path, ids: dict[str, int], motion: np.ndarray) -> None:
    sequence = folder / "sequence"
    sequence.mkdir(parents=True)
    groups = []
    for thing in record.objects:
        # The same box along its own axes: in the world's, its size is what it was.
        axes = np.eye(3)
        lengths, centre = np.asarray(thing.extent), np.append(thing.position, 1.0)
        box = {
            "centroid": (motion @ centre)[:3].tolist(),
            "axesLengths": lengths.tolist(),
            "normalizedAxes": (axes @ motion[:3, :3].T).ravel().tolist(),
        }
        number = ids[thing.id]
        groups.append({"id": number, "objectId": number, "label": thing.category, "segments": [1, 2], "obb": box})
    (folder / "semseg.v2.json").write_text(json.dumps({"scan_id": folder.name, "segGroups": groups}))
    # The phone was held upright, and its pictures are stored lying on their left side.
    views = PosedViews.load(media / record.media.scene)
    width, height = views.images.shape[1:3]  # of the stored ones
    cameras = [
        _lie(k, size) for k, size in ((views.image_intrinsics[0], width), (views.intrinsics[0], views.depths.shape[1]))
    ]
    intrinsics = [" ".join(f"{x:.6f}" for x in _as_4x4(camera).ravel()) for camera in cameras]
    (sequence / "_info.txt").write_text(
        f"m_versionNumber = 4\nm_sensorName = StructureSensor\nm_colorWidth = {width}\nm_colorHeight = {height}\n"
        f"m_depthWidth = {views.depths.shape[1]}\nm_depthHeight = {views.depths.shape[2]}\nm_depthShift = 1000\n"
        f"m_calibrationColorIntrinsic = {intrinsics[0]}\nm_calibrationDepthIntrinsic = {intrinsics[1]}\n"
        f"m_frames.size = {len(views)}\n"
    )
    # Its x axis is what was down, its y axis what was left.
    lying = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for view, depth in enumerate(views.depths_in_millimetres()):
        name = sequence / f"frame-{view:06d}"
        Image.fromarray(np.rot90(views.images[view])).save(f"{name}.color.jpg", quality=95)
        Image.fromarray(np.rot90(depth).astype(np.int32)).save(f"{name}.depth.pgm")
        np.savetxt(f"{name}.pose.txt", motion @ views.poses[view] @ lying, fmt="%.9g")
        looks = [(ids[thing.id], thing.in_views[view]) for thing in record.objects]
        seen = [(number, look.box, look.visible) for number, look in looks if look.box is not None]
        boxes = [f"{number} {y0} {height - x1} {y1} {height - x0}" for number, (x0, y0, x1, y1), _ in seen]
        shares = [f"{number} 10 10 1 100 200 {visible}" for number, _, visible in seen]
        Path(f"{name}.bb.txt").write_text("\n".join(boxes) + "\n")
        Path(f"{name}.visibility.txt").write_text("\n".join(shares) + "\n")


def _lie(intrinsics: np.ndarray, height: int) -> np.ndarray:
    """Of a picture `width` pixels wide, after a quarter turn against the clock: a pixel (x, y) goes to (y, width - 1 - x)."""
    (fx, _, cx), (_, fy, cy), _ = intrinsics
    return np.array([[fy, 0, cy], [0, fx, height - 1 - cx], [0, 0, 1]])


def _as_4x4(matrix: np.ndarray) -> np.ndarray:
    padded = np.eye(4)
    padded[:3, :3] = matrix
    return padded
