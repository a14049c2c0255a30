"""What follows from a pilot: the plan of a study, and the study that is proposed.

Everything is scored if the hours allow it, in mode graded or at least in mode exact; else a random sample that gives
the wanted interval; else the largest that the hours allow. Where mode exact alone fits, the hours that are left go to
a second phase of the same study: a random sample of its sequences is graded, from which the traces are drawn, too
(mode two-phase). A random sample stands for all rows alike, and what is graded or traced has its weights. All pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from mnemoscope.config import GradedSampleConfig, StudyMode
from mnemoscope.planning import disk_needed, hours_needed, memory_needed, sizes_needed
from mnemoscope.sample_sizes import Population, reach, sample_size
from mnemoscope.study_plan import ModelPilot, Plan, Proposal, ProposedStudy, SizeNeeded, StudySize, Wishes

SMALLEST_PART: Final = 100
"""Sequences that a second phase is to grade; fewer are not worth one."""


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
            return Proposal(is_enough=True, studies=(make.in_two(num_members),), hours_needed=hours_needed_in_exact)
    num_fitting = _largest(num_needed, lambda number: make.hours("exact", number) <= wishes.hours)
    studies = (make.study("exact", num_fitting),) if num_fitting else ()
    return Proposal(is_enough=False, studies=studies, hours_needed=hours_needed_in_exact)


class _Studies(NamedTuple):
    """What the hours and the reach of a study follow from."""

    models: Sequence[ModelPilot]
    size: StudySize
    wishes: Wishes
    sizes: Sequence[SizeNeeded]

    def hours(self, mode: StudyMode, num_members: int, *, share: float | None = None) -> float:
        """Of a study with so many members, as many of the control, and traces if some are graded."""
        traces = () if mode == "exact" else self.size.traces
        sample = None if share is None else GradedSampleConfig(share=share)
        size = replace(self.size, mode=mode, selected=self._selected(num_members), traces=traces, graded_sample=sample)
        return hours_needed(self.models, size, self.wishes.devices[0]).total

    def study(self, mode: StudyMode, num_members: int, *, share: float | None = None) -> ProposedStudy:
        """The study, with what it reaches."""
        selected = self._selected(num_members)
        return ProposedStudy(
            mode=mode,
            members=num_members,
            control=selected.get("control", 0),
            all_members=num_members == self.size.available["member"],
            all_control=selected.get("control") == self.size.available.get("control"),
            traces=mode != "exact" and bool(self.size.traces),
            hours=self.hours(mode, num_members, share=share),
            within=max(self._reach(each, num_members) for each in self.sizes),
            graded_share=share,
        )

    def in_two(self, num_members: int) -> ProposedStudy:
        """All of them in mode exact, and with the hours that are left a part of them graded."""
        everything = Population(self.size.available["member"])
        most = min(num_members, sample_size(0.5, self.wishes.within, everything, level=self.wishes.level))

        def fits(num_graded: int) -> bool:
            share = _whole_digits(num_graded / num_members)
            return self.hours("two-phase", num_members, share=share) <= self.wishes.hours

        num_graded = _largest(most, fits)
        if num_graded < SMALLEST_PART:
            return self.study("exact", num_members)
        return self.study("two-phase", num_members, share=_whole_digits(num_graded / num_members))

    def _selected(self, num_members: int) -> dict[str, int]:
        return {group: min(num_members, count) for group, count in self.size.available.items()}

    def _reach(self, needed: SizeNeeded, num_members: int) -> float:
        everything = Population(self.size.available["member"], needed.design_effect, needed.num_pilot)
        return reach(needed.cautious_share, num_members, everything, level=self.wishes.level)


def _whole_digits(share: float) -> float:
    """A share cut, not rounded, to three digits: what a person would write, and the hours still hold."""
    scale = 10 ** (2 - math.floor(math.log10(share)))
    return math.floor(share * scale) / scale


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
