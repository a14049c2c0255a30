"""One machine: tasks one after the other in this process, or over several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, final

from mnemoscope.engines import ResultT, TaskT, WorkerFactory
from mnemoscope.engines.processes import run_in_processes
from mnemoscope.errors import ConfigError


@final
class LocalEngine:
    """The engine of one machine."""

    def __init__(self, workers: int | Literal["auto"] = 1) -> None:
        """`workers`: processes, each with a model of its own; `auto` is one per GPU, and one without GPUs.

        With one, everything happens in this process. Scripts that ask for more need the usual guard
        `if __name__ == "__main__":`, since each process imports the script anew.
        """
        if workers != "auto" and workers < 1:
            raise ConfigError(f"workers: {workers} given; expected 1 or more, or 'auto'")
        self._workers: int | Literal["auto"] = workers

    def run(
        self,
        tasks: Sequence[TaskT],
        make_worker: WorkerFactory[TaskT, ResultT],
        tell: Callable[[TaskT, int], None],
    ) -> Iterator[ResultT]:
        """The results, in the tasks' order where there is one process."""
        num_workers = min(self._num_workers(make_worker.device), len(tasks))
        if num_workers <= 1:
            return _run_here(tasks, make_worker, tell)
        num_gpus = _num_gpus() if make_worker.device == "cuda" else 0
        return run_in_processes(tasks, make_worker, tell, num_workers=num_workers, num_gpus=num_gpus)

    def workers_per_device(self, device: str) -> int:
        """Workers over devices, rounded up; on a CPU all of them share its memory."""
        return -(-self._num_workers(device) // (_num_gpus() if device == "cuda" else 1))

    def _num_workers(self, device: str) -> int:
        if self._workers != "auto":
            return self._workers
        return _num_gpus() if device == "cuda" else 1


def _run_here(
    tasks: Sequence[TaskT], make_worker: WorkerFactory[TaskT, ResultT], tell: Callable[[TaskT, int], None]
) -> Iterator[ResultT]:
    if not tasks:
        return
    current = tasks[0]
    worker = make_worker(lambda number: tell(current, number))
    for current in tasks:
        yield worker(current)


def _num_gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())
