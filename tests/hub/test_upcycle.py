# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from polyv import PolyVConfig, PolyVForConditionalGeneration, PolyVProcessor, cli
from polyv.hub import upcycle, weight_files
from polyv.hub.upcycle import upcycle_to_disk
from tests import tiny
from tests.tiny_tokenizer import build_qwen_processor


PLACEMENTS = {
    "every 4th": {},
    "every": {"decoder_sparse_step": 1},
    "front half": {"decoder_sparse_step": 1, "mlp_only_layers": [4, 5, 6, 7]},
    "2 experts": {"num_experts": 2},
    "dense": {"num_experts": 0},
}


@pytest.fixture
def source(tmp_path):
    return tiny.save_dense(tiny.dense(), tmp_path / "dense", max_shard_size="100KB")


def weights_of(folder) -> dict[str, torch.Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def assert_as_in_memory(source, out, seed=0, **overrides):
    torch.manual_seed(seed)
    model = PolyVForConditionalGeneration.from_pretrained(source, **overrides)
    model.save_pretrained(memory := out.with_name("memory"))
    wanted, got = weights_of(memory), weights_of(out)
    assert got.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert got[name].dtype == weight.dtype and torch.equal(got[name], weight), name
    for file in ("config.json", "generation_config.json"):
        assert json.loads((out / file).read_text()) == json.loads((memory / file).read_text())
    loaded, info = PolyVForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    batch = tiny.inputs(tiny.MIXED, synergy=False)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_weight_is_what_the_in_memory_route_gives(source, tmp_path, placement):
    options = {"synergy_token_id": tiny.SYNERGY, **PLACEMENTS[placement]}
    out = upcycle_to_disk(source, tmp_path / "out", max_shard_size="100KB", progress=False, **options)
    assert len(list(out.glob("*.safetensors"))) > 3
    assert_as_in_memory(source, out, **options)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_any_names_tied_or_not_in_bfloat16(tmp_path, tied, legacy):
    source = tiny.save_dense(tiny.dense(tied=tied).bfloat16(), tmp_path / "dense", legacy_names=legacy)
    options = {"synergy_token_id": tiny.SYNERGY, "temporal_teacher_size": 12, "spatial_teacher_size": 20}
    assert_as_in_memory(source, upcycle_to_disk(source, tmp_path / "out", seed=3, **options), seed=3, **options)


@pytest.mark.parametrize("tied", [True, False])
def test_the_vocabulary_grows_and_the_processor_comes_along(tmp_path, tied):
    processor = build_qwen_processor()
    model = tiny.dense(tied=tied, vocab_size=264)
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        token = f"<|{name.removesuffix('_token_id')}{'' if 'vision' in name else '_pad'}|>"
        setattr(model.config, name, processor.tokenizer.convert_tokens_to_ids(token))
    source = tiny.save_dense(model, tmp_path / "dense")
    processor.save_pretrained(source)
    out = upcycle_to_disk(source, tmp_path / "out", progress=False)
    grown = PolyVForConditionalGeneration.from_pretrained(out)
    memory = PolyVForConditionalGeneration.from_pretrained(source)
    assert grown.config.synergy_token_id == memory.config.synergy_token_id == 264
    assert grown.config.text_config.to_dict() == memory.config.text_config.to_dict()
    for one, other in ((grown.get_input_embeddings(), memory.get_input_embeddings()), (grown.lm_head, memory.lm_head)):
        assert torch.equal(one.weight, other.weight) and len(one.weight) == 265
    assert AutoProcessor.from_pretrained(out).synergy_token_id == 264
    several = upcycle_to_disk(source, tmp_path / "several", progress=False, num_synergy_tokens=3)
    assert AutoProcessor.from_pretrained(several).num_synergy_tokens == 3
    with pytest.raises(ValueError, match=r"synergy_token_id=7: the tokenizer of .* reads `<synergy>` as 264"):
        upcycle_to_disk(source, tmp_path / "other", progress=False, synergy_token_id=7)
    assert not (tmp_path / "other").exists()


def test_experts_come_from_the_checkpoints_of_their_modalities(source, tmp_path):
    names = ("video", "image", "scene")
    merge = {name: tiny.save_dense(tiny.dense(seed), tmp_path / name) for seed, name in enumerate(names, start=1)}
    options = {"synergy_token_id": tiny.SYNERGY, "progress": False}
    merged = weights_of(upcycle_to_disk(source, tmp_path / "merged", merge=merge, **options))
    plain = weights_of(upcycle_to_disk(source, tmp_path / "plain", **options))
    order = [tiny.dense(seed).model.language_model for seed in (2, 3, 1, 0)]  # image, scene, video, the source's own
    for name, weight in merged.items():
        if ".experts." not in name:
            assert torch.equal(weight, plain[name])
            continue
        layer = int(name.split("layers.")[1].split(".")[0])
        for expert, dense in zip(weight, order, strict=True):
            ffn = dense.layers[layer].mlp
            wanted = [ffn.gate_proj.weight, ffn.up_proj.weight] if "gate_up" in name else [ffn.down_proj.weight]
            assert torch.equal(expert, torch.cat(wanted))
    config = PolyVForConditionalGeneration.from_pretrained(tmp_path / "merged").config
    assert config.text_config.num_experts == 4


def test_a_plan_tells_the_experts_of_each_layer(source, tmp_path):
    video = tiny.save_dense(tiny.dense(1), tmp_path / "video")
    plan = {3: ["video", "general", "general"], 7: ["general", "video", "video"]}
    options = {"synergy_token_id": tiny.SYNERGY, "progress": False, "merge": {"video": video}}
    made = weights_of(upcycle_to_disk(source, tmp_path / "out", plan=plan, **options))
    models = {"video": tiny.dense(1), "general": tiny.dense(0)}
    for layer, names in plan.items():
        down = made[f"model.language_model.layers.{layer}.mlp.experts.down_proj"]
        for expert, name in zip(down, names, strict=True):
            assert torch.equal(expert, models[name].model.language_model.layers[layer].mlp.down_proj.weight)
    for wrong, message in [
        ({3: ["video"] * 2}, r"plan: it tells of the layers \[3\], but those with experts are \[3, 7\]"),
        ({3: ["video"] * 2, 7: ["video"]}, r"plan\[7\]: got \['video'\], expected 2 of video, general"),
        ({3: ["image"] * 2, 7: ["video"] * 2}, r"plan\[3\]: got \['image', 'image'\], expected 2 of video, general"),
        ({3: ["video"], 7: ["general"]}, r"plan\[3\]: got \['video'\], expected 2 of video, general"),
        ({3: [None] * 2, 7: ["video"] * 2}, r"plan\[3\]: got \[None, None\], expected 2 of"),
        ({3: ["general"] * 2, 7: ["general"] * 2}, "plan: no expert comes from video, which `merge` gives"),
    ]:
        with pytest.raises(ValueError, match=message):
            upcycle_to_disk(source, tmp_path / "wrong", plan=wrong, **options)
    for no_plan in ({}, [["video"] * 2], {"3": ["video"] * 2}, {3: "video"}):
        with pytest.raises(TypeError, match=r"plan: got .*, expected \{layer: \[checkpoint, "):
            upcycle_to_disk(source, tmp_path / "wrong", plan=no_plan, **options)
    with pytest.raises(ValueError, match="num_experts=4: the checkpoints given make 3 experts"):
        upcycle_to_disk(source, tmp_path / "wrong", plan=plan, num_experts=4, **options)
    assert not (tmp_path / "wrong").exists()


def test_a_killed_run_goes_on_where_it_stopped(source, tmp_path, monkeypatch):
    options = {"synergy_token_id": tiny.SYNERGY, "max_shard_size": "100KB", "progress": False}
    whole = weights_of(upcycle_to_disk(source, tmp_path / "whole", **options))

    def run(stop_after: int | None, **more) -> tuple[int, dict | None]:
        """How many shards were written, and what there is of them."""
        written: list[int] = []

        def fsync(descriptor):
            if len(written) == stop_after:
                raise KeyboardInterrupt
            written.append(descriptor)

        monkeypatch.setattr(upcycle.os, "fsync", fsync)
        if stop_after is None:
            upcycle_to_disk(source, tmp_path / "out", **options, **more)
            return len(written), None
        with pytest.raises(KeyboardInterrupt):
            upcycle_to_disk(source, tmp_path / "out", **options, **more)
        assert not (tmp_path / "out").exists()
        partial = tmp_path / ".out.partial"
        return len(written), {file.name: file.stat().st_mtime_ns for file in partial.glob("model*.safetensors")}

    total = len(list((tmp_path / "whole").glob("*.safetensors")))
    count, first = run(3)
    assert count == len(first) == 3
    count, other = run(2, seed=5)
    assert count == len(other) == 2 and other.items().isdisjoint(first.items()), "another request begins anew"
    _, begun = run(2)
    cut_short = tmp_path / ".out.partial" / min(begun)
    cut_short.write_bytes(cut_short.read_bytes()[:-1])
    count, more = run(2)  # the one cut short, and one more
    assert count == 2 and len(more) == 3 and len(begun.items() & more.items()) == 1
    assert run(None) == (total - 3, None)
    got = weights_of(tmp_path / "out")
    assert got.keys() == whole.keys() and all(torch.equal(got[name], whole[name]) for name in whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "out", "whole"]


def test_killed_after_the_last_shard_it_writes_what_is_missing(source, tmp_path, monkeypatch):
    """At each of the last steps: the index, the configuration, the processor, the move to its place."""
    build_qwen_processor().save_pretrained(source)
    options = {"max_shard_size": "100KB", "progress": False}
    whole = upcycle_to_disk(source, tmp_path / "whole", **options)

    def killed(*_, **__):
        raise KeyboardInterrupt

    shards = None
    for owner, step in (
        (upcycle, "_finish"),
        (PolyVConfig, "save_pretrained"),
        (PolyVProcessor, "save_pretrained"),
        (upcycle.Path, "unlink"),
    ):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, step, killed)
            upcycle_to_disk(source, tmp_path / "out", **options)
        if owner is upcycle.Path:
            break  # moved already: only the note of what was asked for is left over
        assert not (tmp_path / "out").exists()
        times = {file: file.stat().st_mtime_ns for file in (tmp_path / ".out.partial").glob("*.safetensors")}
        assert shards in (None, times), "shards were written again"
        shards = times
    for file in whole.iterdir():
        expected = file.read_bytes().replace(b"whole", b"out") if file.name == "README.md" else file.read_bytes()
        assert (tmp_path / "out" / file.name).read_bytes() == expected, file.name


def test_a_source_that_changes_between_two_runs_is_read_anew(source, tmp_path, monkeypatch):
    options = {"synergy_token_id": tiny.SYNERGY, "max_shard_size": "100KB", "progress": False}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(upcycle, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        upcycle_to_disk(source, tmp_path / "out", **options)
    shutil.rmtree(source)
    tiny.save_dense(tiny.dense(seed=7), source, max_shard_size="100KB")
    assert_as_in_memory(source, upcycle_to_disk(source, tmp_path / "out", **options), synergy_token_id=tiny.SYNERGY)


def test_two_processes_do_not_write_one_result(source, tmp_path, monkeypatch):
    options = {"synergy_token_id": tiny.SYNERGY, "progress": False}

    def meanwhile(*_):
        with pytest.raises(BlockingIOError, match=r"out=.*: another process is writing it"):
            upcycle_to_disk(source, tmp_path / "out", **options)
        monkeypatch.undo()

    monkeypatch.setattr(upcycle.os, "fsync", meanwhile)
    upcycle_to_disk(source, tmp_path / "out", **options)
    assert_as_in_memory(source, tmp_path / "out", synergy_token_id=tiny.SYNERGY)


def test_where_the_system_cannot_copy_between_files_python_does(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("not between these file systems")

    monkeypatch.setattr(weight_files.os, "copy_file_range", refuse)
    monkeypatch.setattr(weight_files, "_PIECE", 1000)
    out = upcycle_to_disk(source, tmp_path / "out", synergy_token_id=tiny.SYNERGY, progress=False)
    assert_as_in_memory(source, out, synergy_token_id=tiny.SYNERGY)


def test_one_file_counts_before_an_index_left_beside_it(source, tmp_path):
    """In this order, as `from_pretrained`."""
    tiny.save_dense(tiny.dense(seed=7), tmp_path / "new")
    shutil.copy(tmp_path / "new" / "model.safetensors", source)
    out = upcycle_to_disk(source, tmp_path / "out", synergy_token_id=tiny.SYNERGY, progress=False)
    assert_as_in_memory(source, out, synergy_token_id=tiny.SYNERGY)


def test_weights_of_another_dtype_than_the_configuration_says_become_what_it_says(tmp_path, monkeypatch):
    source = tiny.save_dense(tiny.dense().bfloat16(), tmp_path / "dense")
    config = json.loads((source / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (source / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(weight_files, "_PIECE", 1000)  # several pieces a weight
    out = upcycle_to_disk(source, tmp_path / "out", synergy_token_id=tiny.SYNERGY, progress=False)
    assert {weight.dtype for weight in weights_of(out).values()} == {torch.float32}
    assert_as_in_memory(source, out, synergy_token_id=tiny.SYNERGY)


def test_too_little_room_is_told_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(OSError, match=r"GB are needed, 0\.0 GB are free"):
        upcycle_to_disk(source, tmp_path / "out", synergy_token_id=tiny.SYNERGY)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def damage(source, what: str) -> None:
    file = next(
        file
        for file in source.glob("*.safetensors")
        if re.search(r"layers\.\d\.mlp\.down_proj", str(load_file(file).keys()))
    )
    if what == "no shard":
        file.unlink()
    elif what == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif what == "missing in a layer of experts":
        for file in source.glob("*.safetensors"):
            kept = {name: weight for name, weight in load_file(file).items() if "layers.3.mlp.up_proj" not in name}
            save_file(kept, file, {"format": "pt"})
    else:
        weights = load_file(file)
        name = next(name for name in weights if "layers" in name and name.endswith("mlp.down_proj.weight"))
        weight = weights.pop(name)
        if what == "other shape":
            weights[name] = weight[:-8].clone()
        elif what == "superfluous":
            weights |= {name: weight, "model.extra.weight": weight.clone()}
        save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("no shard", FileNotFoundError, r"dense: incomplete, model-\d+-of-\d+\.safetensors is missing"),
        ("cut short", ValueError, r"model-\d+-of-\d+\.safetensors: damaged, cut short"),
        ("missing", ValueError, r"does not fit: model\.language_model\.layers\.\d\.mlp\.down_proj\.weight is missing"),
        (
            "other shape",
            ValueError,
            r"mlp\.(experts\.)?down_proj(\.weight)? needs \[48, 64\], its parts make \[40, 64\]",
        ),
        ("superfluous", ValueError, r"does not fit: model\.(language_model\.)?extra\.weight has no place"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(source, tmp_path, what, error, message):
    damage(source, what)
    with pytest.raises(error, match=message):
        upcycle_to_disk(source, tmp_path / "out", synergy_token_id=tiny.SYNERGY)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_an_incomplete_checkpoint_to_merge_is_named(source, tmp_path):
    for what, error, message in [
        ("no shard", FileNotFoundError, r"video: incomplete, model-\d+-of-\d+\.safetensors is missing"),
        (
            "missing in a layer of experts",
            ValueError,
            r"video does not fit: .*layers\.3\.mlp\.up_proj\.weight is missing",
        ),
    ]:
        video = tiny.save_dense(tiny.dense(1), tmp_path / what / "video", max_shard_size="100KB")
        damage(video, what)
        with pytest.raises(error, match=message):
            upcycle_to_disk(source, tmp_path / "out", merge={"video": video}, synergy_token_id=tiny.SYNERGY)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


def test_bad_arguments_are_named(source, tmp_path):
    other = tiny.save_dense(tiny.dense(intermediate_size=72), tmp_path / "other")
    polyv = tmp_path / "polyv"
    tiny.polyv().save_pretrained(polyv)
    for error, message, arguments in [
        (FileExistsError, "out=.*other: it exists already", {"out": other}),
        (FileNotFoundError, "source=.*nowhere", {"source": tmp_path / "nowhere"}),
        (FileNotFoundError, "video=.*nowhere", {"merge": {"video": tmp_path / "nowhere"}}),
        (ValueError, "merge: got audio, expected some of image, scene, video", {"merge": {"audio": other}}),
        (
            ValueError,
            r"num_experts=3: the checkpoints given make 2 experts",
            {"merge": {"image": source}, "num_experts": 3},
        ),
        (ValueError, r"other do not fit .* `moe_intermediate_size` is 64, not 72", {"merge": {"image": other}}),
        (ValueError, "source=.*polyv: it has 4 experts already", {"source": polyv}),
        (TypeError, "experts: no argument of PolyVConfig", {"experts": 2}),
    ]:
        with pytest.raises(error, match=message):
            upcycle_to_disk(**{"source": source, "out": tmp_path / "out", **arguments})
    assert not (tmp_path / "out").exists()


def test_the_command(source, tmp_path, capsys):
    processor = build_qwen_processor()
    processor.save_pretrained(source)  # 264 tokens: `<synergy>` takes row 264 of 320
    out = str(tmp_path / "out")
    arguments = ["--experts", "2", "--top-k", "1", "--placement", "front-half", "--from", f"video={source}"]
    arguments += ["--synergy-layer", "4", "--synergy-tokens", "3"]
    assert cli.main(["upcycle", str(source), out, *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == out
    config = PolyVForConditionalGeneration.from_pretrained(out).config
    text = config.text_config
    assert (text.num_experts, text.num_experts_per_tok, text.moe_layers) == (2, 1, [0, 1, 2, 3])
    assert (config.synergy_layer, config.num_synergy_tokens) == (4, 3)
    assert AutoProcessor.from_pretrained(out).synergy_token_id == 264
    for wrong in ("video", "video=", f"video={source} --from video={source}"):
        assert cli.main(["upcycle", str(source), f"{out}2", "--from", *wrong.split()]) == 2
        assert "expected MODALITY=CHECKPOINT, each modality once" in capsys.readouterr().err
    assert cli.main(["upcycle", str(source), f"{out}2", "--synergy-layer", "99"]) == 2
    assert "`synergy_layer` is 99" in capsys.readouterr().err
    assert cli.main(["upcycle", str(source), out]) == 2
    assert "it exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 300, "../model.safetensors", 7])
def test_an_index_that_names_no_files_is_damaged(source, tmp_path, name):
    index = source / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][next(iter(content["weight_map"]))] = name
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index\.json: damaged, it names no files of weights"):
        upcycle_to_disk(source, tmp_path / "out", synergy_token_id=tiny.SYNERGY)
