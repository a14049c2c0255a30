"""show, export and import-scores at the command line: what they print and write, and one line with exit 2 where not."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from mnemoscope.findings import analyze, save_findings
from mnemoscope.store import open_study
from studies import score_two, stored_matches


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study of two models over members and a control."""
    scored = score_two(tmp_path_factory.mktemp("verbs"))
    save_findings(scored, analyze(scored), figures=False)
    return scored.folder


def test_export_and_import_lead_back(run, study, tmp_path):
    """What export writes, import-scores reads as a study of the same matches, with tables and a sound status."""
    assert run("export", study)[0] == 0
    files = sorted((study / "export" / "scores").glob("*.csv"))
    control = sorted((study / "export" / "scores-control").glob("*.csv"))
    assert (len(files), len(control)) == (8, 8)
    sizes = ("--parameters", "tiny=1000", "other=2000")
    code, shown, _ = run("import-scores", *files, "--out", tmp_path / "back", "--control", *control, *sizes)
    assert code == 0
    assert "other@step7" in shown
    assert "Memorized sequences" in shown
    original, back = open_study(study), open_study(tmp_path / "back")
    for label in ("tiny", "other@step7"):
        assert stored_matches(back, label) == stored_matches(original, label)
    assert pq.read_table(tmp_path / "back" / "analyses" / "transitions" / "levels.parquet").num_rows
    assert list((tmp_path / "back" / "figures").glob("*.svg"))
    code, shown, _ = run("status", tmp_path / "back", "--verify")
    assert code == 0
    assert "complete" in shown
    assert "0 missing" in shown


def test_show_prints_a_sequence(run, study):
    """Its tokens, the signs of its matches, and its counts under both models; in a pipe without colours."""
    code, shown, _ = run("show", study, 4, "--model", "tiny", "--context", "4")
    assert code == 0
    assert "\x1b" not in shown
    assert "model tiny, context k = 4" in shown
    tokens = np.load(study.parent / "in" / "member.npy")[4, :9]
    truth = [line.split()[1:] for line in shown.splitlines() if line.startswith("truth")]
    assert [int(token) for line in truth for token in line] == tokens.tolist()
    counts = stored_matches(open_study(study), "other@step7")
    row = next(line.split() for line in shown.splitlines() if line.split()[:2] == ["other@step7", "8"])
    assert row[2:4] == [str(counts["member", 4, 8, n]) for n in (3, 5)]


def test_show_redact_hides_tokens(run, study):
    """With --redact no token is shown of a study without a tokenizer; signs and counts are as they are without."""
    code, hidden, _ = run("show", study, 4, "--model", "tiny", "--context", "4", "--redact")
    _, shown, _ = run("show", study, 4, "--model", "tiny", "--context", "4")
    assert code == 0
    truth = [line.split()[1:] for line in hidden.splitlines() if line.startswith("truth")]
    assert {token for line in truth for token in line} <= {"█", "#"}
    assert "all tokens are hidden" in hidden

    def without_text(text):
        lines = [line.split() for line in text.splitlines() if line.split()]
        return [line for line in lines if line[0] in ("match", "tiny", "other@step7", "entropy")]

    assert without_text(hidden) == without_text(shown)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "{study}", "77"), ["no member sequence 77"]),
        (("show", "{study}", "x"), ["x"]),
        (("show", "{study}", "1", "--group", "other"), ["group", "member"]),
        (("show", "{tmp}", "1"), ["study.toml"]),
        (("export", "{tmp}"), ["study.toml"]),
        (("export", "{study}", "--format", "xlsx"), ["csv", "parquet"]),
        (("export", "{study}", "--out", "{tmp}/file/below"), ["cannot be written"]),
        (("import-scores", "{tmp}/absent.csv", "--out", "{tmp}/o"), ["absent.csv", "no such file"]),
        (("import-scores", "{tmp}/file", "--out", "{tmp}/o"), ["memorization_evals_MODEL_K_K+N_STEP.csv"]),
        (("import-scores", "{tmp}/file"), ["--out"]),
        (("import-scores", "{tmp}/file", "--out", "{tmp}/o", "--parameters", "70m"), ["'70m'", "MODEL=COUNT"]),
        (("import-scores", "{tmp}/file", "--out", "{tmp}/o", "--join", "outer"), ["same", "inner"]),
    ],
)
def test_what_cannot_be_done_is_one_line(run, study, tmp_path, arguments, words):
    """Each is refused in one line with exit 2 that names what is wrong; no folder is made."""
    (tmp_path / "file").write_text("x")
    code, _, error = run(*(text.format(study=study, tmp=tmp_path) for text in arguments))
    assert code == 2
    assert error.startswith("mnemoscope: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_imported_study_cannot_be_scored(run, tmp_path):
    """Its study.toml replays nothing: it is refused in one line, and stays as it is."""
    (tmp_path / "memorization_evals_70m_32_36_1.csv").write_text("idx,score\n0,1\n1,0.5\n")
    assert run("import-scores", tmp_path / "*.csv", "--out", tmp_path / "o")[0] == 0
    before = (tmp_path / "o" / "study.toml").read_bytes()
    code, _, error = run("study", tmp_path / "o" / "study.toml", "--out", tmp_path / "o")
    assert code == 2
    assert error == (
        "mnemoscope: mode: 'imported' given, which import-scores writes; "
        "expected 'graded', 'two-phase' or 'exact' to score\n"
    )
    assert (tmp_path / "o" / "study.toml").read_bytes() == before
    assert (tmp_path / "o" / "manifest.json").is_file()
