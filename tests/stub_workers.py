"""Workers that need no model, for engines: they square numbers, and fail in the ways that workers fail."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mnemoscope.errors import CorpusError, ScoringError


class Number(NamedTuple):
    value: int
    deed: str = "square"

    @property
    def name(self) -> str:
        return f"number {self.value}"


class UnpicklableError(Exception):
    def __init__(self, left, right):
        super().__init__(f"{left} and {right}")  # pickled with one argument, and made again with one


@dataclass(frozen=True)
class Squares:
    """Makes workers that leave a file named by their process in `folder` for each task they begin."""

    folder: Path
    device: str = "cpu"

    def __call__(self, tell):
        def square(task):
            begun = len(list(self.folder.glob(f"{task.value}-*")))
            (self.folder / f"{task.value}-{os.getpid()}").touch()
            tell(3)
            while task.deed == "wait":
                time.sleep(0.02)
                tell(0)
            while task.deed == "four at once" and len(list(self.folder.glob("*-*"))) < 4:
                time.sleep(0.02)
            do(task, begun)
            tell(4)
            return task.value**2 if task.deed != "environment" else dict(os.environ)

        return square

    def release(self) -> None:
        (self.folder / "released").touch()


def do(task: Number, begun: int) -> None:
    """The task's deed, by how many processes have begun it before."""
    match task.deed:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die once" if not begun:
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave once" if not begun:
            os._exit(7)
        case "corpus":
            raise CorpusError("rows.npy: cut short; expected more")
        case "scoring":
            raise ScoringError("logits are NaN", 17)
        case "value":
            raise ValueError("a bug")
        case "unpicklable":
            raise UnpicklableError("this", "that")
        case _:
            pass
