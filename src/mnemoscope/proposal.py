"""What follows from a pilot: the plan of a study, and the study that is proposed.

Everything is scored if the hours allow it, in mode graded or at least in mode exact; else a random sample that gives
the wanted interval; else the largest that the hours allow. Where mode exact alone fits, the hours that are left go to
a smaller random sample in mode graded, which has the traces, too. A random sample stands for all rows alike, and what
is traced of it has its design weights. All pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from mnemoscope.config import Mode
from mnemoscope.planning import disk_needed, hours_needed, memory_needed, sizes_needed
from mnemoscope.sample_sizes import Population, reach, sample_size
from mnemoscope.study_plan import ModelPilot, Plan, Proposal, ProposedStudy, SizeNeeded, StudySize, Wishes

SMALLEST_PART: Final = 100
"""Sequences in mode graded beside mode exact; fewer are no part worth a study of its own."""


def make_plan(models: Sequence[ModelPilot], size: StudySize, wishes: Wishes, *, free_disk: int | None = None) -> Plan:
    """The plan that follows from a pilot; what does not fit on the disk is among its refusals."""
    disk = disk_needed(models, size, free=free_disk)
    sizes = sizes_needed(models, size, wishes)
    refusals: list[str] = []
    if disk.free is not None and disk.total > disk.free:
        refusals.append(
            f"disk: the study needs {disk.total:,} bytes, {disk.free:,} are free; "
            "expected more room (--out elsewhere), fewer sequences or fewer traces"
        )
    return Plan(
        wishes=wishes,
        size=size,
        models=tuple(models),
        hours=tuple(hours_needed(models, size, devices) for devices in wishes.devices),
        disk=disk,
        memory=memory_needed(models, size),
        sizes=tuple(sizes),
        proposal=propose(models, size, wishes, sizes),
        refusals=tuple(refusals),
    )


def propose(models: Sequence[ModelPilot], size: StudySize, wishes: Wishes, sizes: Sequence[SizeNeeded]) -> Proposal:
    """The most that the hours allow, up to everything, and up to the sample that is needed where all is too much."""
    make = _Studies(models, size, wishes, sizes)
    num_all, num_needed = size.available["member"], max(each.cautious for each in sizes)
    hours_needed_in_exact = make.hours("exact", num_needed)
    for num_members in (num_all, num_needed):
        if make.hours("graded", num_members) <= wishes.hours:
            return Proposal(
                is_enough=True, studies=(make.study("graded", num_members),), hours_needed=hours_needed_in_exact
            )
        if make.hours("exact", num_members) <= wishes.hours:
            return Proposal(is_enough=True, studies=make.in_two(num_members), hours_needed=hours_needed_in_exact)
    num_fitting = _largest(num_needed, lambda number: make.hours("exact", number) <= wishes.hours)
    studies = (make.study("exact", num_fitting),) if num_fitting else ()
    return Proposal(is_enough=False, studies=studies, hours_needed=hours_needed_in_exact)


class _Studies(NamedTuple):
    """What the hours and the reach of a study follow from."""

    models: Sequence[ModelPilot]
    size: StudySize
    wishes: Wishes
    sizes: Sequence[SizeNeeded]

    def hours(self, mode: Mode, num_members: int) -> float:
        """Of a study with so many members, as many of the control, and traces if it is graded."""
        traces = self.size.traces if mode == "graded" else ()
        size = replace(self.size, mode=mode, selected=self._selected(num_members), traces=traces)
        return hours_needed(self.models, size, self.wishes.devices[0]).total

    def study(self, mode: Mode, num_members: int) -> ProposedStudy:
        """The study, with what it reaches."""
        selected = self._selected(num_members)
        return ProposedStudy(
            mode=mode,
            members=num_members,
            control=selected.get("control", 0),
            all_members=num_members == self.size.available["member"],
            all_control=selected.get("control") == self.size.available.get("control"),
            traces=mode == "graded" and bool(self.size.traces),
            hours=self.hours(mode, num_members),
            within=max(self._reach(each, num_members) for each in self.sizes),
        )

    def in_two(self, num_members: int) -> tuple[ProposedStudy, ...]:
        """Mode exact, and with the hours that are left a part in mode graded."""
        exact = self.study("exact", num_members)
        left = self.wishes.hours - exact.hours
        everything = Population(self.size.available["member"])
        most = min(num_members, sample_size(0.5, self.wishes.within, everything, level=self.wishes.level))
        num_graded = _largest(most, lambda number: self.hours("graded", number) <= left)
        return (exact, self.study("graded", num_graded)) if num_graded >= SMALLEST_PART else (exact,)

    def _selected(self, num_members: int) -> dict[str, int]:
        return {group: min(num_members, count) for group, count in self.size.available.items()}

    def _reach(self, needed: SizeNeeded, num_members: int) -> float:
        everything = Population(self.size.available["member"], needed.design_effect, needed.num_pilot)
        return reach(needed.cautious_share, num_members, everything, level=self.wishes.level)


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, by halving; 0 where not even 1 does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
