"""The machines of a cluster -> how many workers, and what each takes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from mnemoscope.errors import EngineError


class Node(NamedTuple):
    """A machine of the cluster: what it lends, taken or not."""

    num_cpus: float
    num_gpus: float


class Share(NamedTuple):
    """What is asked for."""

    num_workers: int
    per_device: int
    """Most workers that share the memory of a GPU, or of a machine where they compute on its CPU."""
    num_cpus: float
    """Held by each worker."""
    num_gpus: float
    """Held by each worker."""
    num_threads: int
    """For each worker."""


def divide(nodes: Sequence[Node], device: str, workers: int | Literal["auto"]) -> Share:
    """The share of each worker; `auto` is one per GPU, and for the CPU one per machine. EngineError without any place.

    On the CPU a worker holds as many as let all have the same and find a place; none where there are more than CPUs.
    On a GPU it holds no CPU, so that a place that lacks one is a place still.
    """
    nodes = [node for node in nodes if (node.num_gpus if device == "cuda" else node.num_cpus) >= 1]
    if not nodes:
        raise EngineError(
            f"the cluster has no machine to compute on {device}; expected one, or a model on another device"
        )
    num_devices = int(sum(node.num_gpus for node in nodes)) if device == "cuda" else len(nodes)
    num_workers = num_devices if workers == "auto" else workers
    per_device = -(-num_workers // num_devices)
    if device == "cuda":
        threads = min(node.num_cpus / node.num_gpus for node in nodes) / per_device
        return Share(num_workers, per_device, 0, 1 / per_device, max(1, int(threads)))
    cpus = [int(node.num_cpus) for node in nodes]
    fitting = (each for each in range(max(cpus), 0, -1) if sum(number // each for number in cpus) >= num_workers)
    held = next(fitting, 0)
    return Share(num_workers, per_device, held, 0, max(1, held))
