"""Where it runs: an engine takes tasks and the recipe of a worker, and yields what workers make of the tasks.

The recipe can be pickled. An engine of one process makes one worker with it and nothing is loaded twice; another
engine sends it to its processes, each of which loads a model and opens the corpora once and for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar, final


class Task(Protocol):
    """What is handed out as one piece, such as a shard; it can be pickled."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...


TaskT = TypeVar("TaskT", bound=Task)
ResultT = TypeVar("ResultT")
TaskT_contra = TypeVar("TaskT_contra", bound=Task, contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class WorkerFactory(Protocol[TaskT_contra, ResultT_co]):
    """How a worker is made in whatever process is to have one; it can be pickled."""

    @property
    def device(self) -> str:
        """The type of device that its workers compute on: cpu, cuda or mps."""
        ...

    def __call__(self, tell: Callable[[int], None]) -> Callable[[TaskT_contra], ResultT_co]:
        """A worker in this process; it tells how many sequences or rows of its task are behind it, as it goes."""
        ...

    def release(self) -> None:
        """Let go of the memory that only a worker in this process would need."""
        ...


@final
class Once(Generic[ResultT]):
    """What `make` gives, made when it is first asked for; in another process made anew, so `make` can be pickled."""

    def __init__(self, make: Callable[[], ResultT]) -> None:
        self._make = make
        self._made: list[ResultT] = []

    def __call__(self) -> ResultT:
        """The same object every time, until it is released."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def release(self) -> None:
        """Let go of it; who asks again has it made again."""
        self._made.clear()

    def __reduce__(self) -> tuple[type[Once[ResultT]], tuple[Callable[[], ResultT]]]:
        return Once, (self._make,)


class Engine(Protocol):
    """Where tasks are worked on, in any order and on any machine: the facts are the same."""

    def run(
        self,
        tasks: Sequence[TaskT],
        make_worker: WorkerFactory[TaskT, ResultT],
        tell: Callable[[TaskT, int], None],
    ) -> Iterator[ResultT]:
        """What a worker returns for each task, as it is done; an error of a worker is raised here.

        `tell` hears of each task's progress; of less than nothing where work was lost and starts over.
        """
        ...

    def workers_per_device(self, device: str) -> int:
        """Most workers that have to share the memory of one device of a type."""
        ...
