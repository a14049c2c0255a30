"""The options of the verbs that say where the work is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, final

from cyclopts import Group, Parameter

from mnemoscope.errors import ConfigError

if TYPE_CHECKING:
    from mnemoscope.engines import Engine

_GROUP = Group("Engine")


@final
@Parameter(name="*", group=_GROUP)
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where a study is worked on; the facts are the same."""

    engine: Literal["local", "ray"] = "local"
    """local: this machine. ray: the devices of a Ray cluster, or of a Ray that is started here for the time."""
    address: Annotated[str | None, Parameter(group=_GROUP)] = None
    """Ray that runs already: HOST:PORT of its head, ray://HOST:PORT, or `auto` for one on this machine."""
    workers: str = "auto"
    """Processes at work, each with a model of its own, or `auto`: one per GPU, and without GPUs one per machine."""

    def open(self) -> Engine:
        """The engine; ConfigError for options that cannot be meant, EngineError where no Ray answers."""
        workers = "auto" if self.workers == "auto" else _whole_number(self.workers)
        if self.engine == "ray":
            from mnemoscope.engines.ray import RayEngine

            return RayEngine(self.address, workers)
        if self.address is not None:
            raise ConfigError(f"--address: {self.address!r} given; expected --engine ray with it")
        from mnemoscope.engines.local import LocalEngine

        return LocalEngine(workers)


HERE = EngineOptions()
"""What the verbs do when nothing is said."""


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--workers: {text!r} given; expected whole numbers") from None
