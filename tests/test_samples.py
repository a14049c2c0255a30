"""A traced sample as arrays: which rows count."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from mnemoscope.analyses.samples import read_sample
from mnemoscope.errors import ConfigError
from traced_samples import study


def changed(sample, rows):
    """The sample with one generated continuation token of some rows turned around: hit to miss or miss to hit."""
    generated, true = sample.table["generated_token"].to_pylist(), sample.table["true_token"].to_pylist()
    for row in rows:
        is_hit = generated[row][-1] == true[row][-1]
        generated[row][-1] = true[row][-1] + 1 if is_hit else true[row][-1]
    place = sample.table.schema.get_field_index("generated_token")
    column = pa.array(generated, sample.table.schema.field(place).type)
    return replace(sample, table=sample.table.set_column(place, "generated_token", column))


def test_a_near_tie_that_fell_the_other_way_costs_its_row_alone():
    """One row whose trace has another match than its score is left out; the others stay."""
    sample, counts = study(num_rows=600, per_stratum=40)
    whole = read_sample(sample, counts, continuation=16)
    less = read_sample(changed(sample, [5]), counts, continuation=16)
    assert len(less.num_matched_R) == len(whole.num_matched_R) - 1
    assert len(less.sample.table) == len(less.hit_RI) == len(less.place_R)


def test_another_continuation_is_refused():
    """Where matches and scores differ in row after row, they are of different things."""
    sample, counts = study(num_rows=600, per_stratum=40)
    rows = range(0, len(sample.table), 3)
    with pytest.raises(ConfigError, match="num_matched is not that of the first 16"):
        read_sample(changed(sample, rows), counts, continuation=16)
