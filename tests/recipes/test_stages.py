# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The stages, one after the other, by their own commands: what each trains, and what it leaves as it was."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig

from polyv import PolyVForConditionalGeneration
from polyv.cli import main as polyv
from polyv.evaluation.assignments import KINDS, token_kinds
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes import align, caption, distill, dry_run, instruct, teacher_spatial, teacher_temporal, vision
from polyv.recipes.collator import ConversationCollator
from polyv.recipes.data import read_source
from polyv.recipes.rows import RowError
from polyv.recipes.stage import DataArguments, ModelArguments, load_model, parse
from polyv.recipes.synergy import SynergyArguments
from polyv.recipes.trainable import WORDS, set_trainable
from polyv.recipes.warm_routers import Moments, warm_routers


@pytest.fixture(scope="module")
def recipe(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    contents = [{"content": {"image": "a.png", "video": "clip.mp4", "scene": "scene"}}] * 3
    (data / "contents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in contents))
    file = folder / "recipe.yaml"
    settings = {
        "dataset": [str(data / "rows.jsonl")],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 5,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "resume_from_checkpoint": "auto",
    }
    file.write_text(yaml.safe_dump(settings))
    return file


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def dense(recipe, start) -> Path:
    from polyv.recipes import pretrain

    out = recipe.parent / "dense"
    pretrain.main(["--config", str(recipe), "--config_name", str(start), "--output_dir", str(out)])
    return out


@pytest.fixture(scope="module")
def captioned(recipe, dense) -> Path:
    out = recipe.parent / "caption"
    arguments = ["--model_name_or_path", str(dense), "--upcycle", "--model_init_kwargs", '{"num_experts": 0}']
    caption.main(["--config", str(recipe), *arguments, "--output_dir", str(out)])
    return out


@pytest.fixture(scope="module")
def by_modality(recipe, captioned) -> dict[str, Path]:
    outs = {}
    for modality in ("image", "video", "scene"):
        outs[modality] = recipe.parent / modality
        arguments = ["--model_name_or_path", str(captioned), "--modality", modality]
        instruct.main(["--config", str(recipe), *arguments, "--output_dir", str(outs[modality])])
    return outs


@pytest.fixture(scope="module")
def merged(recipe, captioned, by_modality) -> Path:
    out = recipe.parent / "merged"
    sources = [word for name, folder in by_modality.items() for word in (f"--{name}", str(folder))]
    assert polyv(["merge", str(captioned), str(out), *sources]) == 0
    return out


@pytest.fixture(scope="module")
def caches(recipe, data) -> list[str]:
    """Features of the media of rows.jsonl and contents.jsonl, by small teachers with random weights."""
    from transformers import VJEPA2Config, VJEPA2Model, VJEPA2VideoProcessor

    from polyv.recipes.multiview import MultiViewConfig, MultiViewModel

    folder = recipe.parent
    VJEPA2Model(
        VJEPA2Config(
            patch_size=8,
            crop_size=16,
            frames_per_clip=4,
            hidden_size=24,
            num_attention_heads=2,
            num_hidden_layers=1,
            pred_hidden_size=24,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
        )
    ).save_pretrained(folder / "t")
    VJEPA2VideoProcessor(crop_size=16).save_pretrained(folder / "t")
    MultiViewModel(MultiViewConfig(side=16, patch=8, hidden_size=32, num_hidden_layers=2)).save_pretrained(
        folder / "s"
    )
    files = [str(data / "rows.jsonl"), str(data / "contents.jsonl")]
    for name in ("t", "s"):
        arguments = ["--teacher", str(folder / name), "--dataset", *files, "--out", str(folder / f"{name}-targets")]
        assert polyv(["teachers", "cache", *arguments]) == 0
    return ["--temporal_targets", str(folder / "t-targets"), "--spatial_targets", str(folder / "s-targets")]


def test_captions_train_the_projection_and_the_encodings(dense, captioned):
    before = PolyVForConditionalGeneration.from_pretrained(dense, num_experts=0, dtype=torch.float32).state_dict()
    after = weights(captioned)
    moved = {name for name in changed(before, after) if "_head" not in name}  # those are drawn anew
    assert moved and all(".visual.merger." in name or "_encoding." in name for name in moved)
    assert {"model.time_encoding.weight", "model.coordinate_encoding.weight"} <= moved
    assert any(".visual.merger." in name for name in moved)
    assert AutoConfig.from_pretrained(captioned).text_config.num_experts == 0


def test_instructions_train_the_feed_forward_networks_of_all_layers(captioned, by_modality):
    before = weights(captioned)
    for folder in by_modality.values():
        moved = changed(before, weights(folder))
        assert all(".language_model.layers." in name and ".mlp." in name for name in moved)
        assert len({name.split(".layers.")[1].split(".")[0] for name in moved}) == 8


def test_merging_makes_an_expert_of_each_modality_and_keeps_the_rest(captioned, by_modality, merged):
    base, result = weights(captioned), weights(merged)
    sources = [weights(by_modality[name]) for name in ("image", "scene", "video")] + [base]
    layers = AutoConfig.from_pretrained(merged).text_config.moe_layers
    assert layers == [3, 7]
    for name, weight in result.items():
        if name.endswith("experts.down_proj"):
            dense_name = name.replace("experts.down_proj", "down_proj.weight")
            assert all(torch.equal(weight[i], source[dense_name]) for i, source in enumerate(sources))
        elif not name.endswith(("experts.gate_up_proj", ".mlp.gate.weight")):
            assert torch.equal(weight, base[name]), name  # the encodings that 1a trained among them


def test_warm_routers_send_tokens_to_their_modalitys_expert(captioned, by_modality, merged, data, tmp_path):
    out = tmp_path / "warm"
    sources = [f"--{name}={folder}" for name, folder in by_modality.items()]
    assert polyv(["merge", str(captioned), str(out), *sources, "--warm-routers", str(data / "rows.jsonl")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["warm"]
    card = (out / "README.md").read_text()
    assert "\n# warm\n" in card and 'from_pretrained("warm")' in card and ".cold" not in card
    assert "Its routers were set from rows of rows.jsonl" in card
    cold, warm = weights(merged), weights(out)
    assert all(torch.equal(warm[name], cold[name]) for name in cold if not name.endswith(".mlp.gate.weight"))

    model, processor = AutoModelForImageTextToText.from_pretrained(out), AutoProcessor.from_pretrained(out)
    inputs = ConversationCollator(processor, ()).encode(list(read_source(str(data / "rows.jsonl"))))
    kinds_N = token_kinds(inputs, None, model.config).flatten()
    with torch.no_grad():
        routed = model(**inputs, output_router_logits=True).router_logits
    for logits_NE in routed:
        own = [logits_NE[kinds_N == KINDS.index(kind)].argmax(-1) for kind in ("image", "scene", "video", "text")]
        assert all((chosen == expert).float().mean() > 0.9 for expert, chosen in enumerate(own))


def test_routers_are_what_tells_kinds_apart():
    """Without noise, and with far more tokens of one kind than of another, all logits are as asked."""
    rows_CD = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    moments = Moments(16)
    kinds_N = torch.tensor([0] * 400 + [1] * 3 + [2] * 5 + [-1] * 9)
    moments.add(rows_CD[kinds_N], kinds_N)
    router_ED = moments.solve([2, 0, 1, 1, 2], 3, strength=2.0)
    logits_CE = rows_CD[:3].double() @ router_ED.T
    differences = logits_CE - logits_CE.mean(-1, keepdim=True)
    assert torch.allclose(differences, 2 * (torch.eye(3)[[2, 0, 1]].double() - 1 / 3), atol=0.05)


@pytest.mark.parametrize(
    "experts", [("image", "general"), ("image", "scene", "video", "video"), ("a", "b", "c", "general")]
)
def test_experts_must_be_named_as_they_are(merged, data, tmp_path, experts):
    with pytest.raises(ValueError, match="has 4 experts; expected a name for each"):
        warm_routers(merged, tmp_path / "out", experts, data / "rows.jsonl")
    assert not list(tmp_path.iterdir())


def test_merging_refuses_a_base_with_experts(merged, tmp_path, capsys):
    assert polyv(["merge", str(merged), str(tmp_path / "out"), "--image", str(merged)]) == 2
    assert "it has 4 experts already; give a dense checkpoint" in capsys.readouterr().err


def test_instructions_need_rows_of_their_modality(recipe, captioned, data, tmp_path):
    (data / "text.jsonl").write_text((data / "rows.jsonl").read_text().splitlines()[4] + "\n")
    arguments = ["--model_name_or_path", str(captioned), "--dataset", str(data / "text.jsonl")]
    with pytest.raises(RowError, match="of 1 rows, none shows only videos"):
        instruct.main(["--config", str(recipe), *arguments, "--modality", "video", "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="modality=audio: expected one of image, video, scene"):
        instruct.main(["--config", str(recipe), *arguments, "--modality", "audio", "--output_dir", str(tmp_path)])


@pytest.fixture(scope="module")
def coarse(recipe, merged, caches, data) -> Path:
    out = recipe.parent / "coarse"
    arguments = ["--model_name_or_path", str(merged), "--dataset", str(data / "contents.jsonl"), *caches]
    distill.main(["--config", str(recipe), *arguments, "--output_dir", str(out)])
    return out


def test_distillation_then_alignment(recipe, coarse, caches, tmp_path):
    log = json.loads((coarse / "trainer_state.json").read_text())["log_history"][0]
    assert {"temporal_loss", "spatial_loss", "aux_loss"} <= log.keys() and "mean_token_accuracy" not in log
    assert AutoConfig.from_pretrained(coarse).temporal_teacher_size == 24
    fine = tmp_path / "fine"
    align.main(["--config", str(recipe), "--model_name_or_path", str(coarse), *caches, "--output_dir", str(fine)])
    log = json.loads((fine / "trainer_state.json").read_text())["log_history"][0]
    assert {"temporal_loss", "spatial_loss", "aux_loss", "mean_token_accuracy"} <= log.keys()
    assert weights(fine).keys() == weights(coarse).keys()


def test_an_upcycled_model_is_taught_with_as_many_tokens_as_its_settings_say(recipe, dense, caches, data, tmp_path):
    arguments = ["--model_name_or_path", str(dense), "--upcycle", *caches, "--dataset", str(data / "contents.jsonl")]
    arguments += ["--model_init_kwargs", '{"num_experts": 0, "num_synergy_tokens": 2}', "--max_steps", "1"]
    distill.main(["--config", str(recipe), *arguments, "--output_dir", str(tmp_path / "two")])
    processor = PolyVProcessor.from_pretrained(tmp_path / "two")
    text = processor.apply_chat_template([{"role": "user", "content": "Is it?"}], add_generation_prompt=True)
    assert text.count("<synergy>") == AutoConfig.from_pretrained(tmp_path / "two").num_synergy_tokens == 2


def test_layers_compile_where_they_are_asked_to(captioned, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **kwargs: compiled.append((layer, kwargs)))
    training = SFTConfig(str(tmp_path), use_cpu=True, bf16=False)
    model = load_model(ModelArguments(str(captioned), compile_layers=True), training)
    assert compiled == [(layer, {"dynamic": True}) for layer in model.model.language_model.layers]


def test_distillation_needs_a_teacher_and_a_polyv(recipe, merged, dense, caches, tmp_path):
    arguments = ["--config", str(recipe), "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="temporal_targets, spatial_targets: got neither"):
        distill.main([*arguments, "--model_name_or_path", str(merged)])
    with pytest.raises(ValueError, match="which has no `<synergy>` to distil into"):
        distill.main([*arguments, "--model_name_or_path", str(dense), *caches])


def test_a_plan_trains_what_the_run_would(recipe, merged, caches, tmp_path, monkeypatch):
    planned = []
    real = dry_run.plan
    monkeypatch.setattr(dry_run, "plan", lambda *args: planned.append(real(*args)) or planned[-1])
    start = ["--config", str(recipe), "--model_name_or_path", str(merged), "--output_dir", str(tmp_path)]
    for given in ([], caches):
        align.main([*start, *given, "--dry_run"])
        arguments, _, synergy, training = parse(
            "align", (ModelArguments, DataArguments, SynergyArguments, SFTConfig), [*start, *given]
        )
        model = load_model(arguments, training, synergy.load())
        assert planned[-1].trainable == sum(one.numel() for one in model.parameters() if one.requires_grad)
        assert planned[-1].parameters == sum(one.numel() for one in model.parameters())
    assert planned[0].trainable != planned[1].trainable


def test_a_plan_tells_eager_attention_from_others_and_what_it_does_not_count(
    recipe, merged, tmp_path, monkeypatch, capsys
):
    planned = []
    real = dry_run.plan
    monkeypatch.setattr(dry_run, "plan", lambda *args: planned.append(real(*args)) or planned[-1])
    start = ["--config", str(recipe), "--model_name_or_path", str(merged), "--output_dir", str(tmp_path), "--dry_run"]
    for kernels in ("eager", {"text_config": "eager", "vision_config": "sdpa"}, "sdpa", "flash_attention_2"):
        align.main([*start, "--model_init_kwargs", json.dumps({"attn_implementation": kernels}), "--bf16", "true"])
    both, text, *others = (each.memory["activations"] for each in planned)
    assert both > text > others[0] == others[1]
    assert "takes otherwise" not in capsys.readouterr().out
    align.main([*start, "--bf16", "false", "--optim", "sgd"])
    assert (
        "under bfloat16 autocast; the recipe has optim: sgd, bf16: false, which takes otherwise"
        in capsys.readouterr().out
    )


def test_a_plan_refuses_what_the_run_would(recipe, dense, merged, caches, tmp_path):
    common = ["--config", str(recipe), *caches, "--output_dir", str(tmp_path)]
    for dry in ([], ["--dry_run"]):
        with pytest.raises(ValueError, match=r"it is a Qwen2_5_VL.*which has no `<synergy>` to distil into"):
            align.main([*common, "--model_name_or_path", str(dense), *dry])
        with pytest.raises(ValueError, match=r"trainable='lora': the synergy heads of .* and an adapter cannot carry"):
            align.main([*common, "--model_name_or_path", str(merged), "--trainable", "lora", *dry])


def test_cards_tell_what_each_stage_trained_and_keep_the_licence(recipe, captioned, by_modality, caches, tmp_path):
    base = shutil.copytree(captioned, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    sources = [word for name in ("image", "video") for word in (f"--{name}", str(by_modality[name]))]
    assert polyv(["merge", str(base), str(tmp_path / "merged"), *sources]) == 0
    card = ModelCard.load(tmp_path / "merged" / "README.md")
    assert card.data.license == "apache-2.0" and f"- video: {by_modality['video']}" in card.text
    arguments = ["--model_name_or_path", str(tmp_path / "merged"), "--freeze_vision", "true", *caches]
    align.main(["--config", str(recipe), *arguments, "--output_dir", str(tmp_path / "fine")])
    card = ModelCard.load(tmp_path / "fine" / "README.md")
    assert card.data.license == "apache-2.0"
    assert "What trained (`full`): all weights, without the vision encoder." in card.text
    assert "of videos (temporal: " in card.text and "of scenes (spatial: " in card.text
    assert "Of the data, the rows about videos alone." in (by_modality["video"] / "README.md").read_text()


def test_a_finished_stage_is_pushed_where_it_is_asked_to(recipe, captioned, tmp_path, monkeypatch):
    pushed = []

    class Hub:
        def create_repo(self, name, **kwargs):
            return SimpleNamespace(repo_id=name)

        def upload_folder(self, folder_path, **kwargs):
            pushed.append({file.name: file.read_bytes() for file in Path(folder_path).iterdir() if file.is_file()})
            return SimpleNamespace(done=lambda: True, result=lambda: None)

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    monkeypatch.setattr("transformers.trainer.hf_api", lambda *args, **kwargs: Hub())
    arguments = ["--model_name_or_path", str(captioned), "--push_to_hub", "true", "--hub_model_id", "me/polyv"]
    align.main(["--config", str(recipe), *arguments, "--output_dir", str(tmp_path / "out")])
    last = pushed[-1]
    assert {"model.safetensors", "config.json", "README.md", "loss.png"} <= last.keys()
    assert last["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert b'from_pretrained("me/polyv")' in last["README.md"]


def test_mistakes_of_the_command_line_are_told_as_such(recipe, merged, tmp_path):
    start = ["--model_name_or_path", str(merged), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="--learning_rat"):
        align.main(["--config", str(recipe), *start, "--learning_rat", "1"])
    with pytest.raises(
        FileNotFoundError, match=r"runs/none-such: there is no such folder. It is what an earlier stage"
    ):
        align.main(["--config", str(recipe), "--model_name_or_path", "runs/none-such"])
    with pytest.raises(FileNotFoundError, match=r"dataset=none.jsonl: there is no such file"):
        align.main(["--config", str(recipe), *start, "--dataset", "none.jsonl"])
    with pytest.raises(ValueError, match=r"1 datasets .*--dataset_weights 1"):
        align.main(["--config", str(recipe), *start, "--dataset_weights", "1", "2"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("dataset: [a, b\n")
    with pytest.raises(ValueError, match=r"config: the recipe is not YAML: .*line"):
        align.main(["--config", str(broken), *start])
    one = tmp_path / "one.yaml"
    one.write_text("dataset: none.jsonl\ndataset_weights: 1\nstudent_sees: video\n")
    kinds = (ModelArguments, DataArguments, SynergyArguments, SFTConfig)
    where = [*start, "--use_cpu", "true", "--bf16", "false"]
    _, read, synergy, _ = parse("align", kinds, ["--config", str(one), *where])
    assert (read.dataset, read.dataset_weights, synergy.student_sees) == (["none.jsonl"], [1.0], ["video"])
    with pytest.raises(FileNotFoundError, match=r"dataset=none.jsonl: there"):
        align.main(["--config", str(one), *where])


def test_unknown_keys_of_a_recipe_are_refused(recipe, merged, tmp_path):
    file = tmp_path / "typo.yaml"
    file.write_text(recipe.read_text() + "coarse_wieght: 2\n")
    with pytest.raises(ValueError, match="coarse_wieght"):
        align.main(["--config", str(file), "--model_name_or_path", str(merged), "--output_dir", str(tmp_path)])


def test_scripts_that_are_no_stages_refuse_abbreviated_fields_too():
    needed = {
        teacher_temporal: ["--videos", "x"],
        teacher_spatial: ["--scenes", "x"],
        vision: ["--world", "x", "--config_name", "x"],
    }
    for module, given in needed.items():
        with pytest.raises(ValueError, match="--learning_rat"):
            module.main([*given, "--output_dir", "x", "--learning_rat", "1"])


@pytest.mark.parametrize("word", [word for word in WORDS if word != "lora"])
def test_a_word_names_what_trains(word, merged):
    model = AutoModelForImageTextToText.from_pretrained(merged)
    set_trainable(model, word)
    free = {name for name, weight in model.named_parameters() if weight.requires_grad}
    kinds = {
        "full": ("",),
        "projection": (".visual.merger.", "_encoding."),
        "ffn": (".layers.",),
        "experts": (".experts.", ".mlp.gate.", "_head.", "_encoding."),
    }[word]
    assert all(any(kind in name for kind in kinds) for name in free)
    assert all(any(kind in name for name in free) for kind in kinds)
    if word == "ffn":
        assert all(".mlp." in name and ".visual." not in name for name in free)
    if word == "full":
        assert free == {name for name, _ in model.named_parameters()}


def test_words_that_name_nothing_are_refused(captioned):
    model = AutoModelForImageTextToText.from_pretrained(captioned)
    with pytest.raises(ValueError, match="trainable='experts': the model is dense"):
        set_trainable(model, "experts")
    with pytest.raises(ValueError, match="trainable='everything': expected one of full"):
        set_trainable(model, "everything")


def test_low_rank_additions_reach_the_experts_and_reload(recipe, merged, coarse, caches, tmp_path):
    from peft import PeftModel

    out = tmp_path / "lora"
    arguments = ["--config", str(recipe), "--trainable", "lora", "--lora_r", "4", *caches, "--output_dir", str(out)]
    with pytest.raises(ValueError, match=r"trainable='lora': the synergy heads of .* are not of the size"):
        align.main([*arguments, "--model_name_or_path", str(merged)])
    align.main([*arguments, "--model_name_or_path", str(coarse)])
    log = json.loads((out / "trainer_state.json").read_text())["log_history"][0]
    assert {"temporal_loss", "spatial_loss", "aux_loss", "mean_token_accuracy"} <= log.keys()
    base = PolyVForConditionalGeneration.from_pretrained(coarse, dtype=torch.float32)
    untouched = {name: weight.clone() for name, weight in base.state_dict().items()}
    result = PeftModel.from_pretrained(base, out).merge_and_unload().state_dict()
    moved = changed(untouched, result)
    for part in (
        "experts.gate_up_proj",
        "experts.down_proj",
        "q_proj",
        "mlp.gate.weight",
        "temporal_head",
        "coordinate",
    ):
        assert any(part in name for name in moved), part
    assert not any(".visual." in name for name in moved)
