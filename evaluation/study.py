# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A study: which runs make its arms, in what order, and which are done. Runs are the stages' own commands.

A study's YAML file has, beside its settings, `steps`, in the order of their importance:

    - name: full              # its folder is OUT/CASE/seed-S/full; a control's file OUT/CASE/seed-S/NAME.jsonl
      stage: align            # caption, instruct, distill, align, pretrain, merge, warm, wide or control; none: `from` as it is
      from: full-coarse       # another step, or a checkpoint; becomes model_name_or_path
      config: recipes/polyv-nano/align.yaml
      set: {max_steps: 800}   # fields that differ from the recipe
      arm: true               # is measured

{name} in any text, a field's name included, stands for that field of the case, such as {labelled}; {STEP} for the folder of
a step.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    Required,  # pydantic's own, before Python 3.12
)

import yaml
from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from typing_extensions import TypedDict


STAGES = ("pretrain", "caption", "instruct", "distill", "align")
TOOLS = ("merge", "warm", "wide", "control")
_STRICT = ConfigDict(strict=True, extra="forbid")
_CHANGE_NOTHING = {"logging_steps", "save_steps", "save_total_limit", "report_to", "resume_from_checkpoint"}


def _unlike(values: list) -> list:
    """A run done twice would count as two."""
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError("it holds one of them twice")
    return values


# A part of folders' names, and what may stand in {braces}.
_Name = Annotated[str, Field(pattern=r"^[\w-]+$")]
_Value = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]
_Seeds = Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(_unlike)]
_Step = TypedDict(
    "_Step",
    {
        "name": Required[_Name],
        "stage": Literal["pretrain", "caption", "instruct", "distill", "align", "merge", "warm", "wide", "control"],
        "from": str,
        "config": str,
        "set": dict[str, Any],
        "arm": bool,
        "seeds": _Seeds,
        "cases": dict[_Name, _Value],
    },
    total=False,
)
_Step.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]


class _Asked(TypedDict, total=False):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    world: str
    seed: NonNegativeInt
    n: PositiveInt
    questions: str
    tested: Annotated[list[Annotated[str, Field(pattern=r"^(\{[\w-]+\}|[\w-]+)$")]], Field(min_length=1)]


@checked_dataclass(config=_STRICT)
class Study:
    """What a study's YAML file says.

    Attributes:
        out: folder of all runs. Studies may share it: of a step that is the same in both one makes the checkpoint, and each
            measures it.
        steps: see the module.
        seeds: each step runs once for each.
        cases: of a study of several, the fields by which they differ.
        workers: runs at once, one thread each.
        hours: no run begins later; 0 sets no limit.
        common: fields set in every stage's recipe.
        against: arms with which each other one is compared, see `polyv.evaluation.compare`.
        test: what arms are measured on: `world`, `seed` and `n` as of `polyv evaluate`; or `questions`, a JSONL file, with
            `tested: [image, video]` one for each, of which {tested} stands in the file's name.
        results: JSON file of the table, with a Markdown file and a picture beside it, and what each run reached: see
            `polyv.evaluation.measurements`.
    """

    out: str
    steps: Annotated[list[_Step], Field(min_length=1)]
    test: _Asked
    results: Annotated[str, Field(pattern=r"\.json$")]
    seeds: _Seeds = field(default_factory=lambda: [0])
    cases: Annotated[list[dict[_Name, _Value]], Field(min_length=1), AfterValidator(_unlike)] = field(
        default_factory=lambda: [{}]
    )
    workers: PositiveInt = 1
    hours: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    common: dict[str, Any] = field(default_factory=dict)
    against: list[str] = field(default_factory=list)

    def __post_init__(self):
        names = [step["name"] for step in self.steps]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"steps: {', '.join(twice)}: expected a name of its own for each.")
        if taken := sorted(set(names) & {"seed", "tested", *(name for case in self.cases for name in case)}):
            raise ValueError(
                f"steps: {', '.join(taken)} is the name of a field as well; {{{taken[0]}}} would be both."
            )
        if missing := sorted(set(self.against) - {step["name"] for step in self.steps if step.get("arm")}):
            raise ValueError(f"against: {', '.join(missing)} is no arm; expected names of steps with `arm: true`.")
        if set(self.test) not in ({"questions"}, {"questions", "tested"}, {"world", "seed", "n"}):
            raise ValueError(
                f"test: got {sorted(self.test)}, expected `questions` (and `tested`), or `world`, `seed` and `n`."
            )

        if "world" in self.test and self.cases != [{}]:
            raise ValueError("cases: a study whose `test` is a world has none; give files of `questions` to test on.")
        builds = {step["name"]: Run(self, step, self.cases[0], self.seeds[0]).needs() for step in self.steps}
        try:
            TopologicalSorter(
                {name: [need.step["name"] for need in needs] for name, needs in builds.items()}
            ).prepare()
        except CycleError as error:
            raise ValueError(
                f"steps: {' needs '.join(reversed(error.args[1]))}: none of them can be first."
            ) from error
        self._check_runs()

    def _check_runs(self) -> None:
        runs: dict[str, Run] = {}
        for run in self.runs():
            if run.name in runs:
                raise ValueError(f"cases: {run.case} and {runs[run.name].case} would share the folder {run.folder}.")
            runs[run.name] = run
        for run in runs.values():
            if lacking := [need for need in run.needs() if need.name not in runs]:
                raise ValueError(
                    f"steps: {run.step['name']} builds upon {lacking[0].step['name']}, which is of other seeds or cases: there "
                    f"is no {lacking[0].name}."
                )

    @classmethod
    def read(cls, file: str | os.PathLike) -> "Study":
        """Raises ValueError where the file is not that of a study."""
        try:
            settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"config={file}: it is not YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
            raise ValueError(f"config={file}: it describes no study: expected a mapping, got {settings!r:.80}.")
        try:
            return cls(**settings)
        except ValidationError as error:
            told = [_said(each) for each in error.errors(include_url=False)]
            raise ValueError(f"config={file}: it describes no study: {'; '.join(told)}.") from error

    def runs(self) -> list["Run"]:
        """Every run, in order: step by step, of each all cases and seeds."""
        return [
            Run(self, step, case, seed)
            for step in self.steps
            for case in self.cases
            if _applies(step, case)
            for seed in step.get("seeds", self.seeds)
        ]


def _said(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors, in a line: where, what, and what came."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}".removeprefix(": ").rstrip(".")
    came = "" if error["type"] in ("missing", "extra_forbidden") else f", got {error['input']!r:.80}"
    return f"{where}: {error['msg']}{came}"


def _applies(step: Mapping[str, Any], case: Mapping[str, str]) -> bool:
    """A step may be of some cases only: {family: temporal}."""
    return all(case.get(name) == value for name, value in (step.get("cases") or {}).items())


@dataclass
class Test:
    """One measurement of an arm.

    Attributes:
        fields: by which it differs from the arm's others.
        report: what is written.
        settings: by which it tells apart what was asked otherwise: `Study.test`'s, but for what `fields` say.
    """

    __test__ = False  # not one of pytest's

    fields: dict[str, str]
    report: Path
    settings: dict[str, Any]

    @property
    def questions(self) -> Path | None:
        """A file of questions; None where those of a world are asked."""
        return Path(self.settings["questions"]) if "questions" in self.settings else None

    @property
    def answers(self) -> Path:
        """All questions with what was answered, a JSONL file beside the report."""
        return self.report.with_name(self.report.name.replace("report.json", "answers.jsonl"))


@dataclass
class Run:
    """One step of a study, for one case and seed."""

    study: Study
    step: Mapping[str, Any]
    case: dict[str, str]
    seed: int

    @property
    def name(self) -> str:
        return "/".join(
            [*(["-".join(self.case.values())] if self.case else []), f"seed-{self.seed}", self.step["name"]]
        )

    @property
    def folder(self) -> Path:
        """Where its checkpoint is, or will be; a step without a stage is where it comes from."""
        if self.step.get("stage") is None:
            return self.start()
        return self._folder_of(self.step["name"])

    def beside(self, ending: str) -> Path:
        """A file that belongs to the run, named after its folder."""
        folder = self._folder_of(self.step["name"])
        return folder.with_name(f"{folder.name}.{ending}")

    def tests(self) -> list["Test"]:
        """What is measured: nothing, where the step is no arm."""
        if not self.step.get("arm"):
            return []
        study = Path(self.study.results).stem
        if "questions" not in self.study.test:
            return [Test({}, self.beside(f"{study}.report.json"), dict(self.study.test))]
        questions = self._fill(self.study.test["questions"])
        tests = []
        for kind in self._fill(self.study.test.get("tested", [None])):
            file = questions if kind is None else questions.replace("{tested}", kind)
            fields = {} if kind is None else {"tested": kind}
            report = ".".join([study, *fields.values(), "report.json"])
            tests.append(Test(fields, self.beside(report), {"questions": file}))
        return tests

    def needs(self) -> list["Run"]:
        """The runs that must be done before."""
        steps = {step["name"]: step for step in self.study.steps}
        common = self.study.common if self.step.get("stage") in STAGES else {}
        text = json.dumps([common, self.step.get("set", {}), self.step.get("from", "")])
        named = set(re.findall(r"{([\w-]+)}", text)) | {self.step.get("from")}
        return [Run(self.study, steps[name], self.case, self.seed) for name in steps if name in named]

    def is_done(self) -> bool:
        """Whether its checkpoint is there."""
        if self.step.get("stage") is None:
            return all(need.is_done() for need in self.needs())
        if self.step["stage"] in STAGES:
            return (self.folder / "trainer_state.json").is_file()  # written last
        return self.folder.exists()

    def settings(self) -> dict[str, Any]:
        """The whole recipe of a stage: that of its file, with what differs."""
        recipe = yaml.safe_load(Path(self.step["config"]).read_text(encoding="utf-8"))
        start = {"model_name_or_path": self._start(), "output_dir": str(self.folder), "seed": self.seed}
        return self._fill({**recipe, **self.study.common, **start, **self.step.get("set", {})})

    def options(self) -> dict[str, Any]:
        """What a tool is told."""
        return self._fill(dict(self.step.get("set", {})))

    def recipe(self) -> str:
        """Tells apart what was made otherwise: a hash of the settings of the run and of all that it builds upon, but for
        those that change no weight. What stands in the files that they name, it does not see."""
        stage = self.step.get("stage")
        made: Any = self._start()
        if stage in STAGES:
            made = {name: value for name, value in self.settings().items() if name not in _CHANGE_NOTHING}
        elif stage:
            made = [self._start(), self.options()]
        text = json.dumps([stage, made, [need.recipe() for need in self.needs()]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def start(self) -> Path:
        return Path(self._start())

    def _start(self) -> str:
        start = self.step.get("from", "")
        names = [step["name"] for step in self.study.steps]
        found = next((run for run in self.needs() if run.step["name"] == start), None) if start in names else None
        return str(found.folder) if found else self._fill(start)

    def _folder_of(self, name: str) -> Path:
        parts = ["-".join(self.case.values())] if self.case else []
        stage = next(step.get("stage") for step in self.study.steps if step["name"] == name)
        file = f"{name}.jsonl" if stage == "control" else name  # a control is data
        return Path(self.study.out, *parts, f"seed-{self.seed}", file)

    def _fill(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._fill(key): self._fill(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._fill(each) for each in value]
        if not isinstance(value, str):
            return value
        known = {**self.case, "seed": str(self.seed)}
        known |= {step["name"]: str(self._folder_of(step["name"])) for step in self.study.steps}
        return re.sub(r"{([\w-]+)}", lambda found: known.get(found[1], found[0]), value)


__all__ = ["Run", "Study", "Test"]
