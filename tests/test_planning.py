"""The arithmetic of a plan: hours, bytes, sizes and proposals by hand, from rates that are given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mnemoscope.config import (
    CorpusConfig,
    CountsConfig,
    GradedSampleConfig,
    ModelConfig,
    StudyConfig,
    TracesConfig,
)
from mnemoscope.pilot import first_size, time_calls
from mnemoscope.pilot_rows import Call
from mnemoscope.planning import (
    busiest_rows,
    decoded_share,
    disk_needed,
    hours_needed,
    memory_needed,
    num_loads,
    scoring_seconds,
    sizes_needed,
    study_size,
    trace_bytes,
)
from mnemoscope.proposal import make_plan, propose
from mnemoscope.report.plan_table import hours_tables, measured_tables, proposal_words, sizes_tables, toml_lines
from mnemoscope.sample_sizes import Population, cautious_share, sample_size
from mnemoscope.study_plan import CellCount, ModelPilot, Rate, Storing, StudySize, TraceSize, Wishes

PILE = 146_432_000
WISHES = Wishes(devices=(1, 8), within=0.001, level=0.95, hours=24.0)


def make_model(label: str = "tiny", *, exact: float = 100.0, graded: float = 20.0, **settings) -> ModelPilot:
    """A model that scores 100 or 20 sequences a second, and traces 10."""

    def rate(per_second: float) -> Rate:
        return Rate(
            per_second=per_second,
            slowest=per_second / 2,
            fastest=per_second * 2,
            num_sequences=100,
            num_calls=3,
            batch_size=32,
        )

    defaults = {
        "label": label,
        "device": "cpu",
        "num_parameters": 250,
        "weight_bytes": 1000,
        "width": 8,
        "load_seconds": 10.0,
        "is_fetched": False,
        "peak_bytes": 5000,
        "batch_size": {"exact": 32, "graded": 32},
        "rates": {"exact": rate(exact), "graded": rate(graded)},
        "traced": rate(10.0),
        "teacher_forced": 159.0,
        "decoded": 300.0,
        "storing": Storing(bytes_per_sequence=100.0, bytes_per_shard=2000.0, seconds_per_sequence=0.0),
        "cells": (cell(5, 1000),),
    }
    return ModelPilot(**(defaults | settings))


def cell(num_full: int, num_sequences: int, *, group: str = "member", effect: float = 1.0) -> CellCount:
    return CellCount(
        group=group,
        context=32,
        continuation=32,
        num_full=num_full,
        num_sequences=num_sequences,
        design_effect=effect,
    )


def make_size(num_members: int, **settings) -> StudySize:
    defaults = {
        "mode": "graded",
        "window_tokens": 160,
        "shard_rows": 4096,
        "selected": {"member": num_members},
        "available": {"member": num_members},
        "is_listed": False,
        "traces": (),
        "num_ngram_lengths": 0,
    }
    return StudySize(**(defaults | settings))


def test_hours_of_the_full_pile():
    """146,432,000 sequences x 7 models, all 4 contexts in one pass, at 1,000 a second: 1,025,024 s, which are 285 h."""
    models = [make_model(f"m{number}", exact=1000.0, graded=250.0) for number in range(7)]
    size = make_size(PILE, mode="exact")
    assert PILE % 4096 == 0
    one = hours_needed(models, size, 1)
    assert one.scoring == pytest.approx(7 * PILE / 1000 / 3600) == pytest.approx(284.7289, abs=1e-4)
    assert one.graded == pytest.approx(7 * (PILE / 250 + 10) / 3600)
    assert one.total == pytest.approx(one.scoring + 7 * 10 / 3600)
    assert one.fastest == pytest.approx(one.scoring / 2 + 7 * 10 / 3600)
    assert one.slowest == pytest.approx(one.scoring * 2 + 7 * 10 / 3600)
    # 35,750 shards over 8 devices: 4,468 rounds full and 6 left over, so 4,469 x 4,096 sequences on the busiest.
    eight = hours_needed(models, size, 8)
    assert eight.scoring == pytest.approx(7 * 4469 * 4096 / 1000 / 3600)
    assert eight.loading == pytest.approx(7 * 2 * 10 / 3600)
    many = hours_needed(models, size, 100_000)
    assert many.scoring == pytest.approx(7 * 4096 / 1000 / 3600)


@pytest.mark.parametrize(
    ("selected", "devices", "busiest"),
    [
        ({"member": 10}, 1, 10),
        ({"member": 10}, 2, 6),  # shards of 4, 4, 2
        ({"member": 10}, 3, 4),
        ({"member": 10, "control": 5}, 1, 15),
        ({"member": 10, "control": 5}, 2, 8),  # 4, 4, 4 and 2, 1: 4 + 4 on one
        ({"member": 3, "control": 2}, 2, 3),
        ({"member": 3, "control": 2}, 8, 3),
        ({"member": 8}, 2, 4),
    ],
)
def test_busiest_device_by_hand(selected, devices, busiest):
    """Shards of 4 sequences are handed out one by one; the device with most decides."""
    assert busiest_rows(selected, 4, devices) == busiest


def test_more_devices_never_take_longer_and_one_has_all():
    """On one device everything; on more never more sequences, never fewer than an even share."""
    selected = {"member": 100_003, "control": 4_099}
    counts = [busiest_rows(selected, 4096, devices) for devices in range(1, 40)]
    assert counts[0] == sum(selected.values())
    assert counts == sorted(counts, reverse=True)
    assert all(count >= sum(selected.values()) / devices for devices, count in enumerate(counts, start=1))


def test_storing_and_traces_take_time():
    """1,000 sequences at 20 a second and 10 ms each to store are 60 s; 50 traces at 10 a second are 5 s, on 2 devices
    half. Devices wait for a model once where there is one; of several the driver first, then all, and again to trace.
    """
    model = make_model(storing=Storing(bytes_per_sequence=1.0, bytes_per_shard=0.0, seconds_per_sequence=0.01))
    traces = (TraceSize(context=32, path_tokens=16, num_layers=0, most_per_group=50),)
    size = make_size(1000, traces=traces, shard_rows=500)
    one, two = hours_needed([model], size, 1), hours_needed([model], size, 2)
    assert (one.scoring * 3600, one.tracing * 3600, one.loading * 3600) == pytest.approx((60, 5, 10))
    assert (two.scoring * 3600, two.tracing * 3600, two.loading * 3600) == pytest.approx((30, 2.5, 30))
    assert (num_loads(traces, 1), num_loads((), 2), num_loads(traces, 8)) == (1, 2, 3)


def test_disk_by_hand():
    """Scores by sequence and by shard with its record; states of 16 bits; six facts of 4 bytes a token; counts of 8."""
    traces = (TraceSize(context=32, path_tokens=16, num_layers=2, most_per_group=50),)
    size = make_size(10_000, traces=traces, num_ngram_lengths=2)
    disk = disk_needed([make_model(), make_model("other")], size, free=10**9)
    assert disk.scores == 2 * (10_000 * 100 + 3 * (2000 + 320))
    assert trace_bytes(traces[0], size.selected, 8) == 50 * (2 * 8 * (47 + 2 * 32) + 24 * 48 + 60)
    assert disk.traces == 2 * trace_bytes(traces[0], size.selected, 8)
    assert disk.counts == 100 * (48 + 8 * 160 * 2)
    assert disk.total == disk.scores + disk.traces + disk.counts
    assert memory_needed([make_model(), make_model(peak_bytes=7000)], size).per_device == 7000


def test_full_disk_is_refused():
    """One byte too few is refused with both numbers; exactly enough is not."""
    needed = disk_needed([make_model()], make_size(10_000), free=0).total
    enough = make_plan([make_model()], make_size(10_000), WISHES, free_disk=needed)
    short = make_plan([make_model()], make_size(10_000), WISHES, free_disk=needed - 1)
    assert enough.refusals == ()
    assert len(short.refusals) == 1
    assert f"needs {needed:,} bytes, {needed - 1:,} are free" in short.refusals[0]


def test_study_size_from_its_file():
    """What is traced: per stratum x (n + 1) strata of the reference continuation, of each group what it has."""
    config = StudyConfig(
        models=(ModelConfig(source="m"),),
        corpus=CorpusConfig(path="c.npy"),
        contexts=(8, 16),
        continuations=(4, 12),
        traces=TracesConfig(per_stratum=10, contexts=(8, 16), path_tokens=12, context_layers=(0, 1)),
        counts=CountsConfig(),
    )
    size = study_size(config, selected={"member": 1000, "control": 20}, available={"member": 5000, "control": 20})
    assert size.window_tokens == 28
    assert [(each.context, each.path_tokens, each.num_layers) for each in size.traces] == [(8, 12, 2), (16, 12, 2)]
    assert [each.num_rows(size.selected) for each in size.traces] == [50 + 20, 50 + 20]
    assert (size.num_ngram_lengths, size.is_listed) == (2, False)


def test_sizes_at_the_share_and_at_its_honest_end():
    """The pilot's own share, and the end of its interval: of 0 of 1,000 the upper one, 0.38 %."""
    size = make_size(PILE)
    needed = sizes_needed([make_model(cells=(cell(0, 1000),))], size, WISHES)[0]
    assert (needed.share, needed.at_share) == (0.0, 1917)
    assert needed.cautious_share == pytest.approx(0.003827, abs=1e-6)
    assert needed.cautious == sample_size(needed.cautious_share, 0.001, Population(PILE))
    assert needed.excess_members is None


def test_excess_and_duplicates_in_sizes():
    """A control adds the sizes of the excess; duplicates in the pilot make every size larger."""
    size = make_size(PILE, selected={"member": 1000, "control": 300}, available={"member": PILE, "control": 300})
    cells = (cell(10, 1000), cell(1, 300, group="control"))
    needed = sizes_needed([make_model(cells=cells)], size, WISHES)[0]
    assert (needed.excess_members, needed.excess_control) == (PILE, 300)
    assert needed.excess_within > WISHES.within
    doubled = (cell(10, 1000, effect=1.001), cells[1])
    assert sizes_needed([make_model(cells=doubled)], size, WISHES)[0].cautious > needed.cautious


def plan_of(num_members: int, hours: float, **settings):
    """A plan for a model whose pilot of 1,000 had 5 full matches, with a tenth of a second to load."""
    model = make_model(load_seconds=0.1, **settings)
    return make_plan([model], make_size(num_members), replace(WISHES, hours=hours))


def test_everything_if_the_hours_allow_it():
    """36,000 sequences at 20 a second are half an hour in mode graded: all of them, and nothing to sample."""
    made = plan_of(36_000, 0.6)
    (study,) = made.proposal.studies
    assert (study.mode, study.members, study.all_members, study.within) == ("graded", 36_000, True, 0.0)
    assert study.hours == pytest.approx((36_000 / 20 + 0.1) / 3600)
    assert toml_lines(made, study) == 'mode = "graded"'


def test_exact_for_all_and_graded_for_a_part():
    """Of 720 s mode exact takes 360.1 for 36,000 sequences; the others grade 8,997, at 0.04 s more each: 0.249."""
    made = plan_of(36_000, 0.2)
    (study,) = made.proposal.studies
    assert (study.mode, study.members, study.within) == ("two-phase", 36_000, 0.0)
    assert study.graded_share == 0.249
    assert study.hours == pytest.approx((360 + 36_000 * 0.249 * 0.04 + 0.1) / 3600)
    assert toml_lines(made, study) == 'mode = "two-phase"\n\n[graded_sample]\nshare = 0.249\nseed = 0'
    assert "in mode two-phase (match bits of a share of 0.249)" in " ".join(proposal_words(made))


def test_near_sequences_are_reckoned_with():
    """With a tenth of the sequences near, a share of 0.04 decodes 0.04 + 0.1 x (0.2 - 0.04) = 0.056 of all."""
    model, sample = make_model(exact=100.0, graded=20.0, near=0.1), GradedSampleConfig(share=0.04)
    assert decoded_share(model, sample) == pytest.approx(0.056)
    size = make_size(1000, mode="two-phase", graded_sample=sample)
    stored = 1000 * model.storing.seconds_per_sequence
    expected = 1000 * (0.01 + 0.056 * 0.04) + stored
    assert scoring_seconds(model, size, 1, mode="two-phase") == pytest.approx(expected)


def test_random_sample_where_all_is_too_much():
    """Of the Pile the sample that is needed: in mode graded if the hours allow it, in mode exact else."""
    needed = sample_size(cautious_share(5, 1000), WISHES.within, Population(PILE))
    (graded,) = plan_of(PILE, 1.0).proposal.studies
    assert (graded.mode, graded.members) == ("graded", needed)
    assert graded.within <= WISHES.within
    (study,) = plan_of(PILE, 0.2).proposal.studies
    assert (study.mode, study.members) == ("two-phase", needed)
    assert 0 < study.graded_share < 1
    assert study.hours <= 0.2


def test_too_few_hours_are_said():
    """With 36 seconds 3,590 sequences can be scored at 100 a second: fewer than needed, and the words say so."""
    made = plan_of(PILE, 0.01)
    (study,) = made.proposal.studies
    assert not made.proposal.is_enough
    assert (study.mode, study.members) == ("exact", 3590)
    assert study.within > WISHES.within
    assert "more than 0.01 hours on 1 device" in " ".join(proposal_words(made))
    nothing = plan_of(PILE, 1e-6)
    assert nothing.proposal.studies == ()
    assert "not even one sequence" in " ".join(proposal_words(nothing))


def test_proposals_keep_within_the_hours():
    """Whatever the hours, what is proposed does not take more, and more hours never reach less."""
    reached = []
    for hours in (0.001, 0.01, 0.1, 0.5, 1, 10, 1000, 10_000):
        studies = plan_of(PILE, hours).proposal.studies
        assert sum(study.hours for study in studies) <= hours
        reached.append(studies[0].within if studies else 1.0)
    assert reached == sorted(reached, reverse=True)


def test_listed_rows_get_no_sample_setting():
    """A study over a list of rows is told to draw from the list."""
    made = make_plan([make_model()], make_size(PILE, is_listed=True), WISHES)
    assert any("draw them from that list" in words for words in proposal_words(made))


def test_tables_say_the_numbers():
    """Every model, number of devices and size stands in the tables as it was computed."""
    made = make_plan([make_model("small"), make_model("large")], make_size(36_000), WISHES)
    (measured,), (hours,), (sizes,) = measured_tables(made), hours_tables(made), sizes_tables(made)
    labels = [str(label) for label in measured.columns[0].cells]
    assert labels == ["small", "large"]
    assert [str(number) for number in hours.columns[0].cells] == ["1", "8"]
    assert f"{made.sizes[0].cautious:,}" in [str(text) for text in sizes.columns[6].cells]
    narrow = [str(column.header) for table in sizes_tables(made, width=60) for column in table.columns]
    assert narrow.count("model") > 1
    assert set(narrow) == {str(column.header) for column in sizes.columns}
    assert propose(made.models, made.size, made.wishes, made.sizes) == made.proposal


class _Machine:
    """A clock, and calls that take so many seconds a pass of up to 32 rows; nothing waits."""

    def __init__(self, monkeypatch, *, seconds_per_pass: float = 0.0, seconds_per_row: float = 0.0):
        self.now, self.sizes = 1000.0, []
        self.per_pass, self.per_row = seconds_per_pass, seconds_per_row
        monkeypatch.setattr("mnemoscope.pilot.time.monotonic", lambda: self.now)

    def call(self, num_rows: int) -> Call:
        self.sizes.append(num_rows)
        seconds = self.per_pass * -(-num_rows // 32) + self.per_row * num_rows
        self.now += seconds
        return Call(num_rows, seconds)


def test_calls_grow_to_whole_batches(monkeypatch):
    """Where a pass of 32 rows takes 0.1 s however full it is, the rate is 320 a second, from calls of two passes."""
    machine = _Machine(monkeypatch, seconds_per_pass=0.1)
    rate = time_calls(machine.call, 32, 5.0)
    assert machine.sizes[:5] == [1, 4, 16, 32, 64]
    assert set(machine.sizes[5:]) == {64}
    assert (rate.per_second, rate.slowest, rate.fastest) == pytest.approx((320, 320, 320))
    assert rate.num_sequences == 64 * rate.num_calls == 64 * (len(machine.sizes) - 5)
    assert rate.batch_size == 32
    assert machine.now <= 1005.0


def test_first_call_fills_half_of_its_time(monkeypatch):
    """At 8 sequences a second, each said to take twice as long, 2.5 s are 10; never more than a batch, never none."""
    known = make_model(exact=8.0).rates["exact"]
    assert first_size(known, 32, 5.0, slower=2.0) == 10
    assert first_size(known, 4, 5.0, slower=2.0) == 4
    assert first_size(known, 32, 0.01, slower=2.0) == 1
    machine = _Machine(monkeypatch, seconds_per_row=0.25)
    assert time_calls(machine.call, 32, 5.0, first=10).num_sequences == 10
    assert machine.sizes[0] == 10


@pytest.mark.parametrize("seconds_per_row", [0.01, 0.1, 0.4, 1.0, 3.0])
def test_slow_models_do_not_take_much_longer(monkeypatch, seconds_per_row):
    """Where every row takes its time any size gives the rate; a part takes at most twice its time, or a row."""
    machine = _Machine(monkeypatch, seconds_per_row=seconds_per_row)
    rate = time_calls(machine.call, 32, 2.0)
    assert rate.per_second == pytest.approx(1 / seconds_per_row)
    assert machine.now - 1000 <= max(4.0, seconds_per_row)
    assert rate.num_calls >= 1
    assert rate.batch_size == min(machine.sizes[-1], 32)
