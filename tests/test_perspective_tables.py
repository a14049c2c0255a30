"""The terminal's tables of transitions, frequency, entropy and embeddings say what the stored tables hold."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mnemoscope.analyses.embeddings import embeddings
from mnemoscope.analyses.entropy import entropy
from mnemoscope.analyses.frequency import frequency
from mnemoscope.analyses.transitions import transitions
from mnemoscope.report.tables import print_tables
from test_embeddings import planted
from test_transitions import example, pair
from traced_samples import study

N = 16


def printed(result, *, width=None):
    """What a pipe gets, or a terminal of some width."""
    file = io.StringIO()
    console = Console(file=file, width=width or 100, force_terminal=width is not None, color_system=None)
    print_tables(result, console)
    return file.getvalue()


def line_of(text, *starts):
    """The cells of the first line that begins with these."""
    return next(line.split() for line in text.splitlines() if line.split()[: len(starts)] == list(starts))


def the_row(table, **wanted):
    """The only row with these values."""
    (found,) = (row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items()))
    return found


@pytest.fixture(scope="module")
def traced():
    """A memory-free sample of one model with its counts."""
    return study(num_rows=1500, per_stratum=120)


def test_transitions_show_what_stays_and_what_became_of_the_memorized_set():
    """Kept 40 and lost 10 of 50, gained 20 of 150; at the highest level 40 of 50 stay."""
    text = printed(transitions([pair(example())]))
    stays, fates = (line_of(part, "small", "large") for part in text.split("The memorized set"))
    assert stays[-3:] == ["80", "(67,", "89)"]
    assert [fates[i] for i in (2, 5, 8)] == ["80", "20", "13"]


@pytest.mark.parametrize("analysis", [frequency, entropy])
def test_boundaries_show_the_step_its_control_and_the_verdict(traced, analysis):
    """The row of the unmemorized: step, step inside the context, what is unexplained with its interval, verdict."""
    sample, counts = traced
    result = analysis({"tiny": sample}, counts, continuation=N, num_resamples=60)
    text = printed(result).partition("at the boundary")[2]
    keys = {"ngram": 1} if analysis is frequency else {}
    row = the_row(result.boundary, score_class="unmemorized", group="member", **keys)
    cells = line_of(text, "tiny", *map(str, keys.values()), str(row["num_sequences"]))
    assert f"{row['difference']:+.2f}" in cells
    assert f"{row['inside_difference']:+.2f}" in cells
    assert f"({row['unexplained_low']:+.2f}," in cells
    assert " ".join(cells).endswith(row["verdict"].replace("interval too wide", "wide"))


def test_entropy_shows_the_means_of_the_named_scores(traced):
    """The memorized row's mean in the context, and a word on scores that were sampled too thinly."""
    sample, counts = traced
    result = entropy({"tiny": sample}, counts, continuation=N, num_resamples=60)
    text = printed(result)
    row = the_row(result.sentences, score_class="unmemorized", group="member")
    assert f"{row['context_mean']:.2f}" in line_of(text, "tiny")


def test_embeddings_show_order_and_probe():
    """Planted order: the Spearman correlation and the probe's accuracy of the stored tables, in percent."""
    result = embeddings({"model": planted()}, num_resamples=40)
    cells = line_of(printed(result).partition("(Spearman)")[2].partition("\n")[2], "model")
    row = the_row(result.models, group="member")
    assert f"{row['order']:.2f}" in cells
    last = max(result.separability["step"].to_pylist())
    probe = the_row(result.separability, group="member", step=last, target="memorized")
    assert f"{100 * probe['majority_accuracy']:.0f}" == cells[-1]


def test_a_narrow_terminal_gets_the_same_numbers_in_pieces(traced):
    """Nothing is cut at 60 columns: each line fits, and every number of the wide table is there."""
    sample, counts = traced
    result = entropy({"tiny": sample}, counts, continuation=N, num_resamples=60)
    wide, narrow = printed(result, width=140), printed(result, width=60)
    assert max(map(len, narrow.splitlines())) <= 60
    row = the_row(result.sentences, score_class="unmemorized", group="member")
    for name in ("context_mean", "continuation_mean"):
        assert f"{row[name]:.2f}" in wide
        assert f"{row[name]:.2f}" in narrow
