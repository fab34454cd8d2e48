# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv routing`: which token is what, what is counted, and that the report says what the routers did."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig

from polyv import PolyVConfig
from polyv.ask import load
from polyv.evaluation import routing
from polyv.evaluation.assignments import KINDS
from polyv.evaluation.routing import draw, run, summarise, table
from polyv.evaluation.specialisation import specialisation


SUITES = "general_image,multi_image,spatial_video,scene_qa"


@pytest.fixture(scope="module")
def polyv(untrained, tmp_path_factory) -> Path:
    """A PolyV that takes fewer views than the scenes of the world have."""
    folder = Path(shutil.copytree(untrained.polyv, tmp_path_factory.mktemp("routing") / "polyv"))
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["scenes_kwargs"] |= {"num_views": 4, "max_pixels": 64**2, "min_pixels": 32**2}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def turned(polyv) -> Path:
    """The same, with routers that prefer what they avoided."""
    folder = Path(shutil.copytree(polyv, polyv.with_name("turned")))
    weights = load_file(folder / "model.safetensors")
    weights |= {name: -weight for name, weight in weights.items() if name.endswith("mlp.gate.weight")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def before_and_after(polyv, turned, small_world, tmp_path_factory):
    """The report on two models, and the folder that it is in."""
    out = tmp_path_factory.mktemp("report") / "new" / "routing.json"
    return run([str(polyv), str(turned)], SUITES, 3, 2, out, world=small_world, batch_size=3), out.parent


def test_media_mixed_in_a_question_and_in_a_batch_are_told_apart(polyv, small_world, tmp_path):
    media = small_world / "scenes" / "000000"
    scene = Path(shutil.copytree(media / "scene", tmp_path / "scene"))
    depth = Image.open(scene / "depth" / "0.png")
    Image.fromarray(np.zeros_like(np.asarray(depth))).save(scene / "depth" / "0.png")  # a view without any depth
    entries = [
        {"type": "scene", "scene": str(scene)},
        {"type": "image", "image": str(media / "image.png")},
        {"type": "video", "video": str(media / "video.mp4")},
        {"type": "text", "text": "How many?"},
    ]
    asked = [[entries[3]], [entries[1], entries[3]], [entries[2], entries[3]], [entries[0], entries[3]], entries]
    rows = [{"messages": [{"role": "user", "content": content}, {"role": "assistant"}]} for content in asked]
    model, processor = load(str(polyv))
    counts_BCE = np.array(routing._counter(model, processor)(rows))[:, 0, 0]
    tokens = [dict(zip(KINDS, row.round().astype(int).tolist(), strict=True)) for row in counts_BCE.sum(-1)]
    text, image, video, views, mixed = tokens
    # 112 pixels a side make 7 x 7 tokens, 64 at most make 4 x 4.
    assert [text[kind] for kind in KINDS[1:]] == [0, 0, 0, 1]
    assert [image[kind] for kind in KINDS[1:]] == [49, 0, 0, 1]
    assert [views[kind] for kind in KINDS[1:]] == [0, 0, 4 * 16, 1]
    assert [mixed[kind] for kind in KINDS[1:]] == [49, video["video"], 4 * 16, 1] and video["video"] > 0
    assert mixed["text"] == text["text"] + 2 * (1 + 1 + 4)  # the marks around each picture


def test_the_report_equals_a_recomputation_from_raw_router_logits(before_and_after, polyv, small_world):
    """Question by question, without padding; what an image token is follows from the only medium of its suite."""
    report = before_and_after[0]["models"][0]
    model, processor = load(str(polyv))
    questions = routing.questions_of(small_world, {}, SUITES.split(","), 2, 3)
    load_LSCE = np.zeros((2, 4, len(KINDS), 4))
    probability_LSCE = np.zeros_like(load_LSCE)
    for row in questions:
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = processor.apply_chat_template([row["messages"][:-1]], **options)
        with torch.no_grad():
            router_logits = model(**inputs, output_router_logits=True).router_logits
        medium, suite = row["messages"][0]["content"][0]["type"], SUITES.split(",").index(row["suite"])
        names = {model.config.image_token_id: medium, model.config.video_token_id: "video"}
        names[model.config.synergy_token_id] = "<synergy>"
        for layer, logits_TE in enumerate(router_logits):
            for token, p in zip(inputs["input_ids"][0].tolist(), logits_TE.softmax(-1).numpy(), strict=True):
                kind = KINDS.index(names.get(token, "text"))
                load_LSCE[layer, suite, kind, np.argsort(-p)[:2]] += 0.5
                probability_LSCE[layer, suite, kind] += p
    assert [layer["layer"] for layer in report["layers"]] == [3, 7]
    for layer, load_SCE, probability_SCE in zip(report["layers"], load_LSCE, probability_LSCE, strict=True):
        for suite, of_suite, probabilities in zip(SUITES.split(","), load_SCE, probability_SCE, strict=True):
            there = {kind: row for kind, row in zip(KINDS, of_suite, strict=True) if row.any()}
            assert layer["suites"][suite].keys() == {"all", *there}
            for kind, row in there.items():
                tokens, of_kind = row.sum(), layer["suites"][suite][kind]
                assert of_kind["tokens"] == tokens
                assert of_kind["load"] == pytest.approx(
                    row / tokens, abs=0.02
                )  # a batch may break near ties otherwise
                assert of_kind["probability"] == pytest.approx(probabilities[KINDS.index(kind)] / tokens, abs=1e-3)
        assert layer["suites"]["all"]["all"]["tokens"] == load_SCE.sum()
        assert layer["suites"]["all"]["all"]["load"] == pytest.approx(load_SCE.sum((0, 1)) / load_SCE.sum(), abs=0.02)
    for scope, kinds in {"all": slice(0, 4), "visual": slice(1, 4)}.items():
        values = specialisation(load_LSCE.sum(1)[:, kinds], 2)
        assert [layer["specialisation"][scope]["value"] for layer in report["layers"]] == pytest.approx(
            values, abs=0.02
        )
        assert report["specialisation"][scope]["value"] == pytest.approx(values.mean(), abs=0.02)


def test_two_models_stand_side_by_side_on_the_same_questions(before_and_after, polyv, turned):
    report, folder = before_and_after
    assert sorted(path.name for path in folder.iterdir()) == ["routing.json", "routing.png"]
    assert report == json.loads((folder / "routing.json").read_text())
    assert (report["suites"], report["n"], report["seed"]) == (SUITES.split(","), 2, 3)
    assert [model["model"] for model in report["models"]] == [str(polyv), str(turned)]
    first, second = (model["layers"][0]["suites"]["all"] for model in report["models"])
    assert {kind: row["tokens"] for kind, row in first.items()} == {
        kind: row["tokens"] for kind, row in second.items()
    }
    # Before its first experts the models are the same, and what was chosen is what is now avoided.
    assert np.add(first["all"]["load"], second["all"]["load"]) == pytest.approx(0.5, abs=0.02)
    assert first["all"]["load"] != pytest.approx(second["all"]["load"], abs=0.02)
    for model in report["models"]:
        assert model["specialisation"]["all"]["modalities"] == ["text", "image", "video", "scene"]
        assert model["specialisation"]["visual"]["modalities"] == ["image", "video", "scene"]


def test_the_table_is_aligned_and_holds_each_model_and_layer(before_and_after):
    report, _ = before_and_after
    lines = table(report).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("specialisation"))
    kinds, values = lines[:start], lines[start + 2 :]
    assert len(values) == 2 * 3 * 2 and len({len(line) for line in lines[start + 1 :]}) == 1
    assert [line.split()[1] for line in values] == ["3", "3", "7", "7", "mean", "mean"] * 2
    [synergy] = [line.split() for line in kinds[:14] if line.split()[:2] == ["7", "<synergy>"]]
    load = report["models"][0]["layers"][1]["suites"]["all"]["<synergy>"]["load"]
    assert synergy == ["7", "<synergy>", "8", *(f"{100 * share:.1f}" for share in load)]


def test_an_interrupted_run_asks_only_the_rest(before_and_after, polyv, turned, small_world, tmp_path, monkeypatch):
    counter, asked = routing._counter, []

    def killed_after(batches: int):
        def make(model, processor):
            ask = counter(model, processor)

            def ask_or_die(rows):
                if len(asked) == batches:
                    raise KeyboardInterrupt
                asked.append(len(rows))
                return ask(rows)

            return ask_or_die

        return make

    arguments = ([str(polyv), str(turned)], SUITES, 3, 2, tmp_path / "out" / "routing.json", small_world, 3)
    monkeypatch.setattr(routing, "_counter", killed_after(4))  # three batches of the first model, one of the second
    with pytest.raises(KeyboardInterrupt):
        run(*arguments)
    assert asked == [3, 3, 2, 3] and not (tmp_path / "out" / "routing.json").exists()
    monkeypatch.setattr(routing, "_counter", killed_after(-1))
    assert run(*arguments) == before_and_after[0]
    assert asked[4:] == [3, 2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["routing.json", "routing.png"]


def test_one_modality_is_reported_without_a_specialisation(polyv, small_world, tmp_path, capsys):
    report = run([str(polyv)], "general_image", 3, 1, tmp_path / "routing.json", world=small_world)
    [model] = report["models"]
    assert model["specialisation"]["visual"] is None and model["layers"][0]["specialisation"]["visual"] is None
    assert model["specialisation"]["all"]["modalities"] == ["text", "image"]
    assert set(model["layers"][0]["suites"]["general_image"]) == {"all", "text", "image", "<synergy>"}
    printed = capsys.readouterr().out
    assert "image, video" not in printed and "seed 3, 1 questions a suite" in printed


def random_report(*shapes: tuple[int, int, int]) -> dict:
    """Of models with so many layers, experts and experts a token; all tokens of the only question go to the first."""
    models = []
    for num_layers, num_experts, top_k in shapes:
        counts_QSLCE = np.zeros((1, 2, num_layers, len(KINDS), num_experts))
        counts_QSLCE[..., :top_k] = 12 / top_k
        layers = list(range(num_layers))
        models.append({"model": "m" * 99, **summarise(counts_QSLCE, np.array(["scene_qa"]), layers, top_k, seed=0)})
    return {"models": models, "suites": ["scene_qa"], "n": 1, "seed": 0}


def test_models_of_other_shapes_are_drawn_beside_each_other(tmp_path):
    one, several = random_report((1, 4, 2)), random_report((1, 4, 2), (3, 2, 2), (2, 6, 1))
    for name, report in (("one.png", one), ("new/several.png", several)):
        draw(report, tmp_path / name)
        assert table(report)
    small, large = (Image.open(tmp_path / name).size for name in ("one.png", "new/several.png"))
    assert large[0] > 2 * small[0] and large[1] > 1.5 * small[1]
    assert not list(tmp_path.rglob(".*"))


def test_a_heat_map_shows_the_shares_in_percent_and_the_specialisation():
    axes = Figure().subplots()
    report = random_report((1, 4, 2))
    routing._draw_layer(axes, report["models"][0]["layers"][0], ["scene_qa"], TwoSlopeNorm(1, 0, 2))
    texts = [text.get_text() for text in axes.texts]
    # Five kinds, the suite, and its <synergy>: two experts take half each, two nothing.
    assert texts.count("50") == texts.count("0") == 2 * (len(KINDS) + 2)
    assert texts[-1] == "specialisation, 0 to 1\n0.000 with text\n0.000 without text\n0.000 by chance"
    assert [label.get_text() for label in axes.get_yticklabels()] == [*KINDS, "scene_qa"]
    assert [label.get_text() for label in axes.get_xticklabels()] == list("01230123")


def test_models_without_experts_are_refused_before_anything_is_made(untrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PolyVConfig(text_config={"num_experts": 0}).save_pretrained(tmp_path / "dense")
    LlavaConfig().save_pretrained(tmp_path / "llava")
    for model, message in (
        (
            untrained.backbone,
            rf"model={untrained.backbone} is dense: a Qwen2.5-VL.*polyv upcycle {untrained.backbone}",
        ),
        ("dense", "model=dense is dense: a PolyV with num_experts=0. Expected one with experts"),
        ("llava", "model=llava is of the family llava. Expected a PolyV"),
    ):
        with pytest.raises(ValueError, match=message):
            run([str(untrained.polyv), str(model)], "all", 3, 1, tmp_path / "new" / "routing.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "llava"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": []}, "models: got none, expected at least one"),
        ({"suites": "none"}, "are no suites"),
        ({"n": 0}, "n=0: expected at least 1"),
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"out": Path("file/routing.json")}, "cannot be written in"),
        (
            {"out": Path("routing.png")},
            r"out=routing.png: the picture goes there. Give the JSON report another ending",
        ),
        ({"seed": 4}, "holds scenes of the test split with seed 3; expected .* seed 4"),
    ],
)
def test_arguments_are_checked_before_anything_is_made(changed, message, small_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    arguments = {"models": ["no-model"], "suites": "all", "seed": 3, "n": 1, "out": Path("routing.json")}
    with pytest.raises(ValueError, match=message):
        run(**{**arguments, "world": small_world, **changed})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
