"""A completions endpoint on loopback: a tiny real network that answers greedily, and whatever else a server may do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tokenizers import Tokenizer

from mnemoscope.audit.black_box.endpoint import Endpoint
from mnemoscope.audit.black_box.endpoint_facts import EndpointFacts, ask_passages
from mnemoscope.audit.facts import Passages
from networks import generate, plant_sequences

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


CONTEXTS, CONTINUATIONS = (4, 8), (3, 6)
WINDOW = 14


def passages_of(rows: np.ndarray, lengths: Sequence[int] | None = None) -> Passages:
    """One for each row, at the grid's contexts; each third is held out."""
    num, width = rows.shape
    return Passages(
        tokens_RW=rows.astype(np.int32),
        length_R=np.full(num, width, np.int32) if lengths is None else np.array(lengths, np.int32),
        context_RC=np.tile(np.array(CONTEXTS, np.int32), (num, 1)),
        kind_R=["start"] * num,
        is_member_R=np.arange(num) % 3 != 2,
        document_R=np.arange(num, dtype=np.int32),
        line_R=np.arange(num, dtype=np.int64) + 1,
        start_R=np.zeros(num, np.int32),
    )


def recited_passages(network: Any) -> Passages:
    """18 passages, of which the network recites some; the last is short, and one is there twice."""
    rows = plant_sequences(network, num_sequences=18, window_tokens=WINDOW, contexts=CONTEXTS)
    rows[16] = rows[15]
    return passages_of(rows, [WINDOW] * 17 + [11])


def asker(
    tokenizer: Tokenizer, folder: Path, *, context_labels: Sequence[str] = ("4", "8"), **settings: Any
) -> Callable[..., EndpointFacts]:
    """A function that asks a server about passages."""

    def ask(server: Server, passages: Passages, **more: Any) -> EndpointFacts:
        endpoint = Endpoint(**{"url": server.url, "model": "tiny", "timeout_seconds": 30, **settings, **more})
        return ask_passages(
            endpoint,
            passages,
            lambda tokens: tokenizer.decode(tokens.tolist(), skip_special_tokens=False),
            encode=lambda text: tokenizer.encode(text).ids,
            context_labels=context_labels,
            continuations=CONTINUATIONS,
            folder=folder,
        )

    return ask


def brute_force(network: Any, passages: Passages) -> np.ndarray:
    """Whether the network itself says each continuation, token by token; [R, C, N]."""
    found = np.zeros((len(passages.length_R), len(CONTEXTS), len(CONTINUATIONS)), bool)
    for row, column, place in np.ndindex(found.shape):
        k, n = CONTEXTS[column], CONTINUATIONS[place]
        if k + n <= passages.length_R[row]:
            said = generate(network, passages.tokens_RW[row : row + 1, :k].astype(np.int64), n)[0]
            found[row, column, place] = (said == passages.tokens_RW[row, k : k + n]).all()
    return found


def num_prompts(passages: Passages) -> int:
    """Different questions: by context and by how much can be asked for."""
    asked = set()
    for row, length in enumerate(passages.length_R):
        for k in CONTEXTS:
            longest = max(n for n in CONTINUATIONS if k + n <= length)
            asked.add((tuple(passages.tokens_RW[row, :k]), longest))
    return len(asked)
