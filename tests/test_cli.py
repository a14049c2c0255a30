"""The command line end to end: what it prints, what it writes, and one line with exit 2 for bad input of each kind."""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from networks import VOCAB, build, plant_sequences

GRID = ("--contexts", "4,8", "--continuations", "3,6")
WINDOW = 14


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model folder, and rows of which it recites some."""
    folder = tmp_path_factory.mktemp("cli")
    network = build("gpt_neox")
    network.save_pretrained(folder / "tiny")
    rows = plant_sequences(network, num_sequences=30, window_tokens=WINDOW, contexts=(4, 8))
    np.save(folder / "rows.npy", rows.astype(np.uint16))
    np.save(folder / "heldout.npy", np.random.default_rng(5).integers(0, VOCAB, (20, WINDOW)).astype(np.uint16))
    return folder


def refused(outcome, *words):
    """Exit status 2, and one line on stderr with all the words."""
    code, _, err = outcome
    assert code == 2
    assert err.startswith("mnemoscope: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    return True


def test_score_prints_and_stores_what_was_found(run, tiny, tmp_path):
    """A scored corpus ends in tables, figures, a complete status; the same command again only shows it."""
    out = tmp_path / "study"
    command = ("score", "--model", tiny / "tiny", "--corpus", tiny / "rows.npy", "--control", tiny / "heldout.npy")
    command = (*command, "--out", out, *GRID)
    code, shown, _ = run(*command)
    assert code == 0
    assert "30" in shown
    assert "Memorized sequences" in shown
    assert (out / "manifest.json").is_file()
    finding = json.loads((out / "analyses" / "factors.json").read_text())
    assert finding["finding"] in " ".join(shown.split())
    memorized = pq.read_table(out / "analyses" / "factors" / "memorized.parquet").to_pylist()
    counts = {(row["group"], row["context"], row["continuation"]): row["num_memorized"] for row in memorized}
    assert counts["member", 4, 3] >= 5
    assert counts["control", 8, 6] == 0
    assert list((out / "figures").glob("*.png"))
    before = {path: path.read_bytes() for path in sorted((out / "scores").rglob("*")) if path.is_file()}
    assert run(*command)[0] == 0
    assert before == {path: path.read_bytes() for path in sorted((out / "scores").rglob("*")) if path.is_file()}
    code, shown, _ = run("status", out, "--verify")
    assert code == 0
    assert "complete" in shown
    assert "0 missing" in shown


def test_study_file_scores_every_model_and_checkpoint(run, tiny, tmp_path):
    """Two revisions over one corpus and its control, from a TOML whose paths are relative to it."""
    for step in (1, 2):
        build("gpt_neox", seed=step).save_pretrained(tmp_path / "models" / f"step{step}")
    (tmp_path / "rows.npy").write_bytes((tiny / "rows.npy").read_bytes())
    (tmp_path / "two.toml").write_text(
        """
        contexts = [4, 8]
        continuations = [3, 6]
        [corpus]
        path = "rows.npy"
        [[models]]
        source = "models"
        revision = "step1"
        [[models]]
        source = "models"
        revision = "step2"
        """
    )
    code, shown, _ = run("study", tmp_path / "two.toml")
    assert code == 0
    assert "models@step1" in shown
    assert "models@step2" in shown
    assert {path.name for path in (tmp_path / "two" / "scores").iterdir()} == {"models@step1", "models@step2"}


def workers_of(group: int) -> list[int]:
    """The worker processes of a process group that are still there, and no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, own_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(own_group) == group and state != "Z" and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def listen_to_ctrl_c():
    """A shell's background jobs are started deaf to it, and so are their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_every_process_and_the_same_command_goes_on(run, tiny, tmp_path):
    """Interrupted while two processes score: one line that says so, nobody left; run again, it is complete."""
    out = tmp_path / "study"
    options = ("--out", out, *GRID, "--shard-rows", "2", "--batch-size", "2")
    command = ("score", "--model", tiny / "tiny", "--corpus", tiny / "rows.npy", *options)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    arguments = [sys.executable, "-m", "mnemoscope", *map(str, command), "--workers", "2"]
    with subprocess.Popen(
        arguments,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listen_to_ctrl_c,  # noqa: PLW1509  nothing runs in the child but this
    ) as running:
        while running.poll() is None and not list(out.glob("scores/tiny/*0.json")):
            time.sleep(0.005)
        assert len(workers_of(running.pid)) == 2
        os.killpg(running.pid, signal.SIGINT)
        shown = running.communicate()[1]
    assert running.returncode == 130
    assert shown.splitlines()[-1] == (
        "mnemoscope: interrupted; what is scored is kept, the same command goes on from there"
    )
    assert "Traceback" not in shown
    assert workers_of(running.pid) == []
    assert not (out / "manifest.json").exists()
    assert run(*command)[0] == 0
    assert run("status", out, "--verify")[0] == 0


def test_help_needs_no_heavy_library():
    """`--help` and `import mnemoscope` load neither torch nor transformers nor pyarrow."""
    code = (
        "import sys, mnemoscope.__main__ as m; sys.argv = ['mnemoscope', 'score', '--help']\n"
        "try: m.main()\nexcept SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'transformers', 'pyarrow', 'altair'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_public_names_are_there():
    """Every name that the package promises can be imported from it."""
    import mnemoscope

    assert all(getattr(mnemoscope, name) is not None for name in mnemoscope.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mnemoscope.nonsense


def test_unknown_option_is_one_line(run):
    """A misspelt option is refused in one line with exit 2."""
    assert refused(run("score", "--modle", "x"), "--modle")


def _corpus(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def _npy(tmp_path, rows):
    path = tmp_path / "rows.npy"
    np.save(path, rows)
    return path


def _idx(tmp_path, *, magic=b"MMIDIDX\x00\x00", sizes=(WINDOW, WINDOW), num_tokens=2 * WINDOW):
    (tmp_path / "rows.bin").write_bytes(np.zeros(num_tokens, np.uint16).tobytes())
    pointers = np.cumsum([0, *sizes[:-1]]) * 2
    head = magic + struct.pack("<QBQQ", 1, 8, len(sizes), len(sizes) + 1)
    body = np.array(sizes, np.int32).tobytes() + np.array(pointers, np.int64).tobytes()
    (tmp_path / "rows.idx").write_bytes(head + body + np.arange(len(sizes) + 1).astype(np.int64).tobytes())
    return tmp_path / "rows.bin"


def _truncated_npy(tmp_path):
    path = _npy(tmp_path, np.zeros((50, WINDOW), np.uint16))
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _truncated_parquet(tmp_path):
    pq.write_table(pa.table({"tokens": [[1] * WINDOW] * 50}), tmp_path / "rows.parquet")
    return _corpus(tmp_path, "rows.parquet", (tmp_path / "rows.parquet").read_bytes()[:-20])


BAD_CORPORA = {
    "ids outside the vocabulary": (
        lambda p: _npy(p, np.full((3, WINDOW), 500, np.uint16)),
        ["500", str(VOCAB), "row 0"],
    ),
    "rows shorter than k + n": (lambda p: _npy(p, np.zeros((3, 9), np.uint16)), ["row 0", "9", "14"]),
    "wrong magic": (lambda p: _idx(p, magic=b"NOTMAGIC\x00"), ["rows.idx"]),
    "lying sizes": (lambda p: _idx(p, sizes=(WINDOW, 10**6)), ["rows."]),
    "truncated bin": (lambda p: _corpus(p, "rows.bin", b"\0" * 4099), ["rows.bin", "4099"]),
    "truncated npy": (_truncated_npy, ["rows.npy"]),
    "truncated Parquet": (_truncated_parquet, ["rows.parquet"]),
    "truncated gzip": (lambda p: _corpus(p, "rows.npy.gz", gzip.compress(b"\0" * 9999)[:-9]), ["rows.npy.gz"]),
    "invalid JSON": (lambda p: _corpus(p, "rows.jsonl", b'{"tokens": [1]}\n{"tokens": [1'), ["rows.jsonl", "line 2"]),
    "empty corpus": (lambda p: _corpus(p, "rows.jsonl", b""), ["rows.jsonl", "empty"]),
    "no such file": (lambda p: p / "absent.npy", ["absent.npy"]),
}


@pytest.mark.parametrize("kind", BAD_CORPORA)
def test_bad_corpus_is_refused_and_nothing_is_written(run, tiny, tmp_path, monkeypatch, kind):
    """Each kind of bad corpus: one line that names file and place, exit 2, no results folder."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))
    make, words = BAD_CORPORA[kind]
    path = make(tmp_path)
    outcome = run("score", "--model", tiny / "tiny", "--corpus", path, "--out", tmp_path / "out", *GRID)
    assert refused(outcome, *words)
    assert not (tmp_path / "out").exists()


def test_context_beyond_the_models_positions_is_refused(run, tiny, tmp_path):
    """A window of 130 tokens does not fit a model of 128 positions: both numbers are named, nothing is written."""
    np.save(tmp_path / "long.npy", np.zeros((2, 200), np.uint16))
    lengths = ("--contexts", "100", "--continuations", "30")
    outcome = run(
        "score", "--model", tiny / "tiny", "--corpus", tmp_path / "long.npy", "--out", tmp_path / "o", *lengths
    )
    assert refused(outcome, "130", "128")
    assert not (tmp_path / "o").exists()


def test_logits_that_are_no_numbers_are_refused_before_anything_is_written(run, tiny, tmp_path):
    """A model with a NaN in its weights: one line that says so, no results folder."""
    network = build("gpt_neox")
    with torch.no_grad():
        network.gpt_neox.layers[0].mlp.dense_h_to_4h.weight[0, 0] = torch.nan
    network.save_pretrained(tmp_path / "broken")
    outcome = run(
        "score", "--model", tmp_path / "broken", "--corpus", tiny / "rows.npy", "--out", tmp_path / "o", *GRID
    )
    assert refused(outcome, "not finite", "broken")
    assert not (tmp_path / "o").exists()


def test_pickled_weights_are_refused(run, tiny, tmp_path):
    """A model folder with only a pickle gets a line that says what to do instead."""
    (tmp_path / "config.json").write_bytes((tiny / "tiny" / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    outcome = run("score", "--model", tmp_path, "--corpus", tiny / "rows.npy", "--out", tmp_path / "o", *GRID)
    assert refused(outcome, "pickled", "safetensors")


def test_results_of_another_run_are_kept_and_refused(run, tiny, tmp_path):
    """The same folder with another grid: the difference is named, and what is there stays as it is."""
    command = ("score", "--model", tiny / "tiny", "--corpus", tiny / "rows.npy", "--out", tmp_path / "o")
    assert run(*command, *GRID)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}
    assert refused(run(*command, "--contexts", "4", "--continuations", "3,6"), "contexts")
    assert before == {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}


def test_folder_that_cannot_be_written_is_refused(run, tiny, tmp_path):
    """Results below a file: one line that names the place."""
    (tmp_path / "file").write_text("")
    outcome = run(
        "score", "--model", tiny / "tiny", "--corpus", tiny / "rows.npy", "--out", tmp_path / "file" / "o", *GRID
    )
    assert refused(outcome, "file", "cannot be written")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--contexts", "8,4", "--continuations", "3"), ["contexts", "ascending"]),
        (("--contexts", "4,x", "--continuations", "3"), ["--contexts", "'x'"]),
        (("--contexts", "4", "--continuations", "0"), ["continuations", "positive"]),
        ((*GRID, "--batch-size", "0"), ["batch_size"]),
        ((*GRID, "--workers", "0"), ["workers", "1 or more"]),
        ((*GRID, "--workers", "some"), ["--workers", "'some'"]),
        ((*GRID, "--offset", "-3"), ["offset"]),
        ((*GRID, "--sample", "31"), ["sample", "31", "30"]),
        ((*GRID, "--device", "tpu"), ["device"]),
    ],
)
def test_options_that_cannot_be_meant_are_refused(run, tiny, tmp_path, options, words):
    """Each is one line that names the option and what is allowed."""
    outcome = run("score", "--model", tiny / "tiny", "--corpus", tiny / "rows.npy", "--out", tmp_path / "o", *options)
    assert refused(outcome, *words)
    assert not (tmp_path / "o").exists()
