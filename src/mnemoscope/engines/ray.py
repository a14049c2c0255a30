"""Ray: tasks over the devices of one machine or of many; an actor that dies is replaced, and its task is done again.

An actor holds one worker, takes one task at a time, and says now and then how far it is; between the stages of a
study it waits for the next worker's recipe. The driver hands a task only
to an actor that has answered, so that one that waits for a place in the cluster holds nothing up. Everything crosses
as pickled bytes: what Ray itself unpickles is read-only. Nothing is detached: actors end with their driver.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import threading
import time
import uuid
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar, final

from mnemoscope.engines import ResultT, TaskT, WorkerFactory
from mnemoscope.engines.actor import Actor, Answer, News, pickled, versions
from mnemoscope.engines.addresses import CHECK_SECONDS, START_SECONDS, answers, check_address, place_of
from mnemoscope.engines.cluster import Node, Share, divide
from mnemoscope.engines.processes import MAX_DEATHS
from mnemoscope.errors import ConfigError, EngineError

NEWS_SECONDS: Final = 0.5
"""Between two words of an actor on how far it is."""
IDLE_SECONDS: Final = 60.0
"""For an actor without work, which a study's next stage may have for it; then it gives its place back."""
HEAD_SECONDS: Final = 30.0
"""A head that is not heard of for so long is gone; Ray itself ends the driver's process after 60, without an error."""
ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # Ray prints deaths to stdout; they are told as warnings here
    "RAY_worker_niceness": "0",  # 15 otherwise: beside anything else on two cores that made a run 100 times slower
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # an actor without a GPU sees none
}
"""Set before Ray is imported, where the user has not."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


class _HeadIsGoneError(EngineError):
    """Nothing can be asked of the cluster any more."""


@final
class RayEngine:
    """The engine of a Ray cluster, or of a Ray that it starts on this machine and that ends with this process.

    Every machine needs the same versions of Python, Ray and this package, and the files at the same paths.
    """

    def __init__(self, address: str | None = None, workers: int | Literal["auto"] = "auto") -> None:
        """Connects: to the Ray at `address` (HOST:PORT, `auto` or ray://HOST:PORT), to this process's, or to a new one.

        `workers`: actors, each with a model of its own; `auto` is one per GPU, and for the CPU one per machine, also of
        those that come later. EngineError where nobody answers.
        """
        if workers != "auto" and workers < 1:
            raise ConfigError(f"workers: {workers} given; expected 1 or more, or 'auto'")
        self._workers: int | Literal["auto"] = workers
        self._ray = _connect(address)
        self._head = place_of(address or "") or self._ray.get_runtime_context().gcs_address
        self._bench: _Bench[Any] = _Bench(self._ray)
        weakref.finalize(self, self._bench.clear)  # the places of a cluster are not kept for nobody

    def run(
        self,
        tasks: Sequence[TaskT],
        make_worker: WorkerFactory[TaskT, ResultT],
        tell: Callable[[TaskT, int], None],
    ) -> Iterator[ResultT]:
        """The results as they are done. Actors that ran out of work wait a while for the next call; those that the
        iterator's early end finds at work are told to end.
        """
        if not tasks:
            return
        make_worker.release()
        crew = _Crew(self._ray, self._head, make_worker, tell, lambda: self._share(make_worker.device), self._bench)
        try:
            yield from crew.work(tasks)
        finally:
            crew.dismiss()

    def workers_per_device(self, device: str) -> int:
        """Workers over GPUs, or on a CPU over machines, rounded up."""
        return self._share(device).per_device

    def _share(self, device: str) -> Share:
        nodes = [
            Node(each["Resources"].get("CPU", 0), each["Resources"].get("GPU", 0))
            for each in _ask_head(self._head, self._ray.nodes)
            if each["Alive"]
        ]
        return divide(nodes, device, self._workers)


@dataclass(eq=False)
class _Member(Generic[TaskT]):
    """An actor, and what is expected of it."""

    actor: Any
    share: Share
    """What it holds."""
    news: Any
    """The reference of the news that it will tell."""
    answer: Any = None
    """The reference of its task's answer; None without a task."""
    task: TaskT | None = None
    num_begun: int = 0
    num_told: int = 0
    """Of its task."""
    is_there: bool = False
    """It has answered once."""
    num_awaited: int = 1
    """News that it is to tell before it is given a task: one from the bench may be gone, and has old news to tell."""


@final
class _Bench(Generic[TaskT]):
    """Actors without work, between one call of an engine and its next."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._members: list[_Member[TaskT]] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def seat(self, member: _Member[TaskT], stage: str) -> None:
        """Have an actor that has done its part of a stage wait, for a while after the last one that came."""
        with suppress(self._ray.exceptions.RayError):
            member.actor.rest.remote(stage)
        with self._lock:
            self._members.append(member)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(IDLE_SECONDS, self.clear)
            self._timer.daemon = True
            self._timer.start()

    def call(self, share: Share) -> _Member[TaskT] | None:
        """One that holds what is wanted now; those that hold something else give it back."""
        with self._lock:
            while self._members:
                member = self._members.pop()
                if member.share == share:
                    return member
                self._end(member)
        return None

    def clear(self) -> None:
        """End all that wait."""
        with self._lock:
            while self._members:
                self._end(self._members.pop())

    def _end(self, member: _Member[TaskT]) -> None:
        if not self._ray.is_initialized():
            return  # its actors have ended with it, and Ray would start another one to kill them
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(member.actor)


@dataclass
class _Crew(Generic[TaskT, ResultT]):
    """The actors, while there is something to do."""

    ray: Any
    head: str
    make_worker: WorkerFactory[TaskT, ResultT]
    tell: Callable[[TaskT, int], None]
    share: Callable[[], Share]
    bench: _Bench[TaskT]
    members: list[_Member[TaskT]] = field(default_factory=list)
    waiting: deque[TaskT] = field(default_factory=deque)
    deaths: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._stage = uuid.uuid4().hex
        self._recipe = self.ray.put(self.ray.cloudpickle.dumps(self.make_worker))
        self._share = self.share()
        self._checked = self._began = time.monotonic()

    def work(self, tasks: Sequence[TaskT]) -> Iterator[ResultT]:
        self.waiting.extend(tasks)
        self._hire()
        while self.members:
            ready = set(self._wait())
            self._look_around()
            for member in list(self.members):
                try:
                    if member.news in ready:
                        self._hear(member, pickle.loads(self.ray.get(member.news)))
                    if member.answer not in ready:
                        continue
                    answer: Answer = pickle.loads(self.ray.get(member.answer))
                except self.ray.exceptions.RayError as error:
                    self._bury(member, error)
                    continue
                self._tell(member, answer.news)
                if answer.error is not None:
                    raise answer.error
                self._go_on(member)
                yield answer.result

    def dismiss(self) -> None:
        """End every actor."""
        if answers(self.head):
            for member in self.members:
                with suppress(self.ray.exceptions.RayError):
                    self.ray.kill(member.actor)

    def _wait(self) -> list[Any]:
        """The references that are there, after a while at most."""
        awaited = [ref for member in self.members for ref in (member.answer, member.news) if ref is not None]
        first, others = self.ray.wait(awaited, num_returns=1, timeout=CHECK_SECONDS)
        return first + self.ray.wait(others, num_returns=len(others), timeout=0)[0] if others else first

    def _hire(self) -> None:
        """As many actors as there are places and tasks; Ray starts each where and when there is room for it."""
        num_busy = sum(member.task is not None for member in self.members)
        wanted = min(self._share.num_workers, len(self.waiting) + num_busy)
        variables = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(self._share.num_threads)}
        actor_class = self.ray.remote(max_concurrency=2)(Actor).options(
            num_cpus=self._share.num_cpus,
            num_gpus=self._share.num_gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {name: os.environ.get(name, value) for name, value in variables.items()}},
        )
        while len(self.members) < wanted:
            member = self.bench.call(self._share)
            if member is None:
                actor = _ask_head(self.head, lambda: actor_class.remote(versions()))
                member = _Member[TaskT](actor, self._share, self._ask(actor, 0.0))
            else:
                member.num_awaited = 2
            self.members.append(member)

    def _ask(self, actor: Any, seconds: float) -> Any:
        return actor.listen.remote(seconds)

    def _hear(self, member: _Member[TaskT], news: News) -> None:
        self._tell(member, news)
        is_waited_for, member.num_awaited = member.num_awaited > 0, max(0, member.num_awaited - 1)
        member.news = self._ask(member.actor, 0.0 if member.num_awaited else NEWS_SECONDS)
        if is_waited_for and not member.num_awaited:
            member.is_there = True
            self.deaths[""] = 0
            self._go_on(member)

    def _tell(self, member: _Member[TaskT], news: News) -> None:
        for warning in news.warnings:
            _log.warning("%s", warning)
        if member.task is not None and news.num_begun == member.num_begun:
            self.tell(member.task, news.num_told - member.num_told)
            member.num_told = news.num_told

    def _go_on(self, member: _Member[TaskT]) -> None:
        """The next task for an actor, or its rest."""
        member.task = member.answer = None
        if not self.waiting:
            self.members.remove(member)
            self.bench.seat(member, self._stage)
            return
        member.task, member.num_told = self.waiting.popleft(), 0
        member.num_begun += 1
        member.answer = member.actor.work.remote(self._stage, self._recipe, pickled(member.task))

    def _bury(self, member: _Member[TaskT], error: Exception) -> None:
        """Another actor for one that is gone, which takes its task; EngineError where that was tried often enough."""
        self.members.remove(member)
        with suppress(self.ray.exceptions.RayError):
            _ask_head(self.head, lambda: self.ray.kill(member.actor))  # it may be alive, and out of reach
        name = "" if member.task is None else member.task.name
        is_from_bench = member.task is None and member.is_there
        self.deaths[name] += not is_from_bench
        if self.deaths[name] >= MAX_DEATHS:
            raise EngineError(_last_words(name, error))
        if member.task is not None:
            _log.warning("%s: the worker that worked on it ended (%s); another takes over", name, _manner(error))
            self.tell(member.task, -member.num_told)
            self.waiting.appendleft(member.task)
        self._hire()

    def _look_around(self) -> None:
        """Now and then: whether the head is there, whether anybody has started, whether there is room for more."""
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        _wait_for(self.head)
        if now - self._began > START_SECONDS and not any(member.is_there for member in self.members):
            self._began = float("inf")
            _log.warning(
                "no worker has started in %.0f seconds; still waiting for a place with %g CPUs and %g GPUs for each",
                *(START_SECONDS, self._share.num_cpus, self._share.num_gpus),
            )
        try:
            self._share = self.share()
        except _HeadIsGoneError:
            raise
        except EngineError:
            pass  # for the moment there is no machine at all
        self._hire()


def _ask_head(head: str, ask: Callable[[], T]) -> T:
    """What needs the head's answer. EngineError where it does not answer for long, before or meanwhile.

    Asked of a head that is gone, Ray waits a minute and ends this process without a word; so a thread waits for it.
    """
    _wait_for(head)
    answer: Future[T] = Future()

    def wait_for_answer() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=wait_for_answer, daemon=True).start()
    while not wait([answer], timeout=CHECK_SECONDS).done:
        _wait_for(head)
    return answer.result()


def _wait_for(head: str) -> None:
    """EngineError where a head does not answer for long."""
    began = time.monotonic()
    while not answers(head):
        if time.monotonic() - began > HEAD_SECONDS:
            raise _HeadIsGoneError(
                f"the head of Ray at {head} has not answered for {HEAD_SECONDS:.0f} seconds; what is finished is kept: "
                "start Ray again, then the same command"
            )
        time.sleep(min(1.0, CHECK_SECONDS))


def _connect(address: str | None) -> Any:
    """The module ray, connected."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError("the engine ray: Ray is not installed; pip install 'mnemoscope[ray]'") from error
    if ray.is_initialized():
        return ray
    if address is not None:
        check_address(address)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # whatever kind Ray takes for it
        raise EngineError(f"{address or 'Ray on this machine'}: {_first_line(error)}") from error
    return ray


def _last_words(name: str, error: Exception) -> str:
    """What is said when it is given up: on a task, or on starting actors."""
    if name:
        return (
            f"{name}: {MAX_DEATHS} workers ended while they worked on it, the last one: {_manner(error)}; what is "
            "finished is kept: look for their own messages in Ray's logs, or run again with fewer workers"
        )
    return (
        f"{MAX_DEATHS} workers ended before their first task, the last one: {_manner(error)}; "
        "expected this package, of the same version, on every machine"
    )


def _manner(error: Exception) -> str:
    """How an actor ended: the clause, the sentence or the Python error in which Ray's many lines say so."""
    text = " ".join(str(error).split())
    for pattern in (r"\w+Error: .{1,200}?(?=\. |$)", r"because ([^.]{1,200})", r"[^.]*memory[^.]*"):
        if found := re.search(pattern, text):
            return (found.groups() or (found.group(),))[0]
    return text[:200] or type(error).__name__


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
