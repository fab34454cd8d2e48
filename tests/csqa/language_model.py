# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A real HTTP server that speaks the protocol of chat completions, behind which stands, for a language model, a few rules."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from polyv.csqa.questions import TEMPLATES
from polyv.csqa.reading import slots_of
from polyv.csqa.records import Relation, SceneObject, SceneRecord


PREFIX = "Can you tell: "
Reply = tuple[int, dict[str, Any] | bytes, dict[str, str]]


def words(text: str) -> dict[str, Any]:
    """Another wording of a question: a polite one."""
    plain = text.split("Question: ")[1]
    return {"question": f"{PREFIX}{plain}"}


def reads(text: str) -> dict[str, Any]:
    """What kind of question it is, and what stands in its places; it sees the names and the words, as a model does."""
    lines = dict(line.rstrip(".").split(": ", 1) for line in text.splitlines()[:3])
    question = text.split("Question: ")[1].removeprefix(PREFIX)
    names = lines["Objects"].split(", ")
    objects = tuple(
        SceneObject(id=name, category=name.split()[-1], attributes={"colour": name.split()[0]} if " " in name else {})
        for name in names
    )
    relations = tuple(Relation(subject=names[0], predicate=each) for each in lines["Relations"].split(", "))
    scene = SceneRecord(scene_id="read", source="read", split="train", media={}, objects=objects, relations=relations)
    shown = tuple(lines["Shown with it"].split(" and "))
    empty = {"negated": False} | dict.fromkeys(("a", "b", "c", "view", "other", "under", "p", "q"))
    predicates = {relation.predicate for relation in relations}
    known = {**dict.fromkeys("abc", names), **dict.fromkeys("pq", predicates)}
    for template in TEMPLATES:
        slots = slots_of(template, question, scene) if template.shown == shown else None
        if slots is not None and all(word in known.get(slot, (word,)) for slot, word in slots.items()):
            return {"kind": template.name, **empty, **slots}
    return {"kind": "none", **empty}


def says(content: Any, **more: Any) -> Reply:
    """A reply with this content."""
    text = content if isinstance(content, str) else json.dumps(content)
    message = {"role": "assistant", "content": text, "refusal": None, **more}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "rules", "choices": [choice]}, {}


def answers_well(number: int, form: str, text: str) -> Reply:
    if form == "_Probe":
        return says({"text": "Hello."})
    return says(words(text) if form == "Wording" else reads(text))


class LanguageModel:
    """The server. `behave(number, form, text)` makes the reply to a request; `texts` and `keys` are what came."""

    def __init__(self, behave: Callable[[int, str, str], Reply] = answers_well, port: int = 0, delay: float = 0.0):
        model = self
        self.texts: list[str] = []
        self.keys: set[str] = set()
        self.most = self._now = 0
        self._lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with model._lock:
                    number = len(model.texts)
                    model.texts.append(body["messages"][-1]["content"])
                    model.keys.add(self.headers["Authorization"])
                    model._now += 1
                    model.most = max(model.most, model._now)
                time.sleep(delay)
                form = body["response_format"]["json_schema"]["name"]
                status, content, headers = behave(number, form, model.texts[number])
                with model._lock:
                    model._now -= 1
                if status == 0:  # die
                    model._server.shutdown_request(self.request)
                    return
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": len(data),
                    **headers,
                }.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "LanguageModel":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
