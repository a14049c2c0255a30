"""Perspective 4, entropy: the published jumps, verdicts on data whose truth is known, the trend with model size."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mnemoscope.analyses.boundary import EXPLAINED, SURVIVES
from mnemoscope.analyses.curves import sentence_means
from mnemoscope.analyses.entropy import entropy
from mnemoscope.report.curve_figures import curve_specs
from traced_samples import lists, study

REFERENCE = Path(
    os.environ.get("MNEMOSCOPE_TEST_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference")
)
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "paper_reference.json").is_file(),
    reason=f"the published curves are not at {REFERENCE} (set MNEMOSCOPE_TEST_REFERENCE)",
)
UNEVEN = {"num_rows": 6000, "per_stratum": 400, "row_spread": 1.2, "recited_share": 0.15}


def rows_of(table, **keys):
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in keys.items())]


def lowered(sample, by, **settings):
    """The sample with every entropy lowered by so many nats."""
    matrix = np.array(sample.table["entropy"].to_pylist(), np.float32) - np.float32(by)
    place = sample.table.column_names.index("entropy")
    return replace(sample, table=sample.table.set_column(place, "entropy", lists(matrix, pa.float32())), **settings)


@needs_reference
def test_published_curves_give_the_published_jumps():
    """Unmemorized: 3.73 to 4.27 (70M) and 2.66 to 3.50 (12B); memorized 0.81 to 0.56: the jump at k, in nats.

    A published value is named by the last token read, one before the token that it predicts.
    """
    rows = json.loads((REFERENCE / "paper_reference.json").read_text())["entropy"]["rows"]
    curves = {(row["model"], row["group"]): np.array([[np.nan, *row["values"]]]) for row in rows}
    jumps = {key: sentence_means(curve, 32, 16)[0, 2] for key, curve in curves.items()}
    assert jumps["70m", "unmemorized"] == pytest.approx(4.27 - 3.73, abs=0.01)
    assert jumps["12b", "unmemorized"] == pytest.approx(3.50 - 2.66, abs=0.01)
    assert jumps["70m", "memorized"] == pytest.approx(0.56 - 0.81, abs=0.01)
    assert np.isfinite(sentence_means(curves["70m", "half"], 32, 16)).all()


def test_memory_free_data_are_explained_by_selection():
    """Where a miss is likelier at a high entropy and nothing else happens, the jump at k is selection's."""
    sample, counts = study(seed=4, **{**UNEVEN, "num_rows": 12_000, "per_stratum": 800})
    result = entropy({"tiny": sample}, counts, continuation=16, num_resamples=400)
    (row,) = rows_of(result.boundary, score_class="unmemorized")
    assert row["verdict"] == EXPLAINED
    assert row["difference_low"] > 0.1
    assert row["unexplained_low"] < 0 < row["unexplained_high"]
    assert SURVIVES not in result.boundary["verdict"].to_pylist()
    assert result.finding.verdict == "fails"


def test_a_planted_jump_survives():
    """0.6 nats more at k among members only, hit or missed: found with its size in both tested classes."""
    sample, counts = study(seed=4, planted=0.6, **UNEVEN)
    result = entropy({"tiny": sample}, counts, continuation=16, num_resamples=400)
    for name in ("memorized", "unmemorized"):
        (row,) = rows_of(result.boundary, score_class=name)
        assert row["verdict"] == SURVIVES
        assert row["unexplained_low"] < 0.6 < row["unexplained_high"]
    assert result.finding.verdict == "holds"
    assert result.finding.figures["num_survive"] == 2


def test_the_trend_with_size_is_the_line_through_the_models():
    """Models of 1, 10 and 100 million whose entropies are 0, 0.5 and 1.2 nats lower: a slope of -0.6 per tenfold."""
    base, counts = study(seed=2, **UNEVEN)
    samples = {
        label: lowered(base, by, label=label, num_non_embedding_parameters=size)
        for label, size, by in (("c", 100_000_000, 1.2), ("a", 1_000_000, 0.0), ("b", 10_000_000, 0.5))
    }
    result = entropy(samples, counts, continuation=16, num_resamples=50)
    assert list(dict.fromkeys(result.sentences["model"].to_pylist())) == ["a", "b", "c"]
    (row,) = rows_of(result.trend, statistic="context_mean", group="member", score_class="unmemorized")
    assert row["slope"] == pytest.approx(-0.6, abs=1e-5)
    assert row["num_points"] == 3
    assert row["first_value"] - row["last_value"] == pytest.approx(1.2, abs=1e-5)
    # A straight line through 0, -0.5, -1.2 leaves residuals of 1/30, -2/30, 1/30: t = 0.6 / (sqrt(6) / 30 / sqrt(2)).
    t = 0.6 / (math.sqrt(6) / 30 / math.sqrt(2))
    assert row["p_value"] == pytest.approx(2 * (0.5 - math.atan(t) / math.pi), rel=1e-3)
    # A shift of all indices leaves every difference where it is.
    (jump,) = rows_of(result.trend, statistic="unexplained", score_class="unmemorized")
    assert jump["slope"] == pytest.approx(0, abs=1e-5)
    assert "changes by -0.60 nats" in result.finding.sentence


def test_the_last_checkpoint_of_a_size_stands_in_the_trend():
    """Two checkpoints of one size are one point, the later one's; one size alone has no trend."""
    base, counts = study(seed=2, control=False, **UNEVEN)
    early, late = (
        lowered(base, 0.3, label="early", training_step=10),
        lowered(base, 0.0, label="late", training_step=20),
    )
    assert entropy({"e": early, "l": late}, counts, continuation=16, num_resamples=20).trend.num_rows == 0
    large = lowered(base, 1.0, label="large", num_non_embedding_parameters=10_000)
    result = entropy({"l": late, "e": early, "x": large}, counts, continuation=16, num_resamples=20)
    (row,) = rows_of(result.trend, statistic="context_mean", score_class="unmemorized")
    assert (row["num_points"], row["slope_low"], row["p_holm"]) == (2, None, None)
    assert row["slope"] == pytest.approx(-1, abs=1e-5)


def test_the_entropy_at_index_0_is_not_defined_and_not_averaged():
    """The curve begins with null; the context's mean is that of indices 1 to k - 1."""
    sample, counts = study(seed=2, control=False, **UNEVEN)
    result = entropy({"tiny": sample}, counts, continuation=16, num_resamples=20)
    rows = rows_of(result.curves, num_matched=0)
    assert rows[0]["mean"] is None
    (sentence,) = rows_of(result.sentences, num_matched=0)
    assert sentence["context_mean"] == pytest.approx(np.mean([row["mean"] for row in rows[1:32]]))
    assert sentence["continuation_mean"] == pytest.approx(np.mean([row["mean"] for row in rows[32:]]))
    assert "the control was not asked" in rows_of(result.boundary, score_class="unmemorized")[0]["note"]
    assert "log_mean" not in result.curves.column_names
    assert "ngram" not in result.boundary.column_names
    assert result.curves.schema.field("mean").metadata[b"unit"] == b"nats"


def test_a_table_of_clusters_suffices():
    """Entropy needs no frequencies: four columns give the same result as the whole counts table."""
    sample, counts = study(seed=2, num_rows=1000, per_stratum=50)
    narrow = counts.select(["sequence_id", "group", "offset", "cluster"])
    one, other = (entropy({"tiny": sample}, table, continuation=16, num_resamples=20) for table in (counts, narrow))
    assert one.curves.equals(other.curves)
    assert one.boundary.equals(other.boundary)


def test_figures_of_entropy():
    """A panel per model for the curves and for the boundary, small models first."""
    base, counts = study(seed=2, **UNEVEN)
    samples = {"b": replace(base, label="b", num_non_embedding_parameters=2000), "a": replace(base, label="a")}
    specs = curve_specs(entropy(samples, counts, continuation=16, num_resamples=20))
    assert list(specs) == ["entropy_by_index", "entropy_boundary"]
    assert [panel["title"]["text"] for panel in specs["entropy_by_index"]["concat"]] == ["a", "b"]
    strips = specs["entropy_boundary"]["concat"][0]["vconcat"]
    assert any(strip["title"]["text"][0].startswith("unmemorized (n = ") for strip in strips)
