"""What the benchmark's guard tells of ratios."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import guard


def test_a_gain_that_shrank_and_a_cost_that_grew_are_told():
    """A fifth is the limit: 10 may become 8.5 but not 8, and a cost of 1 may become 1.15 but not 1.25."""
    recorded = {"strongest_over_exact": 10.0, "original_over_exact": 10.0, "exact_over_floor": 1.0}
    assert guard.find_losses({"strongest_over_exact": 8.5, "exact_over_floor": 1.15}, recorded) == []
    found = guard.find_losses(
        {"strongest_over_exact": 8.0, "original_over_exact": 30.0, "exact_over_floor": 1.25}, recorded
    )
    assert found == ["exact_over_floor: 1.25, recorded 1", "strongest_over_exact: 8, recorded 10"]


def test_ratios_are_kept_by_kind_of_machine(tmp_path):
    """What was recorded for other threads says nothing about this run, and stays when another kind is recorded."""
    path = tmp_path / "recorded.json"
    assert "no ratios are recorded" in guard.compare({"a_over_b": 2.0}, num_threads=2, path=path)[0]
    guard.record({"a_over_b": 2.0}, num_threads=2, path=path)
    guard.record({"a_over_b": 9.0}, num_threads=4, path=path)
    assert "no ratio is worse" in guard.compare({"a_over_b": 1.9}, num_threads=2, path=path)[0]
    assert guard.compare({"a_over_b": 1.0}, num_threads=2, path=path)[1:] == ["a_over_b: 1, recorded 2"]
    assert guard.compare({"a_over_b": 1.0}, num_threads=4, path=path)[1:] == ["a_over_b: 1, recorded 9"]
