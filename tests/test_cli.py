# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The `polyv` command: what reaches each part, help that reads as documentation, errors in one line."""

import dataclasses
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import polyv
from polyv import cli
from polyv.recipes.stage import DataArguments, ModelArguments
from polyv.recipes.synergy import SynergyArguments


COMMANDS = [
    "ask", "demo", "world make", "world show", "evaluate", "export", "ablate", "merge", "plan", "routing", "data check", "teachers cache", "teachers probe",
    *(f"train {stage}" for stage in ("pretrain", "caption", "instruct", "distill", "align")),
]  # fmt: skip
GROUPS = ["", "world", "data", "train", "teachers"]


def help_of(command: str, capsys) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli.main([*command.split(), "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_command_does_and_shows_it_used(command, capsys):
    text = help_of(command, capsys)
    assert text.startswith(f"usage: polyv {command}")
    assert f"examples:\n  polyv {command}" in text
    assert len(text.splitlines()[text.splitlines().index("") + 1]) > 60, "no description"
    assert max(map(len, text.splitlines())) <= 119


@pytest.mark.parametrize("stage", ["pretrain", "caption", "instruct", "distill", "align"])
def test_help_names_every_field_that_is_not_trls(stage, capsys):
    told = help_of(f"train {stage}", capsys)
    kinds = [ModelArguments, DataArguments, *([SynergyArguments] if stage in ("distill", "align") else [])]
    fields = {each.name for kind in kinds for each in dataclasses.fields(kind)}
    if stage == "align":
        fields -= {"student_sees"}  # its rows are shown as they are
    assert not [name for name in sorted(fields) if not re.search(rf"--{name}\b", told)]


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group_lists_its_commands(group, capsys):
    text = help_of(group, capsys)
    for command in COMMANDS:
        if command.startswith(group):
            assert f"\n  {command.removeprefix(group).split()[0]}" in text.replace("    ", "  ")


@pytest.mark.parametrize("command", ["", "ask", "evaluate", "train pretrain"])
def test_help_comes_within_a_second(command):
    """The installed command, in its own process. The fastest of three: a busy machine may delay one."""
    program = Path(sys.executable).with_name("polyv")
    if not program.exists():
        pytest.skip("polyv is not installed beside this Python")
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([program, *command.split(), "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1


def test_the_command_line_imports_nothing_heavy():
    program = Path(sys.executable).with_name("polyv")
    code = (
        f"import sys; sys.argv = [{str(program)!r}]; from polyv.cli import build_parser; build_parser();"
        "print([name for name in ('torch', 'transformers', 'numpy', 'mujoco', 'trl', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"polyv {polyv.__version__}\n"


def test_the_command_is_known_by_its_place(tmp_path, monkeypatch):
    program = Path(sys.executable).with_name("polyv")
    if not program.exists():
        pytest.skip("polyv is not installed beside this Python")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "polyv").symlink_to(program)
    (tmp_path / "polyv").touch()
    monkeypatch.chdir(tmp_path)
    cases = {
        str(program): True,
        str(tmp_path / "link" / "polyv"): True,
        "polyv": False,
        str(tmp_path / "polyv"): False,
    }
    for path, expected in {**cases, sys.executable: False, "-c": False, "": False}.items():
        monkeypatch.setattr(sys, "argv", [path])
        assert polyv._is_command() == expected, path


@pytest.mark.slow
def test_another_program_of_that_name_gets_the_auto_classes(tmp_path):
    script = tmp_path / "polyv"
    script.write_text(
        "import polyv\nfrom transformers import AutoModelForImageTextToText\n"
        "from polyv import PolyVConfig\nprint(PolyVConfig in AutoModelForImageTextToText._model_mapping)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.slow
def test_the_installed_command_trains_a_polyv_checkpoint(untrained, tmp_path):
    """In a process of its own: no other import of `polyv` may have told the Auto classes of it."""
    program = Path(sys.executable).with_name("polyv")
    if not program.exists():
        pytest.skip("polyv is not installed beside this Python")
    rows = [{"messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "red"}]}] * 2
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--dataset", tmp_path / "rows.jsonl", "--output_dir", tmp_path / "out", "--max_steps", "1"]
    arguments += ["--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    command = [program, "train", "pretrain", "--model_name_or_path", untrained.polyv, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "polyv"


def test_a_mistake_in_training_arguments_is_told_in_few_lines(capsys):
    assert cli.main(["train", "pretrain", "--config_name", "b"]) == 2
    assert capsys.readouterr().err.startswith("polyv train pretrain: error: dataset: got none.")
    with pytest.raises(SystemExit):
        cli.main(["train", "pretrain", "--max_steps", "many"])
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    "command", ["export /no/such out", "train pretrain --model_name_or_path /no/such --dataset a"]
)
def test_a_folder_that_is_not_there_is_named(command, capsys):
    assert cli.main(command.split()) == 2
    error = capsys.readouterr().err
    assert "/no/such: there is no such folder" in error and len(error.splitlines()) == 1


@pytest.fixture
def calls(monkeypatch):
    """What the commands call, recorded instead of run: (name, args, kwargs)."""
    recorded = []
    targets = {
        "polyv.ask": "run",
        "polyv.demo": "run",
        "polyv.world.make": "make_world",
        "polyv.world.show": "contact_sheet",
        "polyv.recipes.pretrain": "main",
        "polyv.evaluation.evaluate": "run",
        "polyv.hub.export": "export",
    }

    def record(module: str, signature: inspect.Signature):
        def call(*args, **kwargs):
            signature.bind(*args, **kwargs)  # the real one would take this
            recorded.append((module, args, kwargs))

        return call

    for module, name in targets.items():
        if importlib.util.find_spec(module) is None:
            continue
        signature = inspect.signature(getattr(importlib.import_module(module), name))
        monkeypatch.setattr(f"{module}.{name}", record(module, signature))
    return recorded


def test_ask_keeps_the_order_of_media(calls):
    assert cli.main(["ask", "--image", "a.png", "--scene", "s", "--image", "b.png", "--json", "Why?"]) == 0
    media = [("image", "a.png"), ("scene", "s"), ("image", "b.png")]
    expected = ("checkpoints/polyv-nano", "Why?", media)
    assert calls == [("polyv.ask", expected, {"as_json": True, "max_new_tokens": 64})]


def test_ask_needs_no_media_and_forgets_those_of_the_last_call(calls):
    cli.main(["ask", "--image", "a.png", "Why?"])
    cli.main(["ask", "Why?"])
    assert calls[1][1][2] == []


def test_pretrain_hands_on_everything_after_it(calls):
    assert cli.main(["train", "pretrain", "--max_steps", "3", "--config", "c.yaml", "--bf16=false"]) == 0
    assert calls == [("polyv.recipes.pretrain", (["--config", "c.yaml", "--max_steps", "3", "--bf16=false"],), {})]


def test_evaluate_and_export_pass_their_options(calls):
    cli.main(["evaluate", "--model", "m", "--suites", "scene_qa", "--seed", "5", "--n", "7", "--out", "r.json"])
    cli.main(["evaluate", "--model", "m", "--answers", "a.jsonl"])
    cli.main(["export", "m", "out"])
    cli.main(["export", "m", "out", "--dtype", "bfloat16"])
    assert calls[0] == (
        "polyv.evaluation.evaluate",
        ("m", "scene_qa", 5, 7, Path("r.json")),
        {"world": None, "batch_size": 16, "answers": None},
    )
    assert calls.pop(1)[2]["answers"] == Path("a.jsonl")
    assert [call[1] for call in calls[1:]] == [("m", Path("out"), None), ("m", Path("out"), "bfloat16")]


def test_world_and_demo_pass_their_options(calls):
    for command in (
        "world make --scenes 5 --seed 3 --size 64 --split test --workers 2 --out w",
        "world make --scenes 5 --out w",
        "world show w --scenes 6 --out s.png",
        "world show w",
        "demo --model m --seed 4 --out d",
        "demo",
    ):
        assert cli.main(command.split()) == 0
    given = {"scenes": 5, "seed": 3, "size": 64, "split": "test", "workers": 2, "progress": True}
    assert calls[:2] == [
        ("polyv.world.make", (Path("w"),), given),
        ("polyv.world.make", (Path("w"),), {**given, "seed": 0, "size": 112, "split": "train", "workers": None}),
    ]
    # contact_sheet(folder, out, scenes) and run(model, seed, out)
    assert [(args, kwargs) for _, args, kwargs in calls[2:]] == [
        ((Path("w"), Path("s.png"), 6), {}),
        ((Path("w"), Path("world.png"), 4), {}),
        (("m", 4, Path("d")), {}),
        (("checkpoints/polyv-nano", None, Path("demo_output")), {}),
    ]


def test_a_world_is_made_and_shown(tmp_path, capsys):
    world, sheet = tmp_path / "world", tmp_path / "sheet.png"
    make = ["world", "make", "--scenes", "1", "--seed", "5", "--size", "64", "--split", "test", "--workers", "1"]
    assert cli.main([*make, "--out", str(world)]) == 0
    manifest = json.loads((world / "manifest.json").read_text())
    assert {name: manifest[name] for name in ("scenes", "seed", "size", "split")} == {
        "scenes": 1, "seed": 5, "size": 64, "split": "test"
    }  # fmt: skip
    assert cli.main(["world", "show", str(world), "--scenes", "1", "--out", str(sheet)]) == 0
    assert capsys.readouterr().out == f"seed 5\n{world}\n{sheet}\n" and sheet.stat().st_size > 10_000


@pytest.mark.parametrize(
    "command", ["ask", "export a b --c", "world", "evaluate --modell x", "world make --scenes many"]
)
def test_a_wrong_command_line_is_refused_with_its_usage(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(command.split())
    assert exit_.value.code == 2
    assert f"polyv {command.split()[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, TypeError, OSError])
def test_what_the_user_can_mend_ends_in_one_line(error, monkeypatch, capsys):
    def fail(*args):
        raise error("model=x: no such thing,\n  give another")

    monkeypatch.setattr("polyv.hub.export.export", fail)
    monkeypatch.delenv("POLYV_DEBUG", raising=False)
    assert cli.main(["export", "x", "y"]) == 2
    assert capsys.readouterr().err == "polyv export: error: model=x: no such thing, give another\n"
    monkeypatch.setenv("POLYV_DEBUG", "1")
    with pytest.raises(error):
        cli.main(["export", "x", "y"])


def test_a_bug_shows_as_one(monkeypatch):
    monkeypatch.setattr("polyv.hub.export.export", lambda *args: {}["missing"])
    with pytest.raises(KeyError):
        cli.main(["export", "x", "y"])


def test_an_interrupt_says_so(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("polyv.hub.export.export", interrupt)
    assert cli.main(["export", "x", "y"]) == 130
    assert capsys.readouterr().err == "polyv export: interrupted\n"
