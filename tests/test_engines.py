"""Several processes: each task once, whatever dies; errors as they were raised; nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mnemoscope.engines.local import LocalEngine
from mnemoscope.engines.processes import run_in_processes
from mnemoscope.errors import ConfigError, CorpusError, EngineError, ScoringError
from stub_workers import Number, Squares


def run(tasks, folder, *, workers=2):
    """The results, sorted, and what was told of each task in all."""
    told = Counter()
    results = sorted(LocalEngine(workers).run(tasks, Squares(folder), lambda task, number: told.update({task: number})))
    return results, told


def processes(folder: Path, value: int | str = "*") -> set[str]:
    """The processes that began a task."""
    return {path.name.partition("-")[2] for path in folder.glob(f"{value}-*")}


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_task_is_done_once(tmp_path):
    """Seven numbers squared by one, two and three processes: the same results, each task begun once, all told."""
    tasks = [Number(value) for value in range(7)]
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        results, told = run(tasks, folder, workers=workers)
        assert results == [0, 1, 4, 9, 16, 25, 36]
        assert told == dict.fromkeys(tasks, 7)
        assert len(list(folder.glob("*-*"))) == 7
        assert (str(os.getpid()) in processes(folder)) == (workers == 1)
        assert (folder / "released").exists() == (workers > 1)
    assert multiprocessing.active_children() == []


def test_one_task_needs_no_process(tmp_path):
    """A single task is done here, however many workers there might be; none at all needs no worker."""
    assert run([Number(3)], tmp_path, workers=4)[0] == [9]
    assert processes(tmp_path) == {str(os.getpid())}
    assert run([], tmp_path, workers=4)[0] == []


def test_task_of_a_killed_process_is_done_by_another(tmp_path, caplog):
    """SIGKILL or an exit in the middle of a task: a new process does it again; what was told of it is taken back."""
    tasks = [Number(0), Number(1, "die once"), Number(2, "leave once"), Number(3)]
    results, told = run(tasks, tmp_path)
    assert results == [0, 1, 4, 9]
    assert told == dict.fromkeys(tasks, 7)
    assert [len(processes(tmp_path, value)) for value in range(4)] == [1, 2, 2, 1]
    assert (
        "number 1: the worker process that worked on it ended, killed by signal 9; a new one takes over" in caplog.text
    )
    assert "number 2: the worker process that worked on it ended, with exit status 7" in caplog.text


def test_task_that_kills_three_processes_is_named(tmp_path):
    """Not four and not for ever: the third death of one task is an error with its name and the last death's manner."""
    with pytest.raises(EngineError, match=r"number 1: 3 worker processes ended .* the last one killed by signal 9"):
        run([Number(0), Number(1, "die"), Number(2)], tmp_path)
    assert len(processes(tmp_path, 1)) == 3
    assert multiprocessing.active_children() == []


def test_errors_of_workers_are_raised_as_they_are(tmp_path):
    """Our errors with kind, text and facts; a bug with its traceback as a note; what cannot be pickled as text."""
    for deed, kind, words in (
        ("corpus", CorpusError, "rows.npy: cut short; expected more"),
        ("scoring", ScoringError, "logits are NaN"),
        ("value", ValueError, "a bug"),
        ("unpicklable", RuntimeError, "UnpicklableError: this and that"),
    ):
        with pytest.raises(kind, match=words) as caught:
            run([Number(0), Number(1, deed)], tmp_path)
        notes = "".join(getattr(caught.value, "__notes__", []))
        assert ("stub_workers.py" in notes) == (deed == "value")
        assert getattr(caught.value, "row", 17) == 17
    assert multiprocessing.active_children() == []


def test_processes_end_with_whoever_reads_their_results(tmp_path):
    """Closed after the first result, long before the others are done: nobody is left, and nobody was waited for."""
    tasks = [Number(0), Number(1, "wait"), Number(2, "wait")]
    results = LocalEngine(2).run(tasks, Squares(tmp_path), lambda task, number: None)
    assert next(iter(results)) == 0
    results.close()
    assert multiprocessing.active_children() == []


def test_cores_and_gpus_are_divided(tmp_path, monkeypatch):
    """Two processes get half the cores each, two GPUs one each by their visible names; threads set by hand stay."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    before = dict(os.environ)
    tasks = [Number(0, "environment"), Number(1, "environment")]

    def environments() -> list[dict[str, str]]:
        here = run_in_processes(tasks, Squares(tmp_path), lambda task, number: None, num_workers=2, num_gpus=2)
        return sorted(here, key=lambda found: found["CUDA_VISIBLE_DEVICES"])

    found = environments()
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert [each["OMP_NUM_THREADS"] for each in found] == [threads, threads]
    assert [each["OMP_WAIT_POLICY"] for each in found] == ["PASSIVE", "PASSIVE"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["4", "6"]
    assert dict(os.environ) == before
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert [each["OMP_NUM_THREADS"] for each in environments()] == ["5", "5"]


def test_workers_that_share_a_device(monkeypatch):
    """On a CPU all of them share its memory; of five on two GPUs three share one; `auto` is one per GPU, else one."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [LocalEngine(5).workers_per_device(device) for device in ("cpu", "cuda")] == [5, 3]
    assert [LocalEngine("auto").workers_per_device(device) for device in ("cpu", "cuda")] == [1, 1]
    with pytest.raises(ConfigError, match="workers: 0 given; expected 1 or more, or 'auto'"):
        LocalEngine(0)


DRIVER = """
import sys
from pathlib import Path
from mnemoscope.engines.local import LocalEngine
from stub_workers import Number, Squares
if __name__ == "__main__":
    tasks = [Number(value, "wait") for value in range(2)]
    try:
        list(LocalEngine(2).run(tasks, Squares(Path(sys.argv[1])), lambda task, number: None))
    except KeyboardInterrupt:
        print("interrupted")
"""


def listen_to_ctrl_c():
    """A shell's background jobs are started deaf to it, and so are their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nobody_is_left_when_the_parent_goes(tmp_path, number):
    """Ctrl-C to the whole group: the parent alone hears of it, in one line; and a killed parent leaves no orphans."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    arguments = [sys.executable, str(script), str(tmp_path)]
    driver = subprocess.Popen(
        arguments,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=listen_to_ctrl_c,  # noqa: PLW1509  nothing runs in the child but this
    )
    while len(processes(tmp_path)) < 2 and driver.poll() is None:
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(driver.pid, number)
    else:
        driver.kill()
    out, err = driver.communicate()
    assert (out, err) == (b"interrupted\n" if number == signal.SIGINT else b"", b"")
    workers = [int(pid) for pid in processes(tmp_path)]
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)) and number == signal.SIGKILL and time.monotonic() < deadline:
        time.sleep(0.01)  # they hear of it when they next tell how far they are
    assert not any(map(is_running, workers))
