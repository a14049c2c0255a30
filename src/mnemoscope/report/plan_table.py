"""The plan of a study for a terminal and as JSON: what was measured, hours, bytes, sample sizes, what is proposed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from rich.table import Table

from mnemoscope.intervals import wilson
from mnemoscope.report.layout import PIPE_WIDTH, Column, lay_out_pieces
from mnemoscope.report.spoken import joined, plural
from mnemoscope.study_plan import Hours, Plan, ProposedStudy, Rate

SCHEMA: Final = 1
"""Of the JSON; raised when a name in it changes its meaning."""
_BYTE_SCALES: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values, with the lines to paste."""
    toml = [toml_lines(plan, study) for study in plan.proposal.studies]
    return {"schema": SCHEMA, **asdict(plan), "toml": toml, "words": proposal_words(plan)}


def measured_tables(plan: Plan, *, width: int = PIPE_WIDTH) -> Iterator[Table]:
    """What was measured of each model; in pieces where it is wider than a terminal."""
    models = plan.models
    keys = [Column("model", [model.label for model in models])]
    columns = [
        Column("device", [model.device for model in models]),
        Column("weights", [bytes_words(model.weight_bytes) for model in models]),
        Column("peak\nmemory", [bytes_words(model.peak_bytes) for model in models]),
        Column("loading,\nseconds", [f"{model.load_seconds:.1f}{'*' * model.is_fetched}" for model in models]),
        Column("exact,\nsequences/s", [_rate(model.rates["exact"]) for model in models]),
        Column("graded,\nsequences/s", [_rate(model.rates["graded"]) for model in models]),
        Column("traces,\nsequences/s", ["" if model.traced is None else _rate(model.traced) for model in models]),
        Column("token forwards,\nteacher-forced", [f"{model.teacher_forced:.0f}" for model in models]),
        Column("token forwards,\ndecoded", [f"{model.decoded:.0f}" for model in models]),
        Column("batch", [_batch(plan, number) for number in range(len(models))]),
    ]
    caption = "in brackets the slowest and the fastest call; token forwards are per sequence"
    if any(model.is_fetched for model in models):
        caption += "; * with its download"
    if any("<" in _batch(plan, number) for number in range(len(models))):
        caption += "; batch: a < b where the time was too short for the run's batch b"
    return lay_out_pieces("Measured on one device of this machine", keys, columns, width=width, caption=caption)


def _batch(plan: Plan, number: int) -> str:
    model = plan.models[number]
    mode = "exact" if plan.size.mode == "exact" else "graded"
    rate, own = model.rates[mode], model.batch_size[mode]
    return f"{own}" if rate.batch_size == own else f"{rate.batch_size} < {own}"


def _rate(rate: Rate) -> str:
    if rate.num_calls == 1:
        return f"{_short(rate.per_second)} (one call)"
    return f"{_short(rate.per_second)} ({_short(rate.slowest)}, {_short(rate.fastest)})"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def hours_tables(plan: Plan, *, width: int = PIPE_WIDTH) -> Iterator[Table]:
    """A study's hours for each number of devices."""
    hours = plan.hours
    keys = [Column("devices", [f"{each.devices}" for each in hours])]
    columns = [
        Column("scoring", [_hours(each.scoring) for each in hours]),
        Column("traces,\nat most", [_hours(each.tracing) if plan.size.traces else "" for each in hours]),
        Column("loading", [_hours(each.loading) for each in hours]),
        Column("in all", [_total(each) for each in hours]),
        Column("mode exact\ninstead", [_hours(each.exact) for each in hours]),
        Column("mode graded,\nno traces", [_hours(each.graded) for each in hours]),
    ]
    columns = [column for column in columns if any(column.cells)]
    title = f"Hours for {_study_words(plan)}, mode {plan.size.mode}"
    caption = "at the rates above on devices like this one; counts, predictors and analyses come on top"
    return lay_out_pieces(title, keys, columns, width=width, caption=caption)


def _total(hours: Hours) -> str:
    return f"{_hours(hours.total)} ({_hours(hours.fastest)}, {_hours(hours.slowest)})"


def _study_words(plan: Plan) -> str:
    groups = {"member": "members", "control": "of the control"}
    counts = joined([f"{count:,} {groups[group]}" for group, count in plan.size.selected.items()])
    return f"{plural(len(plan.models), 'model')} x {counts}"


def sizes_tables(plan: Plan, *, width: int = PIPE_WIDTH) -> Iterator[Table]:
    """The samples that each model needs at each k and n."""
    sizes, level = plan.sizes, plan.wishes.level
    low, high = wilson([each.num_full for each in sizes], [each.num_pilot for each in sizes], level)
    keys = [
        Column("model", [each.model for each in sizes]),
        Column("k", [f"{each.context}" for each in sizes]),
        Column("n", [f"{each.continuation}" for each in sizes]),
    ]
    columns = [
        Column("full matches\nin the pilot", [f"{each.num_full:,} of {each.num_pilot:,}" for each in sizes]),
        Column(
            "share, %",
            [
                f"{100 * each.share:.3g} ({100 * a:.3g}, {100 * b:.3g})"
                for each, a, b in zip(sizes, low, high, strict=True)
            ],
        ),
        Column("needs, at\nthat share", [f"{each.at_share:,}" for each in sizes]),
        Column("needs,\ncautiously", [f"{each.cautious:,}" for each in sizes]),
        Column("design\neffect", [f"{each.design_effect:.2f}" for each in sizes]),
    ]
    if any(each.excess_members is not None for each in sizes):
        columns += [
            Column("excess:\nmembers", [f"{each.excess_members or 0:,}" for each in sizes]),
            Column("excess:\ncontrol", [f"{each.excess_control or 0:,}" for each in sizes]),
            Column("excess\nwithin, %", [f"{100 * (each.excess_within or 0):.2g}" for each in sizes]),
        ]
    title = f"Sequences for a share of full matches within +-{points(plan)} percentage points at {100 * level:g} %"
    members = plan.size.available["member"]
    caption = (
        f"cautiously: at the end of the pilot's interval that needs more; at most all {members:,}; "
        "the excess at the cautious shares"
    )
    return lay_out_pieces(title, keys, columns, width=width, caption=caption)


def points(plan: Plan) -> str:
    """The wanted half width in percentage points."""
    return f"{100 * plan.wishes.within:g}"


def room_words(plan: Plan) -> list[str]:
    """Disk and memory, a line each."""
    disk, memory = plan.disk, plan.memory
    parts = [f"scores {bytes_words(disk.scores)}"]
    parts += [f"traces with states at most {bytes_words(disk.traces)}"] if disk.traces else []
    parts += [f"counts at most {bytes_words(disk.counts)}"] if disk.counts else []
    free = "" if disk.free is None else f" of {bytes_words(disk.free)} free"
    return [
        f"disk      {bytes_words(disk.total)}{free}: {', '.join(parts)}",
        f"memory    {bytes_words(memory.per_device)} per device at its peak; {bytes_words(memory.driver)} "
        "for the analyses",
    ]


def proposal_words(plan: Plan) -> list[str]:
    """What is proposed, a sentence each."""
    proposal, wishes = plan.proposal, plan.wishes
    where = f"{_hours(wishes.hours)} hours on {plural(wishes.devices[0], 'device')}"
    words = [_need_words(plan)]
    if not proposal.is_enough:
        words.append(
            f"That takes {_hours(proposal.hours_needed)} hours in mode exact, more than {where}: allow more (--hours), "
            "take more devices, or a wider interval (--within)."
        )
    if not proposal.studies:
        words.append(f"In {where} not even one sequence can be scored by every model.")
    words += [_study_sentence(study, where=where, level=wishes.level) for study in proposal.studies]
    if plan.size.is_listed and any(not study.all_members for study in proposal.studies):
        words.append(
            "The study's rows are listed in a file, beside which `sample` cannot be set: draw them from that list."
        )
    return words


def _need_words(plan: Plan) -> str:
    largest = max(plan.sizes, key=lambda each: each.cautious)
    is_all = "all " if largest.cautious == plan.size.available["member"] else ""
    return (
        f"Full match of {largest.model} within +-{points(plan)} percentage points at {100 * plan.wishes.level:g} % "
        f"needs {is_all}{plural(largest.cautious, 'sequence')} (k = {largest.context}, n = {largest.continuation}; "
        "no other model or length needs more)."
    )


def _study_sentence(study: ProposedStudy, *, where: str, level: float) -> str:
    what = "all" if study.all_members else "a random sample of"
    traces = " with the traces" if study.traces else ""
    control = f" and {study.control:,} of the control" if study.control else ""
    reached = (
        "" if study.within == 0 else f"; full matches within +-{100 * study.within:.2g} points at {100 * level:g} %"
    )
    mode = f"in mode {study.mode}"
    if study.graded_share is not None:
        mode = f"in mode two-phase (match bits of a share of {study.graded_share:g})"
    return (
        f"Proposed, for at most {where}: score {what} {study.members:,} members{control} {mode}{traces}, "
        f"{_hours(study.hours)} hours{reached}."
    )


def toml_lines(plan: Plan, study: ProposedStudy) -> str:
    """What to change in the study file for a proposed study."""
    lines = [f'mode = "{study.mode}"']
    if plan.size.traces and not study.traces:
        lines[0] += "  # and no [traces], [counts] and [prediction]"
    for section, number, is_all in (
        ("corpus", study.members, study.all_members),
        ("control", study.control, study.all_control),
    ):
        if number and not is_all:
            lines += ["", f"[{section}]", f"sample = {number}", "seed = 0"]
    if study.graded_share is not None:
        lines += ["", "[graded_sample]", f"share = {study.graded_share!r}", "seed = 0"]
    return "\n".join(lines)


def toml_comments(plan: Plan) -> Iterator[str]:
    """The lines to paste of the proposed study, headed by a comment."""
    for study in plan.proposal.studies:
        yield f"# the study\n{toml_lines(plan, study)}"


def bytes_words(count: float) -> str:
    """`2.1 GB`."""
    for scale, name in _BYTE_SCALES:
        if count >= scale:
            return f"{count / scale:,.3g} {name}" if count < 1000 * scale else f"{count / scale:,.0f} {name}"
    return f"{count:.0f} bytes"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}" if hours >= 1 else f"{hours:.2g}"
