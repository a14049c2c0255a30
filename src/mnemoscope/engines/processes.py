"""Tasks over several processes of this machine; one that is killed is replaced, and its task is done again.

Each process has a pipe of its own to this one and takes one task at a time. A pipe that ends says that its process is
gone, whatever killed it; and a process whose pipe ends, because this one is gone, ends itself.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final, Generic, NamedTuple, NoReturn, final

from mnemoscope.engines import ResultT, Task, TaskT, WorkerFactory
from mnemoscope.errors import EngineError, MnemoscopeError

MAX_DEATHS: Final = 3
"""Processes that one task may cost before it is given up."""
_PATIENCE_SECONDS: Final = 10.0
"""For a process to end by itself; then it is killed."""

_log = logging.getLogger(__name__)


class _Told(NamedTuple):
    number: int


class _Done(NamedTuple):
    result: Any


class _Failed(NamedTuple):
    error: Exception


def run_in_processes(
    tasks: Sequence[TaskT],
    make_worker: WorkerFactory[TaskT, ResultT],
    tell: Callable[[TaskT, int], None],
    *,
    num_workers: int,
    num_gpus: int = 0,
) -> Iterator[ResultT]:
    """The results as they are done; every process has ended when the iterator has, whatever ended it.

    The machine's cores are divided among the processes, and its GPUs dealt out in turn. Raises what a worker raised,
    and EngineError for a task that cost three processes.
    """
    make_worker.release()
    crew = _Crew(make_worker, tell, [_environment(slot, num_workers, num_gpus) for slot in range(num_workers)])
    try:
        yield from crew.work(tasks)
    except BaseException:
        crew.stop()
        raise
    finally:
        crew.join()


@dataclass
class _Member(Generic[TaskT]):
    """A process at work."""

    slot: int
    process: SpawnProcess
    task: TaskT
    num_told: int = 0
    """Of its task."""


@final
class _Crew(Generic[TaskT, ResultT]):
    """The processes, by the pipe to each, while they have something to do."""

    def __init__(
        self,
        make_worker: WorkerFactory[TaskT, ResultT],
        tell: Callable[[TaskT, int], None],
        environments: Sequence[Mapping[str, str]],
    ) -> None:
        self._make_worker = make_worker
        self._tell = tell
        self._environments = environments
        self._members: dict[Connection, _Member[TaskT]] = {}
        self._processes: list[SpawnProcess] = []
        self._deaths: Counter[str] = Counter()

    def work(self, tasks: Sequence[TaskT]) -> Iterator[ResultT]:
        waiting = deque(tasks)
        for slot in range(len(self._environments)):
            self._hire(slot, waiting.popleft())
        while self._members:
            ready = wait(list(self._members))
            for connection in [each for each in self._members if each in ready]:
                match _receive(connection):
                    case _Told(number):
                        self._hear(self._members[connection], number)
                    case _Done(result):
                        self._go_on(connection, waiting)
                        yield result
                    case _Failed(error):
                        raise error
                    case _:
                        self._replace(connection)

    def stop(self) -> None:
        """Ask every process to leave now."""
        for process in self._processes:
            process.terminate()

    def join(self) -> None:
        """Wait until every process has ended; kill one that does not."""
        for connection in self._members:
            connection.close()
        for process in self._processes:
            process.join(_PATIENCE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def _hire(self, slot: int, task: TaskT) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self._make_worker), daemon=True)
        with _no_interrupts(), _environ(self._environments[slot]):
            process.start()
            self._processes.append(process)
        there.close()  # so that the pipe ends when the process does
        self._members[here] = _Member(slot, process, task)
        _send(here, task)

    def _hear(self, member: _Member[TaskT], number: int) -> None:
        member.num_told += number
        self._tell(member.task, number)

    def _go_on(self, connection: Connection, waiting: deque[TaskT]) -> None:
        """The next task for a process, or its leave."""
        if not waiting:
            connection.close()
            del self._members[connection]
            return
        member = self._members[connection]
        member.task, member.num_told = waiting.popleft(), 0
        _send(connection, member.task)

    def _replace(self, connection: Connection) -> None:
        """A new process for the task of one that is gone; EngineError where that has been tried often enough."""
        member = self._members.pop(connection)
        connection.close()
        member.process.join()
        self._processes.remove(member.process)
        name, how = member.task.name, _manner(member.process.exitcode)
        self._deaths[name] += 1
        if self._deaths[name] >= MAX_DEATHS:
            raise EngineError(
                f"{name}: {MAX_DEATHS} worker processes ended while they worked on it, the last one {how}; "
                "what is finished is kept: look for their own messages above, or run again with fewer workers "
                "(memory running out kills without a message)"
            )
        _log.warning("%s: the worker process that worked on it ended, %s; a new one takes over", name, how)
        self._tell(member.task, -member.num_told)
        self._hire(member.slot, member.task)


def _serve(connection: Connection, make_worker: WorkerFactory[Any, Any]) -> None:
    """The life of a process: the tasks that come through the pipe, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what is to be done
    signal.signal(signal.SIGTERM, _leave)

    def say(message: _Told | _Done | _Failed) -> None:
        try:
            connection.send(message)
        except OSError:
            sys.exit(0)  # nobody listens any more

    try:
        worker = make_worker(lambda number: say(_Told(number)))
        while (task := _receive(connection)) is not None:
            say(_Done(worker(task)))
    except Exception as error:
        say(_Failed(portable(error)))


def _leave(signal_number: int, frame: object) -> NoReturn:
    """As an exception, so that files half written are removed."""
    sys.exit(128 + signal_number)


def _receive(connection: Connection) -> Any:
    """The next message; None where the other end is gone, even in the middle of one."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


def _send(connection: Connection, task: Task) -> None:
    with suppress(OSError):  # a process that is gone is noticed where its pipe is read
        connection.send(task)


def portable(error: Exception) -> Exception:
    """The error if it survives the pipe, else one with its text; what nobody expected has its traceback as a note."""
    if not isinstance(error, MnemoscopeError):
        error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a foreign error's own pickling raises
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _manner(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by signal {-exitcode}"
    return f"with exit status {exitcode}"


def _environment(slot: int, num_workers: int, num_gpus: int) -> dict[str, str]:
    """The environment variables of the process in a slot; threads are left as they are where the user has set them."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(max(1, num_cores // num_workers))}
    variables = {name: os.environ.get(name, value) for name, value in wanted.items()}
    if num_gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(num_gpus)))
        variables["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % num_gpus]
    return variables


@contextmanager
def _environ(variables: Mapping[str, str]) -> Generator[None]:
    """Environment variables for the processes started meanwhile: torch reads them when it is imported."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_interrupts() -> Generator[None]:
    """Ctrl-C waits, here and for good in the process started meanwhile, which would meet it with a traceback."""
    resource_tracker.ensure_running()  # started by the first process otherwise, and it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
