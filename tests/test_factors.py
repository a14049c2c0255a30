"""Perspective 1: counts against a naive loop over sequences, and the published tables reproduced."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from mnemoscope import intervals
from mnemoscope.analyses import matches
from mnemoscope.analyses.columns import COLUMNS
from mnemoscope.analyses.factors import BIN_LABELS, ModelCounts, factors, final_models
from mnemoscope.analyses.matches import (
    BinCounts,
    MatchCounts,
    MemorizedCount,
    Stratum,
    count_matches,
    from_bins,
)
from mnemoscope.analyses.size_finding import Amount, surely_falls
from mnemoscope.config import Grid
from mnemoscope.errors import ConfigError, StoreError

GRID = Grid(contexts=(2, 4), continuations=(3, 9, 10))
NUM_PUBLISHED = 146_432_000

# Parameters of the Pythia models, all and without embeddings, and the published counts of fully memorized
# sequences: k = 32 with n = 16, 32, 48, 64, then n = 16 with k = 48, 64, 96.
PUBLISHED = {
    "70m": (70_426_624, 18_915_328, (894809, 411428, 262729, 167846, 1273552, 1591431, 2079244)),
    "160m": (162_322_944, 85_056_000, (1309026, 583993, 375560, 251136, 1675521, 2204431, 3388421)),
    "410m": (405_334_016, 302_311_424, (1763621, 802637, 521767, 361575, 2291931, 3094105, 4641115)),
    "1b": (1_011_781_632, 805_736_448, (2197780, 1019401, 667172, 474351, 2923047, 4033804, 6131382)),
    "2.8b": (2_775_208_960, 2_517_652_480, (2788505, 1297351, 877233, 631442, 3848136, 5348909, 8023383)),
    "6.9b": (6_857_302_016, 6_444_163_072, (3300177, 1584084, 1106232, 818611, 4648803, 6415035, 9611496)),
    "12b": (11_846_072_320, 11_327_027_200, (3614267, 1732833, 1247639, 935722, 5096116, 7033750, 10523472)),
}
CELLS = [(32, 16), (32, 32), (32, 48), (32, 64), (48, 16), (64, 16), (96, 16)]
# The published score bins of the smallest model.
BINS_70M = {
    (
        32,
        16,
    ): "64506233 37841243 27559121 4910421 4754192 1321896 1784455 1179768 476356 823418 380088 894809",
    (32, 32): "52919170 72557211 12500242 3751401 1689877 874961 657503 324606 253022 242386 250193 411428",
    (32, 48): "44099661 84685911 12138802 2763596 1021318 414016 321856 221454 177818 175597 149242 262729",
    (32, 64): "37165380 97495916 7774461 2070021 634902 330683 242755 151336 144813 122512 131375 167846",
    (
        48,
        16,
    ): "61979944 37252567 28109245 5234289 5266252 1511858 2096874 1447860 604312 1090535 564712 1273552",
    (
        64,
        16,
    ): "60512868 36851547 28355726 5411213 5551329 1623974 2283239 1613176 684451 1266992 686054 1591431",
    (
        96,
        16,
    ): "58838534 36359295 28572092 5605379 5872569 1747742 2491068 1797351 776486 1464090 828150 2079244",
}


def published_models():
    """The published counts as models; the smallest from its bins, the others from single counts."""
    models = {}
    for label, (num_parameters, num_non_embedding, counts) in PUBLISHED.items():
        if label == "70m":
            cells = [BinCounts(*cell, tuple(int(word) for word in BINS_70M[cell].split())) for cell in CELLS]
        else:
            cells = [MemorizedCount(*cell, count, NUM_PUBLISHED) for cell, count in zip(CELLS, counts, strict=True)]
        models[label] = model(label, from_bins(cells), num_parameters, num_non_embedding)
    return models


def model(label, counts, num_parameters=100, num_non_embedding=50, *, source=None, step=None):
    return ModelCounts(
        label=label,
        source=source or label,
        num_parameters=num_parameters,
        num_non_embedding_parameters=num_non_embedding,
        training_step=step,
        counts=counts,
    )


def constant(memorized, total=1000, group="member", cell=(32, 32)):
    return from_bins([MemorizedCount(*cell, memorized, total)], group=group)


def scores_table(rows, grid=GRID, *, graded=True):
    """A `scores` table as the store holds it: rows of (group, num_repeats, context, bits, margins)."""
    n = grid.max_continuation
    bits = np.array([row[3] for row in rows], dtype=bool).reshape(-1, n)
    first = [int(np.argmin(row)) if not row.all() else n for row in bits]
    packed = [bytes(np.packbits(row)) for row in bits]
    margins = pa.array([row[4] for row in rows], pa.list_(pa.float32(), len(grid.continuations)))
    return pa.table(
        {
            "sequence_id": pa.array(range(len(rows)), pa.int64()),
            "group": pa.array([row[0] for row in rows], pa.string()).dictionary_encode(),
            "context": pa.array([row[2] for row in rows], pa.int32()),
            "num_repeats": pa.array([row[1] for row in rows], pa.int32()),
            "first_mismatch": pa.array(first, pa.int32()),
            "matched": pa.array(packed if graded else [None] * len(rows), pa.binary(-(-n // 8))),
            "smallest_margin": margins,
        }
    )


def naive(rows, grid=GRID):
    """The same counts, one sequence at a time, as {(stratum, what): count}."""
    counts = Counter()
    for group, repeats, context, bits, margins in rows:
        for index, n in enumerate(grid.continuations):
            hits = bits[:n]
            memorized = all(hits)
            place = Stratum(group, repeats, context, n)
            counts[place, "sequences"] += 1
            counts[place, "memorized"] += memorized
            counts[place, "fragile"] += margins[index] < 1e-3
            counts[place, "fragile memorized"] += memorized and margins[index] < 1e-3
            counts[place, "matched", sum(hits)] += 1
            counts[place, "first", n if memorized else hits.index(False)] += 1
    return +counts


def flattened(counts: MatchCounts):
    """MatchCounts in the naive loop's form."""
    flat = Counter()
    for place, c in counts.strata.items():
        flat[place, "sequences"] = c.num_sequences
        flat[place, "memorized"] = c.num_memorized
        flat[place, "fragile"] = c.num_fragile
        flat[place, "fragile memorized"] = c.num_fragile_memorized
        flat.update({(place, "matched", m): count for m, count in enumerate(c.matched)})
        flat.update({(place, "first", m): count for m, count in enumerate(c.first_mismatch)})
    return +flat


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["member", "control"]),
        st.sampled_from([None, 0, 1, 7]),
        st.sampled_from(GRID.contexts),
        st.integers(0, 10).flatmap(
            lambda run: st.lists(st.booleans(), min_size=10, max_size=10).map(lambda b: [True] * run + b[run:])
        ),
        st.lists(st.sampled_from([0.0, 5e-4, 0.5]), min_size=3, max_size=3),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 12), st.integers(0, 12))
def test_counts_are_the_naive_loops(rows, cut, other_cut):
    """However the rows are cut into tables and merged, the counts are those of a loop over sequences."""
    first, second = sorted((cut, other_cut))
    parts = [rows[:first], rows[first:second], rows[second:]]
    whole = count_matches([scores_table(part) for part in parts], GRID, "graded")
    assert flattened(whole) == naive(rows)
    one, two, three = (count_matches([scores_table(part)], GRID, "graded") for part in parts)
    assert (one + two) + three == one + (two + three) == whole


def test_slices_and_chunks_do_not_matter(monkeypatch):
    """Rows read two at a time, from sliced and chunked tables, count as they do at once."""
    rng = np.random.default_rng(3)
    rows = [("member", 1, 2, rng.random(10) < 0.8, (1.0, 1.0, 1e-4)) for _ in range(11)]
    table = scores_table(rows)
    whole = count_matches([table], GRID, "graded")
    monkeypatch.setattr(matches, "ROWS_AT_ONCE", 2)
    chunked = pa.concat_tables([table.slice(0, 3), table.slice(3, 8)])
    assert count_matches([chunked], GRID, "graded") == whole


def test_exact_mode_has_full_matches_and_no_scores():
    """Without match bits the full matches come from the first mismatch, and no score is made up."""
    rows = [("member", None, 2, [True] * m + [False] * (10 - m), (1, 1, 1)) for m in (0, 3, 9, 10)]
    counts = count_matches([scores_table(rows, graded=False)], GRID, "exact")
    memorized = {place.continuation: c.num_memorized for place, c in counts.strata.items()}
    assert memorized == {3: 3, 9: 2, 10: 1}
    assert {c.matched for c in counts.strata.values()} == {c.binned for c in counts.strata.values()} == {None}
    result = factors({"tiny": model("tiny", counts)})
    assert (result.bins.num_rows, result.num_matched.num_rows, result.first_mismatch.num_rows) == (0, 0, 25)


def test_damaged_scores_are_refused():
    """A context outside the grid, lost bits, bits against the first mismatch: errors that say what came."""
    good = [("member", None, 2, [True] * 10, (1, 1, 1))]
    table = scores_table(good)
    with pytest.raises(StoreError, match="context 3; expected one of the grid's"):
        count_matches([scores_table([("member", None, 3, [True] * 10, (1, 1, 1))])], GRID, "graded")
    with pytest.raises(StoreError, match="lack 1 rows' match bits"):
        count_matches([scores_table(good, graded=False)], GRID, "graded")
    lying = table.set_column(
        table.schema.get_field_index("first_mismatch"), "first_mismatch", [pa.array([0], pa.int32())]
    )
    with pytest.raises(StoreError, match="contradict first_mismatch at n = 3"):
        count_matches([lying], GRID, "graded")
    with pytest.raises(ConfigError, match="cannot be added"):
        _ = count_matches([table], GRID, "graded") + count_matches([table], GRID, "exact")


@pytest.mark.parametrize("n", [1, 3, 10, 16, 32, 48, 64, 96])
def test_bins_are_left_closed(n):
    """Score m/n lies in bin [b/10, (b+1)/10) by exact fractions; 0 and 1 have bins of their own."""
    for m in range(1, n):
        place = matches.score_bin(m, n) - 1
        assert place * n <= 10 * m < (place + 1) * n
    assert (matches.score_bin(0, n), matches.score_bin(n, n)) == (0, 11)
    assert len(BIN_LABELS) == matches.NUM_BINS


def test_published_table():
    """The published counts of memorized sequences come out in every cell, with Wilson intervals."""
    result = factors(published_models())
    rows = result.memorized.to_pylist()
    found = {(row["model"], row["context"], row["continuation"]): row for row in rows}
    assert len(rows) == len(found) == 49
    assert list(dict.fromkeys(row["model"] for row in rows)) == list(PUBLISHED), "from small to large"
    for label, (_, _, counts) in PUBLISHED.items():
        for cell, count in zip(CELLS, counts, strict=True):
            row = found[label, *cell]
            assert (row["num_memorized"], row["num_sequences"]) == (count, NUM_PUBLISHED)
            assert row["share"] == count / NUM_PUBLISHED
            expected = proportion_confint(count, NUM_PUBLISHED, method="wilson")
            assert (row["share_low"], row["share_high"]) == pytest.approx(expected, rel=1e-12)


def test_published_bins():
    """The twelve bins of the published model keep their counts, and sum to every sequence."""
    rows = factors(published_models()).bins.to_pylist()
    for cell, words in BINS_70M.items():
        counts = [row["num_chosen"] for row in rows if (row["context"], row["continuation"]) == cell]
        assert counts == [int(word) for word in words.split()]
        assert sum(counts) == NUM_PUBLISHED


def test_published_trends():
    """Published: rises with size in every cell, falls along n and ever more slowly, rises along k.

    The bend along k: the paper says ever faster; the smallest model's series, the only trusted one,
    bends the other way.
    """
    result = factors(published_models())
    rows = result.trend.to_pylist()
    size = [row for row in rows if row["along"] == "num_non_embedding_parameters" and row["form"] == "log-linear"]
    assert len(size) == 7
    assert all(row["coefficient_low"] > 0 and row["p_value"] < row["p_holm"] < 0.01 for row in size)
    bend = {(row["along"], row["model"]): row["coefficient"] for row in rows if row["form"] == "quadratic"}
    slope = {(row["along"], row["model"]): row["coefficient"] for row in rows if row["form"] == "log-linear"}
    assert all(slope["continuation", label] < 0 < bend["continuation", label] for label in PUBLISHED)
    assert all(slope["context", label] > 0 for label in PUBLISHED)
    assert [label for label in PUBLISHED if bend["context", label] < 0] == ["70m"]
    assert result.finding.verdict == "holds"
    assert "12b recites 1,732,833 of 146,432,000 member sequences, 1.1834 %" in result.finding.sentence
    assert "no control was given" in result.finding.sentence
    rise = "from 0.2810 % to 1.1834 % (+0.9024 points, 0.9005 to 0.9044) over 7 models"
    assert f"Memorization rises with size: the share goes {rise}" in result.finding.sentence
    lengths = "It falls with the continuation in all 7 models and rises with the context in all 7 models."
    assert result.finding.sentence.endswith(lengths)


def test_small_sizes_invent_no_interval():
    """One model has no trend along size, two have a slope without interval, and the sentence says so."""
    one = factors({"a": model("a", constant(3))})
    assert one.trend.num_rows == 0
    assert "With one model nothing can be said" in one.finding.sentence
    two = factors({"a": model("a", constant(3)), "b": model("b", constant(9), 200, 500)})
    row = next(row for row in two.trend.to_pylist() if row["form"] == "log-linear")
    assert row["coefficient"] == pytest.approx(0.006)
    assert (row["coefficient_low"], row["p_holm"]) == (None, None)
    assert row["note"] == "too few model sizes (2); an interval needs 3"
    assert two.finding.verdict == "undecided"


def along_size(counts, *, controls=None, total=1000):
    """The finding for models of 1, 10, 100 ... parameters with these counts of memorized sequences."""
    strata = [constant(count, total) for count in counts]
    if controls:
        strata = [one + constant(count, total, "control") for one, count in zip(strata, controls, strict=True)]
    models = {f"m{i}": model(f"m{i}", one, 10, 10**i) for i, one in enumerate(strata)}
    return factors(models).finding


def test_verdict_follows_the_sequences():
    """Four models with disjoint intervals rise, whatever a slope over four points may say."""
    found = along_size([76, 167, 205, 273], controls=[0, 0, 0, 0])
    assert found.verdict == "holds"
    rise = "the excess goes from 7.6 to 27.3 points (+19.7 points, 16.5 to 22.9) over 4 models"
    assert f"Memorization rises with size: {rise}, about 6.3 points (" in found.sentence
    assert "; few models: wide) per tenfold parameters." in found.sentence
    assert found.figures["size_difference"] == pytest.approx(0.197)


def test_steps_between_sizes_are_corrected_for_their_number():
    """An upper end of -0.01 at 1.96 errors is surely a fall alone, not as one of five (2.58 errors: +0.022)."""
    change = Amount(-0.11, -0.21, -0.01)
    assert surely_falls([change], 0.95) == [True]
    assert surely_falls([change] * 5, 0.95) == [False] * 5
    assert surely_falls([Amount(-0.5, -0.6, -0.4)] * 5, 0.95) == [True] * 5


def test_size_difference_is_newcombes():
    """Without control the interval of largest minus smallest is Newcombe's; over a control without hits it is wider."""
    bare = along_size([76, 273])
    expected = intervals.newcombe(273, 1000, 76, 1000)
    ends = [bare.figures[f"size_difference{end}"] for end in ("", "_low", "_high")]
    assert ends == pytest.approx([float(value) for value in expected])
    over = along_size([76, 273], controls=[0, 0])
    assert over.figures["size_difference_low"] < ends[1] < ends[2] < over.figures["size_difference_high"]


@pytest.mark.parametrize(
    ("counts", "verdict", "words"),
    [
        ([60, 20, 30], "fails", "Memorization falls with size: the share goes from 6.0 % to 3.0 % (-3.0 points,"),
        ([10, 30, 12, 60], "fails", "does not rise steadily with size"),
        ([10, 30, 12, 60], "fails", "per tenfold parameters, but it falls from m1 to m2 (-1.8 points, -3.2 to -0.5)."),
        ([10, 14, 12, 15], "undecided", "Whether memorization rises with size is undecided: the share goes from 1.0 %"),
        ([10, 30, 26, 60], "holds", "Memorization rises with size"),
        ([0, 0, 0, 0], "undecided", "(no interval: no scatter)"),
        ([3], "undecided", "With one model nothing can be said about size."),
    ],
)
def test_falling_data_are_told(counts, verdict, words):
    """A demonstrable fall, overall or in one step, is said; a step within its interval decides nothing."""
    found = along_size(counts)
    assert (found.verdict, words in found.sentence) == (verdict, True), found.sentence


def test_control_that_rises_too_is_no_rise():
    """Members and control that grow alike have no excess: nothing is said to rise."""
    found = along_size([10, 50, 100], controls=[10, 50, 100])
    assert found.verdict == "undecided"
    assert "the excess goes from 0.0 to 0.0 points" in found.sentence


def test_models_of_one_size_are_no_step():
    """Two models of the same size say nothing about size, whatever they memorized."""
    result = factors({label: model(label, constant(count)) for label, count in (("a", 10), ("b", 90))})
    assert result.finding.verdict == "undecided"
    assert "With one size nothing can be said" in result.finding.sentence


def test_lengths_are_told():
    """Rising along the context in one model, falling in another, and nothing clear where intervals overlap."""
    up, flat, down = (constant(100) + constant(count, cell=(64, 32)) for count in (200, 101, 30))
    sentences = [
        factors({str(i): model(str(i), one, 10, 10**i) for i, one in enumerate(some)}).finding.sentence
        for some in ([up], [flat], [up, down, flat])
    ]
    assert sentences[0].endswith("Memorization rises with the context.")
    assert sentences[1].endswith("Memorization shows no clear trend with the context.")
    assert sentences[2].endswith("It rises with the context in 1 of 3 models and falls in 1.")


def test_trends_of_nothing_have_notes():
    """Nothing memorized has no logarithm and no plateau, and the trend says so."""
    zero = factors({str(i): model(str(i), constant(0), 10, 10**i) for i in range(4)})
    notes = {row["form"]: row["note"] for row in zero.trend.to_pylist()}
    assert notes["power law"] == "not fitted: a share of zero or less has no logarithm"
    assert notes["saturating"] == "not fitted: no share above zero"


def test_saturation_is_recovered():
    """Shares on a saturating curve give its plateau (0.02) and half point (10^8), and AICc prefers it."""
    shares = {size: round(1e9 * 0.02 * size / (size + 1e8)) for size in (10**7, 5 * 10**7, 10**8, 10**9, 10**10)}
    models = {str(size): model(str(size), constant(count, 10**9), size, size) for size, count in shares.items()}
    rows = {row["form"]: row for row in factors(models).trend.to_pylist()}
    assert rows["saturating"]["coefficient"] == pytest.approx(0.02, rel=1e-4)
    assert rows["saturating"]["half_point"] == pytest.approx(1e8, rel=1e-3)
    assert rows["saturating"]["aicc"] == min(row["aicc"] for row in rows.values())


def test_excess_over_control():
    """Excess is member minus control share: 60/1000 - 5/500 = 0.05, inside its interval."""
    counts = constant(60) + constant(5, 500, "control")
    result = factors({"a": model("a", counts)})
    (row,) = result.excess.to_pylist()
    assert row["excess"] == pytest.approx(0.05)
    assert 0 < row["excess_low"] < 0.05 < row["excess_high"]
    assert [row["group"] for row in result.memorized.to_pylist()] == ["member", "control"]
    assert "against 5 of 500 held-out: an excess of 5.0 points" in result.finding.sentence
    same = factors({"a": model("a", constant(10) + constant(10, group="control"))})
    assert "not distinguishable from zero" in same.finding.sentence


def test_empty_and_small_strata_are_flagged():
    """An empty stratum has no share and no place in a trend; fewer than 30 sequences carry a flag."""
    counts = constant(0, 0) + constant(1, 29, "control") + constant(3, 30, cell=(64, 32))
    result = factors({"a": model("a", counts)})
    rows = [(row["num_sequences"], row["share"], row["small_stratum"]) for row in result.memorized.to_pylist()]
    assert rows == [(0, None, True), (30, 0.1, False), (29, 1 / 29, True)]
    assert [(row["excess"], row["excess_low"], row["excess_high"]) for row in result.excess.to_pylist()] == [
        (None, -1, 1)
    ]
    assert result.trend.num_rows == 0
    assert result.finding.sentence.startswith("At k = 32 and n = 32 a was given no member sequences. With")


def test_repeats_are_a_dose_response():
    """Shares by number of repeats, unknown numbers left out; classes double: 0, 1, 2 to 3, 4 to 7."""
    hit, miss = [True] * 10, [False] * 10
    doses = [(None, hit), (0, miss), (1, miss), (2, hit), (3, miss), (4, hit), (6, hit)]
    rows = [("member", repeats, 2, bits, (1, 1, 1)) for repeats, bits in doses]
    result = factors({"a": model("a", count_matches([scores_table(rows)], GRID, "graded"))})
    longest = [row for row in result.repeats.to_pylist() if row["continuation"] == 10]
    assert {row["num_repeats"]: row["share"] for row in longest} == {0: 0, 1: 0, 2: 1, 3: 0, 4: 1, 6: 1}
    classes = [row for row in result.repeat_classes.to_pylist() if row["continuation"] == 10]
    ends = [
        (row["num_repeats_low"], row["num_repeats_high"], row["num_memorized"], row["num_sequences"]) for row in classes
    ]
    assert ends == [(0, 0, 0, 1), (1, 1, 0, 1), (2, 3, 1, 2), (4, 6, 2, 2)]


def test_only_last_checkpoints_carry_the_size_trend():
    """Of one source only the last step counts along size (no step is the final one)."""
    models = [
        model("a@1", constant(1), step=1, source="a"),
        model("a@9", constant(5), step=9, source="a"),
        model("b@1", constant(2), 100, 500, step=1, source="b"),
        model("b", constant(8), 100, 500, source="b"),
    ]
    assert [one.label for one in final_models(models)] == ["a@9", "b"]
    result = factors({one.label: one for one in models})
    slope = next(row for row in result.trend.to_pylist() if row["form"] == "log-linear")
    assert (slope["num_points"], slope["coefficient"]) == (2, pytest.approx(0.003))
    assert [row["training_step"] for row in result.steps.to_pylist()] == [1, 9]


def test_columns_speak():
    """Every column of every table has a meaning in its schema, and counts and lengths have units."""
    for table in factors(published_models()).tables.values():
        for field in table.schema:
            assert field.metadata[b"meaning"].decode() == COLUMNS[field.name].meaning
            assert field.metadata[b"unit"] or pa.types.is_string(field.type) or field.name in UNITLESS


UNITLESS = {"bin", "small_stratum", "num_points", "p_value", "p_holm", "aicc", "half_point"} | {
    f"coefficient{end}" for end in ("", "_low", "_high")
}

FORBIDDEN = {f"mnemoscope.{name}" for name in ("model", "scoring", "run", "engines", "corpus")} | {"torch"}


@pytest.mark.parametrize("package", ["mnemoscope.analyses", "mnemoscope.report"])
def test_analyses_and_report_never_reach_the_model(package):
    """Walking imports from any module here never reaches model, scoring, run, engines, corpus or torch."""
    folder = Path(importlib.util.find_spec(package).submodule_search_locations[0])
    waiting = [f"{package}.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"] + [package]
    seen = set()
    while waiting:
        name = waiting.pop()
        assert not any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN), f"{name} reached"
        if name.startswith("mnemoscope.") and name not in seen:
            seen.add(name)
            waiting.extend(imported_names(name))
    assert len(seen) > 3


def imported_names(module):
    """The modules that a module's import statements name, wherever they stand in it."""
    spec = importlib.util.find_spec(module)
    names = []
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if not name.startswith("mnemoscope.") or exists(name)]


def exists(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
