"""Embeddings: geometry against naive loops and scipy, planted groups told from random ones, duplicates together."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from mnemoscope.analyses.embedding_columns import EMBEDDING_COLUMNS
from mnemoscope.analyses.embedding_geometry import draw, measure, pairs_of, rank_correlation, step_grams
from mnemoscope.analyses.embedding_path import fit_pca
from mnemoscope.analyses.embedding_sample import MIN_GROUP, divide, read_units
from mnemoscope.analyses.embedding_separability import NUM_FOLDS, probe, separate, split
from mnemoscope.analyses.embedding_steps import quantiles, walk
from mnemoscope.analyses.embedding_summary import random_p
from mnemoscope.analyses.embeddings import EmbeddingSample, embeddings
from mnemoscope.errors import ConfigError, ScoringError
from mnemoscope.report.embedding_figures import embedding_specs

NUM_STEPS, WIDTH = 8, 16


def sample(num_matched, states, *, label="model", size=10**6, step=None, group=None, cluster=None, weight=None):
    num_rows = len(num_matched)
    return EmbeddingSample(
        label=label,
        num_non_embedding_parameters=size,
        training_step=step,
        width=states.shape[2],
        num_matched=np.asarray(num_matched, np.int64),
        group=np.full(num_rows, "member") if group is None else np.asarray(group),
        cluster=np.arange(num_rows) if cluster is None else np.asarray(cluster),
        design_weight=np.ones(num_rows) if weight is None else np.asarray(weight, np.float64),
        states=np.asarray(states, np.float16),
        context=32,
    )


def planted(*, spread=2.0, order=True, shrinking=True, num_each=24, seed=0, **settings):
    """Scores on a line in their order (or in a shuffled one), which shrinks along decoding; unit noise elsewhere."""
    generator = np.random.default_rng(seed)
    scores = np.repeat(np.arange(NUM_STEPS + 1), num_each)
    places = np.arange(NUM_STEPS + 1) / NUM_STEPS - 0.5
    if not order:
        places = np.array([3, -4, 1, -2, 4, -3, 2, -1, 0]) / 8
    scale = np.linspace(1, 0.3, NUM_STEPS) if shrinking else np.ones(NUM_STEPS)
    direction = generator.normal(size=WIDTH)
    direction /= np.linalg.norm(direction)
    along = spread * places[scores, None] * scale
    noise = generator.normal(scale=0.3, size=(len(scores), NUM_STEPS, WIDTH))
    return sample(scores, 5 + along[..., None] * direction + noise, **settings)


def rows(table, **wanted):
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items())]


@pytest.fixture(scope="module")
def result():
    """Three sizes of ordered scores that spread ever further; the second has a control of random order."""
    samples = [planted(spread=2.0 * size, seed=size, size=10**size, label=f"m{size}") for size in (1, 2, 3)]
    return embeddings({one.label: one for one in samples}, num_resamples=60)


def test_distances_and_cosines_are_those_of_the_weighted_means():
    """Raw distance, cosine and centred cosine equal scipy's on means taken by a naive loop, at every step."""
    generator = np.random.default_rng(0)
    scores, weight = np.repeat([0, 3, 5], 20), generator.uniform(1, 9, 60)
    one = sample(scores, generator.normal(size=(60, NUM_STEPS, WIDTH)) + 2, weight=weight)
    found = embeddings({"model": one}, num_resamples=20)
    for step in (0, 7):
        states = one.states[:, step].astype(np.float64)
        means = np.stack([np.average(states[scores == m], axis=0, weights=weight[scores == m]) for m in (0, 3, 5)])
        tables = {"distances": ("distance", "euclidean", means), "cosines": ("cosine", "cosine", means)}
        tables["centred_cosines"] = ("cosine", "cosine", means - means.mean(axis=0))
        for name, (column, metric, points) in tables.items():
            expected = pdist(points, metric) if metric == "euclidean" else 1 - pdist(points, metric)
            values = [row[column] for row in rows(found.tables[name], step=step)]
            np.testing.assert_allclose(values, expected, atol=1e-5)


def test_noise_taken_off_by_hand():
    """Ten states 0 or 2 and ten 3 or 5: distance 3, each mean's variance (10/9) / 10, so 9 - 2/9 without noise."""
    values = np.concatenate([np.tile([0.0, 2.0], 5), np.tile([3.0, 5.0], 5)])
    one = sample(np.repeat([0, 1], 10), values[:, None, None])
    found = embeddings({"model": one}, num_resamples=20)
    (pair,) = found.distances.to_pylist()
    assert pair["distance"] == pytest.approx(3)
    assert pair["corrected_distance"] == pytest.approx(np.sqrt(9 - 2 / 9))


def test_corrected_squared_distance_is_unbiased():
    """Over 300 draws the corrected squared distance averages to the truth, 1; the plain one is above by the noise."""
    generator, plain, corrected = np.random.default_rng(1), [], []
    pairs = pairs_of(np.array([0, 1]))
    for _ in range(300):
        states = generator.normal(size=(24, 1, WIDTH))
        states[12:, 0, 0] += 1
        one = sample(np.repeat([0, 1], 12), states)
        units = divide(one, "member")
        grams = step_grams(read_units(one, units, 0), units, draw(units, num_resamples=2, seed=0))
        plain.append(measure(grams.plain_CC, pairs).squared_distance[0])
        corrected.append(measure(grams.corrected_CC, pairs).squared_distance[0])
    error = np.std(corrected) / np.sqrt(300)
    assert np.mean(corrected) == pytest.approx(1, abs=4 * error)
    assert np.mean(plain) == pytest.approx(1 + 2 * WIDTH / 12, abs=4 * error)


@pytest.mark.parametrize("even", [True, False])
def test_random_and_resampled_groups_are_those_of_a_naive_loop(even):
    """Each resample's and random grouping's Gram matrix, and its noise, equal those taken one by one."""
    generator = np.random.default_rng(2)
    scores = np.repeat([0, 2, 4], (10, 14, 12))
    one = sample(
        scores,
        generator.normal(size=(36, NUM_STEPS, WIDTH)) + 1,
        weight=None if even else generator.uniform(1, 4, 36),
    )
    units = divide(one, "member")
    draws, states = draw(units, num_resamples=5, seed=3), read_units(one, units, 1)
    grams = step_grams(states, units, draws)
    exact, weight = states.astype(np.float64), units.weight_U
    resampled = []
    for index in range(5):
        both = weight * draws.multiplicity_BU[index]
        means = np.stack([np.average(exact[units.group_U == c], 0, both[units.group_U == c]) for c in range(3)])
        resampled.append(means @ means.T)
        noise, means = [], []
        for group in range(3):
            chosen = draws.order_NU[index][units.slice_of(group)]
            means.append(np.average(exact[chosen], 0, weight[chosen]))
            deviation = weight[chosen] ** 2 @ np.square(exact[chosen] - means[-1]).sum(axis=1)
            noise.append(deviation / weight[chosen].sum() ** 2 * len(chosen) / (len(chosen) - 1))
        expected = np.stack(means) @ np.stack(means).T
        np.testing.assert_allclose(grams.random_NCC[index], expected, rtol=1e-4)
        np.testing.assert_allclose(grams.random_corrected_NCC[index], expected - np.diag(noise), rtol=1e-4, atol=1e-4)
    moved = np.array(resampled) + grams.corrected_CC - np.mean(resampled, axis=0)
    np.testing.assert_allclose(grams.resampled_BCC, moved, rtol=1e-4, atol=1e-4)


def test_rank_correlation_and_quantiles_are_the_references():
    """Ties included, the correlation is scipy's Spearman; quantiles without NaN are numpy's."""
    generator = np.random.default_rng(0)
    values, other = generator.integers(0, 5, (4, 30)).astype(float), generator.integers(0, 6, 30)
    np.testing.assert_allclose(rank_correlation(values, other), [spearmanr(row, other)[0] for row in values])
    values[values == 4] = np.nan
    np.testing.assert_allclose(quantiles(values, 0.1, 0.5), np.nanquantile(values, [0.1, 0.5], axis=0))


def test_planted_order_shrinking_and_spread_are_found(result):
    """Scores on a line that shrinks to 0.3 of itself, further apart the larger the model: all three claims hold."""
    assert result.finding.verdict == "holds"
    for row in result.models.to_pylist():
        assert row["order_low"] > 0.8
        assert row["order_p"] == pytest.approx(1 / 61)
        # The first quarter is two steps at 1 and 0.9, the last at 0.4 and 0.3.
        assert row["spread_change"] == pytest.approx(np.hypot(0.4, 0.3) / np.hypot(1, 0.9) - 1, abs=0.05)
        assert row["spread_change_low"] < row["spread_change"] < row["spread_change_high"]
        spread = (
            2.0
            * int(row["model"][1])
            * np.sqrt(np.mean(np.linspace(1, 0.3, 8) ** 2) * 2 * np.var(np.arange(9)) * 9 / 8)
            / 8
        )
        assert row["spread"] == pytest.approx(spread, rel=0.05)
        assert row["spread_per_width"] == pytest.approx(row["spread"] / 4)
    assert "larger models spread further" in result.finding.sentence.lower()
    assert "3 of 3 models" in result.finding.sentence


def test_random_groups_are_not_found():
    """Scores that say nothing of the states: no order, no accuracy above the constant guess, nine in ten in range."""
    found = embeddings({"model": planted(spread=0)}, num_resamples=60)
    (row,) = found.models.to_pylist()
    assert found.finding.verdict != "holds"
    assert row["separation_p"] > 0.05
    assert abs(row["order"]) < 0.4
    assert "cannot be told from random groups" in found.finding.sentence.lower()
    pairs = found.distances.to_pylist()
    within = [row["random_distance_low"] <= row["distance"] <= row["random_distance_high"] for row in pairs]
    assert np.mean(within) > 0.85
    assert abs(np.mean([row["excess_distance"] for row in pairs])) < 0.1 * pairs[0]["random_distance"]
    assert all(row["excess_accuracy_low"] <= 0 for row in found.separability.to_pylist())


def test_scores_apart_but_in_no_order_fail():
    """Groups far apart in a shuffled order: separable, and the order is said not to be reproduced."""
    found = embeddings({"model": planted(order=False)}, num_resamples=60)
    assert found.finding.verdict == "fails"
    assert "scores lie apart, but not in order" in found.finding.sentence.lower()
    assert found.finding.figures["not_reproduced"] == "the order of scores"


def test_distance_that_grows_is_said_not_to_reproduce():
    """The planted shrinking run backwards: the distance grows, and the claim fails."""
    one = planted()
    backwards = sample(one.num_matched, one.states[:, ::-1])
    found = embeddings({"model": backwards}, num_resamples=40)
    assert found.finding.verdict == "fails"
    assert "the distance between scores grows" in found.finding.sentence.lower()


def test_smaller_models_that_spread_further_fail_the_size_claim():
    """The planted spreads the other way round: larger models spread less."""
    samples = [planted(spread=8 - 2.0 * size, seed=size, size=10**size, label=f"m{size}") for size in (1, 2)]
    found = embeddings({one.label: one for one in samples}, num_resamples=40)
    assert "larger models spread less" in found.finding.sentence.lower()
    assert found.finding.verdict == "fails"


def test_permutation_p_values_are_calibrated():
    """Over 60 samples without any effect, p < 0.25 comes about one time in four, for order and for separation."""
    order, separation = [], []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        scores = np.repeat([0, 1, 2, 3], (20, 60, 24, 40))
        one = sample(scores, generator.normal(size=(144, 3, 4)) + 3, cluster=np.arange(144) // 2)
        side = walk(one, "member", {0, 1}, level=0.95, num_resamples=39, seed=seed)
        order.append(random_p(side.order))
        separation.append(random_p(side.squared_distance))
    for p_values in (order, separation):
        assert 6 <= np.sum(np.array(p_values) <= 0.25) <= 25


def test_duplicates_do_not_leak_across_the_probes_split():
    """Eight copies of each of 60 states with random classes: by cluster the probe guesses, by row it would know."""
    generator = np.random.default_rng(0)
    states = np.repeat(generator.normal(size=(60, 80)), 8, axis=0).astype(np.float32)
    classes, cluster = np.repeat(generator.integers(0, 2, 60), 8), np.repeat(np.arange(60), 8)
    folds = split(cluster, seed=0)
    assert all(len(set(folds[cluster == number].tolist())) == 1 for number in range(60))
    assert np.bincount(folds).tolist() == [96] * NUM_FOLDS
    assert probe(states, classes, folds).mean() < 0.75
    assert probe(states, classes, np.arange(480) % NUM_FOLDS).mean() > 0.95


def test_duplicates_count_as_one_unit():
    """Rows given four times over, in clusters: the same distances without noise, and the same p-values, as once."""
    once = planted(num_each=12)
    fourfold = sample(
        np.repeat(once.num_matched, 4), np.repeat(once.states, 4, axis=0), cluster=np.repeat(np.arange(108), 4)
    )
    one, other = (embeddings({"model": some}, num_resamples=20) for some in (once, fourfold))
    for name in ("corrected_distance", "corrected_distance_low", "corrected_distance_high", "random_distance"):
        np.testing.assert_allclose(one.distances[name].to_numpy(), other.distances[name].to_numpy(), atol=1e-3)
    assert other.models["num_sequences"].to_pylist() == [432]
    assert other.models["num_clusters"].to_pylist() == [108]
    assert one.models["order_p"] == other.models["order_p"]


def test_silhouette_is_of_one_row_of_each_cluster():
    """The silhouette of rows given twice equals scikit-learn's of the rows given once."""
    once = planted(num_each=12)
    twice = sample(
        np.repeat(once.num_matched, 2), np.repeat(once.states, 2, axis=0), cluster=np.repeat(np.arange(108), 2)
    )
    found = separate(twice, "member", np.arange(NUM_STEPS + 1), level=0.95, num_resamples=20, seed=0)
    first = next(row for row in found if row.target == "num_matched" and row.step == 0)
    expected = silhouette_score(once.states[:, 0].astype(np.float64), once.num_matched)
    assert first.silhouette.value == pytest.approx(expected)
    assert (first.num_sequences, first.num_clusters, first.num_classes) == (216, 108, 9)


def test_probe_of_full_matches_is_drawn_evenly(result):
    """As many clusters memorized as not: the constant guess is right in half, the probe of planted states beyond it."""
    found = rows(result.separability, target="memorized", model="m3", step=0)[0]
    assert (found["num_clusters"], found["majority_accuracy"]) == (48, 0.5)
    assert found["accuracy_low"] > 0.7


def test_principal_components_are_scikit_learns_and_point_to_higher_scores():
    """Coordinates equal scikit-learn's but for the sign, which follows the score; shares are its ratios."""
    points = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 7)
    score = points[:, 5] - points[:, 4]
    found, expected = fit_pca(points, score), PCA(2).fit(points)
    np.testing.assert_allclose(np.abs(found.components_2D), np.abs(expected.components_))
    np.testing.assert_allclose(found.share_2, expected.explained_variance_ratio_)
    coordinates = (points - found.center_D) @ found.components_2D.T
    assert (coordinates.T @ (score - score.mean()) > 0).all()
    turned = fit_pca(-points, -score)
    np.testing.assert_allclose(turned.components_2D, found.components_2D, atol=1e-12)


def test_path_is_the_projection_of_the_means(result):
    """Of planted scores on a line the first step's x rises with the score, inside its interval."""
    found = rows(result.path, model="m3", step=0)
    assert [row["num_matched"] for row in found] == list(range(NUM_STEPS + 1))
    assert (np.diff([row["x"] for row in found]) > 0).all()
    assert all(row["x_low"] < row["x"] < row["x_high"] for row in found)
    assert found[0]["share_x"] > 0.9


def test_small_and_empty_strata_are_named_and_left_out():
    """Nine clusters and none: both in the table of groups with a note, in no pair, and in the sentence."""
    full = planted(num_each=20)
    keep = (full.num_matched != 3) & ~((full.num_matched == 5) & (np.arange(180) % 20 >= MIN_GROUP - 1))
    found = embeddings({"model": sample(full.num_matched[keep], full.states[keep])}, num_resamples=20)
    notes = {
        row["num_matched"]: (row["num_clusters"], row["averaged"], row["note"]) for row in found.groups.to_pylist()
    }
    assert notes[3] == (0, False, "empty")
    assert notes[5] == (9, False, "too few clusters: left out")
    assert notes[4] == (20, True, None)
    for name in ("num_matched", "other_num_matched"):
        assert not {3, 5} & set(found.distances[name].to_pylist())
    assert "7 scores (1 left out as too small, 1 empty)" in found.finding.sentence.lower()


def test_a_side_without_two_groups_is_said_so():
    """One score only: a row with a note, no pairs, and an undecided finding."""
    found = embeddings({"model": sample(np.zeros(40), np.ones((40, 2, 3)))})
    (row,) = found.models.to_pylist()
    assert row["note"] == "fewer than two scores have enough clusters to compare"
    assert (row["num_groups"], row["num_empty"], found.distances.num_rows) == (1, 2, 0)
    assert found.finding.verdict == "undecided"
    assert embedding_specs(found) == {}


def test_models_are_compared_over_the_scores_that_all_keep():
    """A model without the outer scores spreads less; over the shared scores it spreads as far as its twin."""
    whole = planted(label="whole", size=10)
    inner = (whole.num_matched >= 2) & (whole.num_matched <= 6)
    part = sample(whole.num_matched[inner], whole.states[inner], label="part", size=100)
    found = embeddings({"whole": whole, "part": part}, num_resamples=20).models
    one, other = rows(found, model="whole")[0], rows(found, model="part")[0]
    assert (one["num_shared_groups"], other["num_shared_groups"]) == (5, 5)
    assert other["spread"] < 0.7 * one["spread"]
    assert one["shared_spread_per_width"] == pytest.approx(other["shared_spread_per_width"], rel=1e-4)


def test_only_the_last_checkpoint_of_a_size_speaks_of_size():
    """Two checkpoints of one size are one model: nothing is said about size, and the trend has one point."""
    early, late = planted(label="early", step=10), planted(label="late", step=20, seed=1)
    found = embeddings({"early": early, "late": late}, num_resamples=20)
    assert found.finding.figures["num_models"] == 1
    assert "one model size" in found.finding.sentence.lower()
    assert set(found.trend["num_points"].to_pylist()) == {1}


def test_a_model_does_not_change_what_is_said_of_another(result):
    """Alone, a model has the distances that it has beside others, to the last digit."""
    alone = embeddings({"m2": planted(spread=4.0, seed=2, size=100, label="m2")}, num_resamples=60)
    assert alone.distances.to_pylist() == rows(result.distances, model="m2")


def test_states_on_disk_give_the_same(tmp_path, result):
    """Memory-mapped states give the tables of states in memory."""
    one = planted(spread=4.0, seed=2, size=100, label="m2")
    np.save(tmp_path / "states.npy", one.states)
    mapped = np.load(tmp_path / "states.npy", mmap_mode="r")
    found = embeddings({"m2": EmbeddingSample(**{**vars(one), "states": mapped})}, num_resamples=60)
    assert found.path.to_pylist() == rows(result.path, model="m2")


def test_control_is_beside_the_members():
    """A control half without any order: its own rows, and its order in the sentence."""
    one, other = planted(), planted(spread=0, seed=5)
    both = sample(
        np.concatenate([one.num_matched, other.num_matched]),
        np.concatenate([one.states, other.states]),
        group=["member"] * 216 + ["control"] * 216,
    )
    found = embeddings({"model": both}, num_resamples=40)
    assert [row["group"] for row in found.models.to_pylist()] == ["member", "control"]
    assert found.finding.figures["control_order_low"] < 0.3 < found.finding.figures["order_low"]
    assert "in the control" in found.finding.sentence.lower()


def test_every_column_is_described():
    """Each column has a meaning in the schema, and its unit there is the described one."""
    found = embeddings({"model": planted(num_each=10)}, num_resamples=20)
    for table in found.tables.values():
        for field in table.schema:
            assert field.metadata[b"meaning"].decode() == EMBEDDING_COLUMNS[field.name].meaning != ""
            assert field.metadata[b"unit"].decode() == EMBEDDING_COLUMNS[field.name].unit
    assert found.distances.schema.field("distance").metadata[b"unit"] == b"units of the last-layer state"


def test_bad_samples_are_refused():
    """Shapes, scores, groups, weights and states that cannot be meant are named."""
    states = np.zeros((3, 2, 4))
    with pytest.raises(ConfigError, match=r"num_matched outside 0 to 2"):
        sample([0, 1, 3], states)
    with pytest.raises(ConfigError, match=r"cluster has shape \(2,\); expected one value for each of 3"):
        sample([0, 1, 2], states, cluster=[1, 2])
    with pytest.raises(ConfigError, match=r"groups \['other'\]; expected member, control"):
        sample([0, 1, 2], states, group=["other"] * 3)
    with pytest.raises(ConfigError, match="design weights must be finite and above zero"):
        sample([0, 1, 2], states, weight=[1, 0, 1])
    with pytest.raises(ConfigError, match="no samples given"):
        embeddings({})
    broken = planted()
    broken.states[30, 4, 2] = np.inf
    with pytest.raises(ScoringError, match="the state of row 30 at step 4 is not finite") as error:
        embeddings({"model": broken}, num_resamples=20)
    assert error.value.row == 30


def test_umap_is_asked_for_by_name(monkeypatch):
    """Without the package the error says what to install; with it the path has a second projection, of all steps."""
    one = planted(num_each=10)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnemoscope\[umap\]'"):
        embeddings({"model": one}, num_resamples=20, umap=True)
    fitted = SimpleNamespace(fit_transform=lambda points: points[:, :2])
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=lambda **_: fitted))
    found = embeddings({"model": one}, num_resamples=20, umap=True)
    places = rows(found.path, projection="umap")
    assert len(places) == len(rows(found.path, projection="pca")) == NUM_STEPS * (NUM_STEPS + 1)
    first = one.states[one.num_matched == 0][:, 0, :2].astype(np.float64).mean(axis=0)
    assert (places[0]["x"], places[0]["y"]) == pytest.approx(tuple(first), abs=1e-5)
    assert places[0]["x_low"] is None
    assert "embedding_path_umap" in embedding_specs(found)


def test_figures_show_the_tables(result):
    """Each figure is drawn by the renderer, with the spreads and places of the tables in it."""
    import vl_convert

    specs = embedding_specs(result)
    assert list(specs) == [
        *("embedding_spread", "embedding_cosine", "embedding_neighbour_cosine", "embedding_order"),
        *("embedding_distances", "embedding_path_pca"),
    ]
    for spec in specs.values():
        assert vl_convert.vegalite_to_svg(spec).startswith("<svg")
    drawn = specs["embedding_spread"]
    assert [panel["title"]["text"] for panel in drawn["concat"]] == ["m1", "m2", "m3"]
    values = drawn["datasets"][drawn["concat"][0]["data"]["name"]]
    members = [row["value"] for row in values if row["kind"] == "members"]
    np.testing.assert_allclose(members, [row["spread_per_width"] for row in rows(result.steps, model="m1")], rtol=1e-4)
    assert "NaN" not in json.dumps(specs)
