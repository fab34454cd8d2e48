# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The `polyv` command: what reaches each part, help that reads as documentation, errors in one line."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyv import cli


COMMANDS = ["ask", "demo", "world make", "world show", "train pretrain", "evaluate", "export"]
GROUPS = ["", "world", "train"]


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
    code = (
        "import sys; sys.argv = ['polyv']; from polyv.cli import build_parser; build_parser();"
        "print([name for name in ('torch', 'transformers', 'numpy', 'mujoco', 'trl', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


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
    for module, name in targets.items():
        if importlib.util.find_spec(module) is None:
            continue
        monkeypatch.setattr(f"{module}.{name}", lambda *a, _m=module, **k: recorded.append((_m, a, k)))
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
    cli.main(["export", "m", "out"])
    assert calls[0] == (
        "polyv.evaluation.evaluate",
        ("m", "scene_qa", 5, 7, Path("r.json")),
        {"world": None, "batch_size": 16},
    )
    assert calls[1] == ("polyv.hub.export", ("m", Path("out")), {})


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
