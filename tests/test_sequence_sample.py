"""The page's sample: as even as the strata allow, and its weights add up to all scored sequences."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mnemoscope.config import TracesConfig
from mnemoscope.corpus.draws import hash_counters
from mnemoscope.errors import ConfigError
from mnemoscope.imported import import_scores
from mnemoscope.run import run_study
from mnemoscope.sequence_facts import SequencePick
from mnemoscope.sequence_sample import draw_explorer_sample
from mnemoscope.store import read_scores
from mnemoscope.traces import read_traces
from studies import make_study, stored_matches

NUM_MEMBERS, NUM_CONTROL = 90, 30


def score(folder, **settings):
    return run_study(make_study(folder / "in", num_rows=NUM_MEMBERS, num_control=NUM_CONTROL, **settings), folder / "s")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Scored, not traced."""
    return score(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """Traced at context 8, stratified by the matches of the first 3."""
    return score(tmp_path_factory.mktemp("traced"), traces=TracesConfig(per_stratum=6, contexts=(8,), continuation=3))


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """Imported, so that every num_matched of 0 to 8 occurs, some of them rarely: 150 members and 50 of a control."""
    folder = tmp_path_factory.mktemp("rich")
    chances = np.array([40, 25, 12, 6, 5, 4, 3, 2, 3]) / 100
    for group, count in (("member", 150), ("control", 50)):
        matched = np.random.default_rng(count).choice(9, size=count, p=chances)
        rows = "".join(f"{i},{value / 8}\n" for i, value in enumerate(matched.tolist()))
        (folder / group).mkdir()
        for model in ("70m", "160m"):
            (folder / group / f"memorization_evals_{model}_32_40_143000.csv").write_text(f"idx,score\n{rows}")
    files = [str(folder / group / "*.csv") for group in ("member", "control")]
    return import_scores(files[:1], folder / "study", control=files[1:])


def strata_of(study, context, continuation, *, label="tiny"):
    """num_matched of every sequence."""
    matches = stored_matches(study, label)
    return {
        SequencePick(group, i): count
        for (group, i, k, n), count in matches.items()
        if (k, n) == (context, continuation)
    }


@pytest.mark.parametrize("num_sequences", [2, 3, 7, 20, 60, 119, 120, 300])
@pytest.mark.parametrize("kind", ["plain", "traced"])
def test_weights_add_up(kind, num_sequences, request):
    """However many seats there are: no more are taken, none twice, and they stand for all scored sequences."""
    study = request.getfixturevalue(kind)
    sample = draw_explorer_sample(study, num_sequences=num_sequences)
    assert len(set(sample.picks)) == len(sample.picks) <= num_sequences
    assert sum(sample.weights) == pytest.approx(NUM_MEMBERS + NUM_CONTROL)
    assert sum(sample.sizes) == NUM_MEMBERS + NUM_CONTROL
    by_group = Counter()
    for pick, weight in zip(sample.picks, sample.weights, strict=True):
        by_group[pick.group] += weight
    assert by_group == pytest.approx({"member": NUM_MEMBERS, "control": NUM_CONTROL})
    if kind == "plain" and num_sequences >= 120:
        assert sample.note == "All 120 scored sequences."
        assert set(sample.weights) == {1}
    else:
        assert f"{len(sample.picks)} of 120 scored sequences" in sample.note


def test_strata_are_group_and_matches(rich):
    """Without traces the strata are those of the longest context and continuation; weights are size over seats."""
    strata = strata_of(rich, 32, 8, label="160m@step143000")
    sizes = Counter((pick.group, count) for pick, count in strata.items())
    assert len(sizes) > 14
    sample = draw_explorer_sample(rich, num_sequences=80)
    seats = Counter((pick.group, strata[pick]) for pick in sample.picks)
    assert set(seats) == set(sizes)
    for pick, weight in zip(sample.picks, sample.weights, strict=True):
        key = (pick.group, strata[pick])
        assert weight == pytest.approx(sizes[key] / seats[key])
    assert (sample.context, sample.continuation, sample.model) == (32, 8, "160m@step143000")


def test_seats_are_as_even_as_strata_allow(rich):
    """A stratum with fewer seats than another has none left to give, but for one seat of the last round."""
    strata = strata_of(rich, 32, 8, label="160m@step143000")
    sizes = Counter((pick.group, count) for pick, count in strata.items())
    for num_sequences in (40, 77, 120):
        picks = draw_explorer_sample(rich, num_sequences=num_sequences).picks
        seats = Counter((pick.group, strata[pick]) for pick in picks)
        assert sum(seats.values()) == num_sequences
        for key, count in seats.items():
            assert count == sizes[key] or count >= max(seats.values()) - 1


def test_neighbours_are_merged_where_seats_are_few(rich):
    """With fewer than two seats for each num_matched, strata are ranges of it that do not overlap, within a group."""
    strata = strata_of(rich, 32, 8, label="160m@step143000")
    sample = draw_explorer_sample(rich, num_sequences=12)
    assert len(sample.sizes) == 6
    ranges = {}
    for pick, stratum in zip(sample.picks, sample.strata, strict=True):
        ranges.setdefault((pick.group, stratum), set()).add(strata[pick])
    for (group, one), levels in ranges.items():
        for (other_group, other), other_levels in ranges.items():
            if group == other_group and one < other:
                assert max(levels) < min(other_levels)
    assert Counter(sample.strata) == dict.fromkeys(range(6), 2)


def test_smallest_hashes_are_taken(rich):
    """Of each stratum the sequences of the smallest hash under the seed have the seats: brute force over all scores."""
    strata = strata_of(rich, 32, 8, label="160m@step143000")
    for seed in (0, 5):
        sample = draw_explorer_sample(rich, num_sequences=90, seed=seed)
        seats = Counter((pick.group, strata[pick]) for pick in sample.picks)
        for key, count in seats.items():
            own = [pick for pick, matched in strata.items() if (pick.group, matched) == key]
            draws = hash_counters(np.array([pick.sequence_id for pick in own]), seed=seed)
            expected = {own[place] for place in np.argsort(draws)[:count]}
            assert expected == {pick for pick in sample.picks if (pick.group, strata[pick]) == key}
    assert draw_explorer_sample(rich, num_sequences=40) == draw_explorer_sample(rich, num_sequences=40)


def test_shards_do_not_matter(plain, tmp_path):
    """The same sequences and weights come from shards of 4 and of 7."""
    other = score(tmp_path, shard_rows=7)
    for num_sequences in (10, 50):
        one, two = (draw_explorer_sample(study, num_sequences=num_sequences) for study in (plain, other))
        assert one == two


def test_traced_sequences_are_preferred(traced):
    """Where there are traces every pick has one, at the traced context, and strata have their sizes in the scores."""
    table = read_traces(traced.folder, "tiny", 8)
    has_trace = {SequencePick(row["group"], row["sequence_id"]) for row in table.to_pylist()}
    assert len(has_trace) < 120
    strata = strata_of(traced, 8, 3)
    sizes = Counter((pick.group, count) for pick, count in strata.items())
    sample = draw_explorer_sample(traced, num_sequences=300)
    assert set(sample.picks) == has_trace
    assert sorted(sample.sizes) == sorted(sizes.values())
    seats = Counter((pick.group, strata[pick]) for pick in sample.picks)
    for pick, weight in zip(sample.picks, sample.weights, strict=True):
        assert weight == pytest.approx(sizes[pick.group, strata[pick]] / seats[pick.group, strata[pick]])


def test_fewer_seats_are_the_first_ones(rich):
    """A sample that is cut keeps its first sequences, stays even, and its weights add up; never below one a stratum."""
    sample = draw_explorer_sample(rich, num_sequences=80)
    for num_sequences in (60, 25, len(sample.sizes)):
        fewer = sample.cut(num_sequences)
        assert fewer.picks == sample.picks[:num_sequences]
        assert sum(fewer.weights) == pytest.approx(200)
        assert set(fewer.strata) == set(range(len(sample.sizes)))
    assert sample.cut(1) == sample.cut(len(sample.sizes))


@pytest.mark.parametrize("num_sequences", [12, 40])
def test_weighted_sums_are_right_on_average(rich, num_sequences):
    """Over 400 seeds the mean weighted sum lies within four standard errors of the sum over all sequences."""
    strata = strata_of(rich, 32, 8, label="160m@step143000")
    values = {pick: pick.sequence_id % 7 + matched for pick, matched in strata.items()}
    sums = []
    for seed in range(400):
        sample = draw_explorer_sample(rich, num_sequences=num_sequences, seed=seed)
        sums.append(sum(values[pick] * weight for pick, weight in zip(sample.picks, sample.weights, strict=True)))
    error = np.std(sums) / 400**0.5
    assert error > 0
    assert abs(np.mean(sums) - sum(values.values())) < 4 * error


def test_sequences_of_merged_traced_strata_keep_their_shares(traced):
    """Where strata of unequal traced shares are merged, weights are as the traces' own design weights within each."""
    weights = {
        SequencePick(row["group"], row["sequence_id"]): row["design_weight"]
        for row in read_traces(traced.folder, "tiny", 8).to_pylist()
    }
    sample = draw_explorer_sample(traced, num_sequences=3)
    assert sample.sizes == (NUM_MEMBERS, NUM_CONTROL)
    members = [place for place, pick in enumerate(sample.picks) if pick.group == "member"]
    assert len(members) == 2
    total = sum(weights[sample.picks[place]] for place in members)
    for place in members:
        assert sample.weights[place] == pytest.approx(NUM_MEMBERS * weights[sample.picks[place]] / total)


def test_exact_and_imported_scores_have_samples(tmp_path):
    """Without match bits the strata are matches before the first mismatch; imported scores have theirs."""
    (tmp_path / "exact").mkdir()
    study = score(tmp_path / "exact", mode="exact")
    sample = draw_explorer_sample(study, num_sequences=20)
    firsts = Counter(
        (row["group"], row["first_mismatch"])
        for table in read_scores(study, "tiny")
        for row in table.to_pylist()
        if row["context"] == 8
    )
    assert sorted(sample.sizes) == sorted(firsts.values())
    assert sum(sample.weights) == pytest.approx(120)
    rows = "".join(f"{i},{(i % 5) / 4}\n" for i in range(50))
    (tmp_path / "memorization_evals_70m_32_36_143000.csv").write_text("idx,score\n" + rows)
    (tmp_path / "memorization_evals_160m_32_36_143000.csv").write_text("idx,score\n" + rows)
    imported = draw_explorer_sample(import_scores([str(tmp_path / "*.csv")], tmp_path / "imported"), num_sequences=10)
    assert imported.sizes == (10,) * 5
    assert Counter(pick.sequence_id % 5 for pick in imported.picks) == dict.fromkeys(range(5), 2)


def test_too_few_seats_are_refused(plain):
    """Fewer seats than groups cannot stand for all: an error that says how many are needed."""
    with pytest.raises(ConfigError, match=r"num_sequences: 1 given; expected at least one for each group \(2\)"):
        draw_explorer_sample(plain, num_sequences=1)
