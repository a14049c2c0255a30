"""A completions endpoint on loopback: a tiny real network that answers greedily, and whatever else a server may do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tokenizers import Tokenizer

from networks import generate

Answer = Callable[["Server", dict[str, Any], int], Response | None]
"""Given the server, the question and its number, from 0: a response, or None for the network's own."""


class Server:
    """What it was asked, in order, and what it says."""

    def __init__(self, network: Any, tokenizer: Tokenizer, answer: Answer | None) -> None:
        self.network, self.tokenizer, self.answer = network, tokenizer, answer
        self.questions: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.now = self.peak = 0
        self.lock = threading.Lock()
        self.url = ""

    @property
    def prompts(self) -> list[str]:
        """Those asked."""
        return [question["prompt"] for question in self.questions]

    def handle(self, body: bytes, headers: dict[str, str], path: str) -> Response:
        """In a thread of its own."""
        question = json.loads(body)
        with self.lock:
            number = len(self.questions)
            self.questions.append(question)
            self.headers.append(headers)
            self.paths.append(path)
            self.times.append(time.monotonic())
            self.now += 1
            self.peak = max(self.peak, self.now)
        try:
            said = self.answer(self, question, number) if self.answer else None
            return self.complete(question) if said is None else said
        finally:
            with self.lock:
                self.now -= 1

    def complete(self, question: dict[str, Any], *, change: Callable[[str], str] = str) -> Response:
        """The network's greedy answer, as an OpenAI-compatible server gives it."""
        tokens = self.tokenizer.encode(question["prompt"]).ids
        with self.lock:
            said = generate(self.network, np.array([tokens]), question["max_tokens"])[0]
        text = change(self.tokenizer.decode(said.tolist(), skip_special_tokens=False))
        usage = {"prompt_tokens": len(tokens), "completion_tokens": len(said), "total_tokens": len(tokens) + len(said)}
        return JSONResponse({"object": "text_completion", "choices": [{"index": 0, "text": text}], "usage": usage})


@contextmanager
def completing(network: Any, tokenizer: Tokenizer, answer: Answer | None = None) -> Generator[Server]:
    """A running endpoint; ended with the block."""
    from starlette.concurrency import run_in_threadpool

    server = Server(network, tokenizer, answer)

    async def complete(request: Request) -> Response:
        return await run_in_threadpool(server.handle, await request.body(), dict(request.headers), request.url.path)

    app = Starlette(routes=[Route("/{path:path}", complete, methods=["GET", "POST"])])
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        running.should_exit = running.force_exit = True
        thread.join(10)
