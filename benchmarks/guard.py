"""A benchmark's ratios against those recorded for the same kind of machine: what got worse is told, nothing fails.

Seconds depend on the machine and its load, ratios within one run hardly do; a ratio that moved by more than
`TOLERANCE` is worth a look.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Final

RECORDED: Final = Path(__file__).with_name("recorded.json")
TOLERANCE: Final = 0.2
"""Relative; runs on a machine that does other things too differ by 10% (docs/performance.md)."""


def machine_kind(num_threads: int) -> str:
    """What ratios depend on: the processor and the threads."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {num_threads} threads"


def find_losses(ratios: dict[str, float], recorded: dict[str, float]) -> list[str]:
    """A line for each recorded ratio that got worse: those over the floor are costs, the others gains."""
    losses: list[str] = []
    for name in sorted(ratios.keys() & recorded.keys()):
        change = ratios[name] / recorded[name]
        worse = change if "over_floor" in name else 1 / change
        if worse > 1 + TOLERANCE:
            losses.append(f"{name}: {ratios[name]:g}, recorded {recorded[name]:g}")
    return losses


def compare(ratios: dict[str, float], *, num_threads: int, path: Path = RECORDED) -> list[str]:
    """What to tell about ratios on this machine."""
    kind = machine_kind(num_threads)
    recorded = json.loads(path.read_text()).get(kind) if path.exists() else None
    if recorded is None:
        return [f"no ratios are recorded for {kind} (--record writes them)"]
    losses = find_losses(ratios, recorded)
    if losses:
        return [f"worse than recorded for {kind} by more than {TOLERANCE:.0%}:", *losses]
    return [f"no ratio is worse than recorded for {kind} by more than {TOLERANCE:.0%}"]


def record(ratios: dict[str, float], *, num_threads: int, path: Path = RECORDED) -> None:
    """Write the ratios of this kind of machine down; those of other kinds and other ratios stay."""
    known = json.loads(path.read_text()) if path.exists() else {}
    kind = machine_kind(num_threads)
    known[kind] = known.get(kind, {}) | ratios
    path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
