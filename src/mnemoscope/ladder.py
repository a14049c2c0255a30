"""A ladder of Pythia-architecture models, trained on one stream of rows in one order.

Axes: S rows of the stream, B rows of a batch, T tokens of a row, V vocabulary.

Every model is trained by one thread in a process of its own: what comes out depends on the recipe and
the seed, not on how many were trained at once. A process that loses its parent stops at its next step.
"""

from __future__ import annotations

import math
import multiprocessing as mp
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.utils import logging

from mnemoscope.cache import building
from mnemoscope.errors import MnemoscopeError, ModelError

MAX_PROCESSES = 4
"""Models trained side by side at most: the ladder of the demo has as many."""
_INITIALIZER_RANGE = 0.02
_REPORT_EVERY_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One model of the ladder: its shape and its peak learning rate."""

    name: str
    """Names the model's folder."""
    hidden_size: int
    """Width D."""
    num_layers: int
    """Transformer blocks."""
    num_heads: int
    """Attention heads; divides the width."""
    learning_rate: float
    """Peak of the schedule."""

    @property
    def num_parameters(self) -> int:
        """Weights of the blocks, without embeddings, biases and norms: 12 D² a block."""
        return 12 * self.hidden_size**2 * self.num_layers


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the stream is walked, once, from its first row to its last."""

    batch_rows: int = 8
    """Rows of a step."""
    warmup_steps: int = 50
    """Steps of linear rise to the peak learning rate."""
    final_fraction: float = 0.05
    """The learning rate at the last step, as a fraction of the peak; a cosine leads there."""
    weight_decay: float = 0.0
    """AdamW's decay; forgetting is not what a ladder for memorization needs."""
    clip_norm: float = 1.0
    """The largest gradient norm of a step."""
    num_checkpoints: int = 4
    """Revisions kept, evenly spaced; the last is the end of training."""

    def num_steps(self, num_rows: int) -> int:
        """Steps that one walk over `num_rows` rows takes; the last may be short."""
        return math.ceil(num_rows / self.batch_rows)

    def checkpoint_steps(self, num_rows: int) -> tuple[int, ...]:
        """The steps after which a revision is kept, ascending."""
        total = self.num_steps(num_rows)
        return tuple(sorted({math.ceil(total * i / self.num_checkpoints) for i in range(1, self.num_checkpoints + 1)}))

    def learning_rate_factor(self, step: int, *, total_steps: int) -> float:
        """Fraction of the peak learning rate at `step`, counted from 1."""
        warmup = min(self.warmup_steps, total_steps // 2)
        if step <= warmup:
            return step / warmup
        cosine = (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup))) / 2
        return self.final_fraction + (1 - self.final_fraction) * cosine


class TrainingProgress(NamedTuple):
    """Where one model stands: what a progress bar needs."""

    name: str
    """The rung's name."""
    step: int
    """Steps done."""
    total_steps: int
    """Steps to do."""
    steps_since_report: int
    """Steps done since the model's last report."""
    loss_nats: float
    """Mean loss of the steps since the model's last report."""


def revision_name(step: int) -> str:
    """The name of the revision after `step`, as Pythia's: step512."""
    return f"step{step}"


def build_model(rung: Rung, *, vocabulary_size: int, row_tokens: int, seed: int) -> GPTNeoXForCausalLM:
    """An untrained float32 model of Pythia's architecture, its weights drawn by `seed`; global seeds stay."""
    config = GPTNeoXConfig(
        vocab_size=vocabulary_size,
        hidden_size=rung.hidden_size,
        num_hidden_layers=rung.num_layers,
        num_attention_heads=rung.num_heads,
        intermediate_size=4 * rung.hidden_size,
        max_position_embeddings=row_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        use_parallel_residual=True,
        tie_word_embeddings=False,
        initializer_range=_INITIALIZER_RANGE,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config)


def training_steps(
    model: GPTNeoXForCausalLM, stream_ST: NDArray[np.integer], *, learning_rate: float, schedule: Schedule
) -> Iterator[tuple[int, float]]:
    """(number from 1, loss in nats) of each step that trains `model` in place on the rows, in order, once."""
    total_steps = schedule.num_steps(len(stream_ST))
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=learning_rate,
        betas=(0.9, 0.95),
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    model.train()
    for step in range(1, total_steps + 1):
        rows_BT = stream_ST[(step - 1) * schedule.batch_rows : step * schedule.batch_rows]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule.learning_rate_factor(step, total_steps=total_steps)
        loss = _next_token_loss(model, torch.from_numpy(rows_BT.astype(np.int64)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield step, loss.item()


def _next_token_loss(model: GPTNeoXForCausalLM, tokens_BT: Tensor) -> Tensor:
    """The mean cross-entropy of every token but the first, in nats."""
    logits_BTV = model(tokens_BT[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())


def train_ladder(
    rungs: Sequence[Rung],
    stream_path: Path,
    *,
    folder: Path,
    tokenizer_files: Sequence[Path],
    vocabulary_size: int,
    schedule: Schedule,
    seed: int,
    num_processes: int | None = None,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
) -> None:
    """Train every rung on the rows of `stream_path`, in order, into `folder`/NAME/stepN, the largest first.

    A model's folder appears when all its revisions are in it, so a kill loses at most the models in training.
    `num_processes` models are trained at once (default: one per core this process may use, up to four); it
    does not change the weights. `report` is called in this process. Raises ModelError if a training process
    ends early, and its StoreError if that could not write.
    """
    jobs = [
        _Job(rung, stream_path, folder / rung.name, tuple(tokenizer_files), vocabulary_size, schedule, seed)
        for rung in sorted(rungs, key=lambda rung: rung.num_parameters)
    ]
    limit = num_processes or min(MAX_PROCESSES, available_cores())
    running: dict[Connection, tuple[_Job, BaseProcess]] = {}
    try:
        while jobs or running:
            while jobs and len(running) < limit:
                job = jobs.pop()
                receiver, process = _start(job)
                running[receiver] = (job, process)
            for ready in wait(list(running)):
                receiver = cast("Connection", ready)
                if not _hear(receiver, *running[receiver], report=report):
                    del running[receiver]
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Job(NamedTuple):
    rung: Rung
    stream_path: Path
    folder: Path
    tokenizer_files: tuple[Path, ...]
    vocabulary_size: int
    schedule: Schedule
    seed: int


def _start(job: _Job) -> tuple[Connection, BaseProcess]:
    """A process that trains one model, and the end of the pipe where its progress comes in."""
    context = _process_context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train_rung, args=(job, sender), daemon=True)
    process.start()
    sender.close()  # so that the process's end is the pipe's end
    return receiver, process


def _hear(receiver: Connection, job: _Job, process: BaseProcess, *, report: Callable[[TrainingProgress], None]) -> bool:
    """Pass on what a training process says; whether it will say more."""
    try:
        message = receiver.recv()
    except EOFError:
        receiver.close()
        process.join()
        if process.exitcode == 0:
            return False
        raise ModelError(
            f"{job.folder}: its training process ended with code {process.exitcode}; "
            "the models finished so far are kept, run the same command again"
        ) from None
    if isinstance(message, MnemoscopeError):
        raise message
    report(message)
    return True


def _process_context() -> SpawnContext | ForkServerContext:
    """Fresh processes, as this one's threads may hold locks at a fork; a fork server imports torch once."""
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _train_rung(job: _Job, sender: Connection) -> None:
    """The body of a training process: one model, one thread, all its revisions, one folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its children
    signal.signal(signal.SIGTERM, _exit_in_order)  # so that the temporary folder goes
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # the parent shows the progress
    try:
        with building(job.folder) as temporary:
            _train_into(temporary, job, sender)
    except MnemoscopeError as error:
        sender.send(error)


def _exit_in_order(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(128 + signal_number)


def _train_into(folder: Path, job: _Job, sender: Connection) -> None:
    """Train the job's model, keep its revisions in `folder`, and tell `sender` of the steps."""
    stream_ST = np.load(job.stream_path)
    total_steps = job.schedule.num_steps(len(stream_ST))
    losses: list[float] = []
    kept = job.schedule.checkpoint_steps(len(stream_ST))
    model = build_model(job.rung, vocabulary_size=job.vocabulary_size, row_tokens=stream_ST.shape[1], seed=job.seed)
    for step, loss in training_steps(model, stream_ST, learning_rate=job.rung.learning_rate, schedule=job.schedule):
        _stop_if_orphaned()
        if step in kept:
            _save_revision(model, folder / revision_name(step), job.tokenizer_files)
        losses.append(loss)
        if step % _REPORT_EVERY_STEPS == 0 or step == total_steps:
            sender.send(TrainingProgress(job.rung.name, step, total_steps, len(losses), fmean(losses)))
            losses.clear()


def _save_revision(model: GPTNeoXForCausalLM, folder: Path, tokenizer_files: Sequence[Path]) -> None:
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(str(error)) from error
    for path in tokenizer_files:
        shutil.copyfile(path, folder / path.name)


def _stop_if_orphaned() -> None:
    """End this process if the one that started it is gone: nobody waits for the model any more."""
    parent = mp.parent_process()
    if parent is not None and not parent.is_alive():
        sys.exit(1)
