"""The groups' mean states in two dimensions, step after step: a projection fitted once on all steps of a model.

Axes: N points, T steps, C groups, U units, D width, B resamples; a 2 is x and y.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np

from mnemoscope.analyses.embedding_sample import EmbeddingSample, Floats, read_units
from mnemoscope.analyses.embedding_steps import Side, recentred_interval
from mnemoscope.errors import ConfigError


class Projection(NamedTuple):
    """A plane through the states."""

    center_D: Floats
    components_2D: Floats
    """Orthonormal; zeros where the points do not vary in a second direction."""
    share_2: Floats
    """Of the points' variance, along each component."""


class Path(NamedTuple):
    """Where the means of one side stand, [T, C, 2]."""

    place: Floats
    low: Floats
    high: Floats


def fit_pca(points_ND: Floats, score_N: Floats) -> Projection:
    """The first two principal components; each points to where scores are higher.

    Where scores say nothing, its largest weight is positive.
    """
    center_D = points_ND.mean(axis=0)
    _, lengths, directions = np.linalg.svd(points_ND - center_D, full_matrices=False)
    components_2D, share_2 = np.zeros((2, points_ND.shape[1])), np.zeros(2)
    count = min(2, len(lengths))
    components_2D[:count] = directions[:count]
    total = float(lengths @ lengths)
    share_2[:count] = lengths[:count] ** 2 / total if total > 0 else 0
    slope_2 = components_2D @ (points_ND - center_D).T @ (score_N - score_N.mean())
    largest_2 = np.take_along_axis(components_2D, np.abs(components_2D).argmax(axis=1)[:, None], axis=1)[:, 0]
    scale = np.linalg.norm(score_N - score_N.mean()) * lengths.max(initial=0)
    sign_2 = np.where(np.abs(slope_2) > 1e-9 * scale, np.sign(slope_2), np.where(largest_2 < 0, -1.0, 1.0))
    return Projection(center_D, components_2D * sign_2[:, None], share_2)


def fit_sides(sides: list[Side]) -> Projection:
    """The plane of a model: its sides' means at all steps."""
    points = [side.mean_TCD.reshape(-1, side.mean_TCD.shape[2]) for side in sides]
    scores = [np.tile(side.units.kept_C, len(side.mean_TCD)) for side in sides]
    return fit_pca(np.concatenate(points), np.concatenate(scores).astype(np.float64))


def project(sample: EmbeddingSample, side: Side, projection: Projection, level: float) -> Path:
    """The path of one side, with intervals from its resamples."""
    place = (side.mean_TCD - projection.center_D) @ projection.components_2D.T
    low, high = np.empty_like(place), np.empty_like(place)
    for step in range(sample.num_steps):
        around_UD = read_units(sample, side.units, step) - projection.center_D.astype(np.float32)
        place_U2 = around_UD @ projection.components_2D.T.astype(np.float32)
        low[step], high[step] = recentred_interval(place[step], _resample(place_U2.astype(np.float64), side), level)
    return Path(place, low, high)


def project_umap(sides: list[Side], *, seed: int) -> list[Floats]:
    """The places [T, C, 2] of each side's means in one UMAP of all of them; ConfigError where it is not installed."""
    try:
        umap: Any = importlib.import_module("umap")
    except ModuleNotFoundError as error:
        raise ConfigError("umap is not installed; run pip install 'mnemoscope[umap]', or leave it out") from error
    points = [side.mean_TCD.reshape(-1, side.mean_TCD.shape[2]) for side in sides]
    places = umap.UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(np.concatenate(points))
    ends = np.cumsum([len(some) for some in points])[:-1]
    parts = np.split(np.asarray(places, np.float64), ends)
    return [part.reshape(*side.mean_TCD.shape[:2], 2) for part, side in zip(parts, sides, strict=True)]


def _resample(place_U2: Floats, side: Side) -> Floats:
    """Resampled mean places [B, C, 2] at one step."""
    units = side.units
    means: list[Floats] = []
    for group in range(len(units.kept_C)):
        some = units.slice_of(group)
        weight_BU = side.draws.multiplicity_BU[:, some] * units.weight_U[some]
        total_B = weight_BU.sum(axis=1, keepdims=True)
        means.append(weight_BU @ place_U2[some] / np.where(total_B > 0, total_B, np.nan))
    return np.stack(means, axis=1)
