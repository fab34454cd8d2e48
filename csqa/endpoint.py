# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Structured answers of a language model behind an OpenAI-compatible endpoint, kept on disk by the hash of what was asked.

The official client reads OPENAI_API_KEY and OPENAI_BASE_URL from the environment, waits and tries again on 429 and 5xx, and
makes the JSON Schema of a pydantic model the format of the answer. Nothing of the key is written or told anywhere.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from polyv.csqa.records import first_fault


_Form = TypeVar("_Form", bound=BaseModel)
_Result = TypeVar("_Result")
_RETRIES = 6
_TIMEOUT = 60.0  # seconds


class MalformedError(ValueError):
    """What the model answered does not have the form that was asked for."""


class EndpointError(OSError):
    """The endpoint does not answer, or refuses to."""


class _Probe(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str


class Endpoint:
    """Asks one model, with at most `concurrency` requests at a time.

    Args:
        model: as the endpoint calls it.
        cache: JSON Lines to which every answer is added at once: what was asked before is not asked again.
        concurrency: requests at a time.

    Raises:
        EndpointError: the package `openai` is not installed, or there is no key in OPENAI_API_KEY.
        ValueError: `concurrency` is below 1.
    """

    def __init__(self, model: str, cache: Path, concurrency: int = 8):
        try:
            import openai
        except ImportError as error:
            raise EndpointError("wording by a model needs the package openai: pip install 'polyv[wording]'") from error
        self._openai = openai
        try:
            self._client = self._connect()
        except openai.OpenAIError as error:
            raise EndpointError(f"{error} A local server takes any: OPENAI_API_KEY=none.") from error
        if concurrency < 1:
            raise ValueError(f"concurrency: got {concurrency}, expected 1 or more.")
        self.model = model
        self._cache = cache
        self._known = _read_cache(cache)
        self._concurrency = concurrency
        self._probing = False

    @property
    def url(self) -> str:
        """Where it is, without what may be secret in it."""
        parts = urlsplit(str(self._client.base_url))
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def run(self, jobs: Sequence[Coroutine[Any, Any, _Result]], done: Callable[[], object]) -> list[_Result]:
        """The results of all jobs, in their order; `done` is called after each. The first that fails stops the others, and its
        exception is raised."""

        async def counted(job: Coroutine[Any, Any, _Result]) -> _Result:
            result = await job
            done()
            return result

        async def together() -> list[_Result]:
            # Both belong to one loop.
            self._places = asyncio.Semaphore(self._concurrency)
            async with self._connect() as self._client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(counted(job)) for job in jobs]
            return [task.result() for task in tasks]

        try:
            return asyncio.run(together())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _connect(self) -> Any:
        return self._openai.AsyncOpenAI(max_retries=_RETRIES, timeout=_TIMEOUT)

    async def ask(self, form: type[_Form], instructions: str, text: str) -> _Form:
        """The model's answer to `text` in the form of a pydantic model.

        Raises:
            MalformedError: it has another form, was cut off, or is a refusal.
            EndpointError: there is no answer, after all attempts.
        """
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": text}]
        asked = [str(self._client.base_url), self.model, messages, form.model_json_schema()]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if key not in self._known:
            async with self._places:
                answer = await self._request(form, messages)
            self._known[key] = answer
            self._keep({"key": key, **answer})
        answer = self._known[key]
        if answer["content"] is None:
            raise MalformedError(answer["fault"])
        return form.model_validate_json(answer["content"])

    async def probe(self) -> None:
        """Ask for anything, to learn whether the model answers at all. EndpointError if it does not."""
        self._probing = True
        try:
            await self.ask(_Probe, "Say something in the form asked for.", "Say something.")
        except MalformedError:
            pass  # it answers
        finally:
            self._probing = False

    async def _request(self, form: type[BaseModel], messages: Any) -> dict[str, str | None]:
        openai = self._openai
        try:
            reply = await self._client.chat.completions.parse(
                model=self.model, messages=messages, response_format=form
            )
            message = reply.choices[0].message
        except ValidationError as error:
            return {"content": None, "fault": first_fault(error)}
        except (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError) as error:
            return {"content": None, "fault": f"cut off: {type(error).__name__}"}
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            # Of a model that has answered, this one question is what it refuses.
            if self._probing:
                raise self._failed(error) from None
            return {"content": None, "fault": f"refused: {self._told(error)}"}
        except (
            openai.OpenAIError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # no protocol, no form
            raise self._failed(error) from None
        if message.parsed is None:
            return {"content": None, "fault": f"refused: {message.refusal}"}
        return {"content": message.parsed.model_dump_json(), "fault": None}

    def _failed(self, error: Exception) -> EndpointError:
        what = self._told(error) or "no answer of that protocol"
        return EndpointError(f"{self.url}, model {self.model}: {type(error).__name__}: {what}")

    def _told(self, error: Exception) -> str:
        """Its text, without the key, which servers like to quote."""
        text, key = " ".join(str(error).split()), self._client.api_key
        return (text.replace(key, "***") if key else text)[:300]

    def _keep(self, entry: dict[str, Any]) -> None:
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        with self._cache.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")


def _read_cache(path: Path) -> dict[str, dict[str, str | None]]:
    """What was answered before. A line that a kill cut short is asked again."""
    known = {}
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                known[entry["key"]] = {"content": entry["content"], "fault": entry["fault"]}
            except (ValueError, KeyError, TypeError):
                continue
        if known and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as lines:
                lines.write("\n")
    return known


__all__ = ["Endpoint", "EndpointError", "MalformedError"]
