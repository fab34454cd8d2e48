# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Export as remote code: flat files, all or nothing, and a checkpoint that loads where the package is not."""

import ast
import json
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from polyv import PolyVForConditionalGeneration, PolyVProcessor
from polyv.hub.export import MODEL_AUTO_MAP, PROCESSOR_AUTO_MAP, export, flat_code, flatten


NANO = Path(__file__).parents[2] / "checkpoints" / "polyv-nano"


@pytest.fixture
def checkpoint(tmp_path):
    """The least that export takes for a PolyV checkpoint."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "polyv"}')
    (folder / "processor_config.json").write_text('{"processor_class": "PolyVProcessor"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_flatten_rewrites_imports_and_keeps_the_rest():
    text = (
        "import torch\nfrom polyv.modeling_polyv.moe import A, B\n\n\ndef f():\n    from polyv.processing.x import C\n"
    )
    assert flatten(text, "f.py") == ("import torch\nfrom .moe import A, B\n\n\ndef f():\n    from .x import C\n")


@pytest.mark.parametrize(
    "line", ["import polyv", "from polyv import PolyVConfig", "from polyv.world.make import x", "    import polyv.hub"]
)
def test_flatten_refuses_imports_that_cannot_be_exported(line):
    with pytest.raises(ValueError, match=r"f\.py: .*cannot be exported"):
        flatten(f"{line}\n", "f.py")


def test_every_exported_file_parses_and_finds_its_siblings():
    code = flat_code()
    for name, text in code.items():
        for node in ast.walk(ast.parse(text, name)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"{node.module}.py" in code, f"{name} imports .{node.module}"
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any((module or "").split(".")[0] in ("polyv", "trl") for module in modules), name


@pytest.mark.parametrize("reference", {*MODEL_AUTO_MAP.values(), *PROCESSOR_AUTO_MAP.values()})
def test_auto_map_names_classes_that_exist(reference):
    module, name = reference.split(".")
    tree = ast.parse(flat_code()[f"{module}.py"])
    assert name in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def test_export_adds_code_and_auto_map_and_leaves_the_source_alone(checkpoint, tmp_path):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    out = export(checkpoint, tmp_path / "a" / "exported")
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert {path.name for path in out.iterdir()} == {*before, *flat_code()}
    assert json.loads((out / "config.json").read_text()) == {"model_type": "polyv", "auto_map": MODEL_AUTO_MAP}
    assert json.loads((out / "processor_config.json").read_text())["auto_map"] == PROCESSOR_AUTO_MAP
    assert (out / "model.safetensors").read_bytes() == b"weights"


def test_export_onto_itself_refreshes_the_code(checkpoint):
    export(checkpoint, checkpoint)
    (checkpoint / "modeling_polyv.py").write_text("old")
    export(checkpoint, checkpoint)
    assert (checkpoint / "modeling_polyv.py").read_text() == flat_code()["modeling_polyv.py"]
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]


def test_a_failed_export_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
    def fail():
        raise ValueError("no code")

    monkeypatch.setattr("polyv.hub.export.flat_code", fail)
    with pytest.raises(ValueError, match="no code"):
        export(checkpoint, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


@pytest.mark.parametrize("failing", ["first", "second"])
def test_a_failed_swap_leaves_the_old_checkpoint(checkpoint, tmp_path, monkeypatch, failing):
    out = export(checkpoint, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (checkpoint / "model.safetensors").write_bytes(b"better weights")
    rename, calls = Path.rename, []

    def fail(self, target):
        calls.append(target)
        if len(calls) == ["first", "second"].index(failing) + 1:
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space left"):
        export(checkpoint, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]


def test_what_a_training_leaves_is_not_exported_but_stays_in_place(checkpoint, tmp_path):
    clean = {path.name for path in export(checkpoint, tmp_path / "clean").iterdir()}
    files = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json", ".cache"]
    for name in (*files, "checkpoint-5/model.safetensors", "runs/events", ".git/config", "__pycache__/a.pyc"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text("left over")
    (checkpoint / "loss.png").write_bytes(b"curve")
    assert {path.name for path in export(checkpoint, tmp_path / "out").iterdir()} == {*clean, "loss.png"}
    before = {path.name for path in checkpoint.iterdir()}
    export(checkpoint, checkpoint)
    assert {path.name for path in checkpoint.iterdir()} == before | clean
    assert (checkpoint / "checkpoint-5" / "model.safetensors").read_text() == "left over"


def test_export_refuses_folders_within_each_other_and_clones(checkpoint, tmp_path):
    inner = checkpoint / "inner"
    with pytest.raises(ValueError, match="lies in the other"):
        export(checkpoint, inner)
    assert not inner.exists()
    shutil.copytree(checkpoint, tmp_path / "again")
    (checkpoint / "checkpoint-5").mkdir()
    shutil.copytree(tmp_path / "again", checkpoint / "checkpoint-5", dirs_exist_ok=True)
    with pytest.raises(ValueError, match="lies in the other"):
        export(checkpoint / "checkpoint-5", checkpoint)
    (tmp_path / "again" / ".git").mkdir()
    with pytest.raises(ValueError, match="is a git clone"):
        export(checkpoint, tmp_path / "again")


def test_dtype_casts_the_weights_and_nothing_else(untrained, tmp_path):
    from safetensors.torch import load_file

    out = export(untrained.polyv, tmp_path / "half", dtype="bfloat16")
    before, after = (load_file(folder / "model.safetensors") for folder in (untrained.polyv, out))
    assert before.keys() == after.keys()
    assert all(after[name].dtype is torch.bfloat16 for name in after)
    assert all(torch.equal(after[name], value.bfloat16()) for name, value in before.items())
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((out / "config.json").read_text())["auto_map"] == MODEL_AUTO_MAP
    whole = export(untrained.polyv, tmp_path / "whole")
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    with pytest.raises(ValueError, match="dtype=int8: expected one of float32"):
        export(untrained.polyv, tmp_path / "eighth", dtype="int8")
    assert not (tmp_path / "eighth").exists()


def test_export_refuses_what_is_no_polyv_checkpoint(checkpoint, tmp_path):
    (checkpoint / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no processor_config\.json"):
        export(checkpoint, tmp_path / "out")
    (checkpoint / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(ValueError, match=r"model_type 'qwen2_5_vl', expected a PolyV checkpoint"):
        export(checkpoint, tmp_path / "out")
    (checkpoint / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        export(checkpoint, tmp_path / "out")


def test_export_does_not_replace_a_folder_of_something_else(checkpoint, tmp_path):
    thesis = tmp_path / "out" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(ValueError, match="is no checkpoint"):
        export(checkpoint, thesis.parent)
    assert thesis.read_text() == "years of work"


def test_an_export_loads_by_the_package_where_it_is(untrained, tmp_path):
    """The checkpoint's own code must not be asked for, nor its permission: the package knows the model type."""
    out = export(untrained.polyv, tmp_path / "out")
    assert type(AutoModelForImageTextToText.from_pretrained(out)) is PolyVForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(out)) is PolyVProcessor


STRANGER = """
    # Loads an exported checkpoint where there is no polyv, and saves it again.
    import importlib.util
    import sys

    assert importlib.util.find_spec("polyv") is None
    import torch
    from PIL import Image
    from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

    torch.set_num_threads(1)
    source, scene, saved = sys.argv[1:]

    def answer(folder):
        model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        assert type(model).__name__ == "PolyVForConditionalGeneration", type(model)
        assert type(processor).__name__ == "PolyVProcessor", type(processor)
        assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
        media = [{"type": "image", "image": Image.new("RGB", (112, 112), "red")}, {"type": "scene", "scene": scene}]
        messages = [{"role": "user", "content": [*media, {"type": "text", "text": "How many objects are there?"}]}]
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert "image_coords" in inputs
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        return model, processor, tokens

    model, processor, tokens = answer(source)
    assert type(AutoModel.from_pretrained(source, trust_remote_code=True)).__name__ == "PolyVModel"
    pipe = pipeline("image-text-to-text", model=source, trust_remote_code=True)
    assert type(pipe.model).__name__ == "PolyVForConditionalGeneration"
    model.save_pretrained(saved)
    processor.save_pretrained(saved)
    assert torch.equal(answer(saved)[2], tokens)
    print("loaded without the package")
"""


@pytest.mark.slow
@pytest.mark.parametrize("committed", [False, True])
def test_an_exported_checkpoint_works_where_the_package_is_not(
    untrained, small_world, tmp_path, monkeypatch, committed
):
    script = tmp_path / "stranger.py"
    script.write_text(textwrap.dedent(STRANGER))
    out = NANO if committed else export(untrained.polyv, tmp_path / "exported")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache" / "modules"))
    # -S reads no .pth file, by which an editable install is found; what pip has installed otherwise is there.
    monkeypatch.setenv("PYTHONPATH", sysconfig.get_path("purelib"))
    arguments = [str(out), str(small_world / "scenes/000000/scene"), str(tmp_path / "saved")]
    command = [sys.executable, "-S", str(script), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded without the package"


def test_the_committed_checkpoint_carries_todays_code():
    for name, text in flat_code().items():
        assert (NANO / name).read_text(encoding="utf-8") == text, f"{name}: run `polyv export {NANO} {NANO}`"
