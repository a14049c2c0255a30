"""How a study is run never changes what it says: batches, shards, processes, deaths and the order of its models.

One small study with everything in it is run in several ways, and every table that it stores or finds is compared with
the reference run's: integers, bits and strings exactly, floats within the tolerances below.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers as hf

from mnemoscope.config import CorpusConfig, CountsConfig, ModelConfig, StudyConfig, TracesConfig
from mnemoscope.coverage import audit_coverage, find_derived_faults
from mnemoscope.engines.local import LocalEngine
from mnemoscope.findings import analyze, save_findings
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study
from networks import VOCAB, WIDE, generate

FLOATS = {"atol": 1e-4, "rtol": 1e-4}
"""Logits are sums of float32 products: another batch or number of threads adds in another order (measured: 4e-6)."""
STATES = {"atol": 2e-3, "rtol": 2e-3}
"""States are float16, whose last digit is 1e-3 of a number: what differs by 4e-6 may round another way (measured: 9e-4;
1e-4 in what is found from them)."""
MODELS = {"small": 32, "large": 48}
"""Widths."""
torch.set_num_threads(1)  # the networks are so small that threads only wait for each other
WINDOW = 17


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("invariance")


def build(width: int) -> Any:
    """A random GPT-NeoX whose logits are spread out."""
    torch.manual_seed(width)
    shape = WIDE | {"hidden_size": width, "intermediate_size": 2 * width, "max_position_embeddings": 32}
    network = hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return network


def plant(network: Any, seed: int) -> np.ndarray:
    """Rows that the network recites from token 4 up to token 8, 9 ... 14, and then not: 31 of each."""
    rows = np.random.default_rng(seed).integers(0, VOCAB, (7 * 31, WINDOW))
    said = generate(network, rows[:, :4], WINDOW - 4)
    for row, stop in zip(range(len(rows)), itertools.cycle(range(8, 15)), strict=False):
        rows[row, 4:stop] = said[row, : stop - 4]
        rows[row, stop] = (said[row, stop - 4] + 1) % VOCAB
    return rows


@pytest.fixture(scope="module")
def config(place) -> StudyConfig:
    """458 members, half of them planted for either model, 24 of them copies of others; 40 controls."""
    rows = []
    for label, width in MODELS.items():
        network = build(width)
        network.save_pretrained(place / label)
        rows.append(plant(network, seed=width))
    members = np.concatenate([*rows, rows[0][1:25]])
    np.save(place / "rows.npy", members.astype(np.uint16))
    np.save(place / "heldout.npy", np.random.default_rng(5).integers(0, VOCAB, (40, WINDOW)).astype(np.uint16))
    ids, repeats = np.arange(len(members)), 1 + np.arange(len(members)) % 3
    pq.write_table(pa.table({"sequence_id": ids, "num_repeats": repeats}), place / "ids.parquet")
    return StudyConfig(
        models=tuple(ModelConfig(source=str(place / label), device="cpu") for label in MODELS),
        corpus=CorpusConfig(path=str(place / "rows.npy"), sequences=str(place / "ids.parquet")),
        control=CorpusConfig(path=str(place / "heldout.npy")),
        contexts=(4, 8),
        continuations=(6, 9),
        batch_size=8,
        shard_rows=60,
        traces=TracesConfig(per_stratum=32, contexts=(8,), path_tokens=7, context_layers=(1,)),
        counts=CountsConfig(),
    )


@pytest.fixture(scope="module")
def reference(config, place) -> Path:
    """The study run by one process at one go, with its findings."""
    return finish(config, place / "reference")


def finish(config: StudyConfig, folder: Path, **settings: Any) -> Path:
    """The folder of a study that is whole, undamaged and analysed."""
    study = run_study(config, folder, **settings)
    assert all(audit_coverage(study, label).is_complete for label in MODELS)
    assert set(find_derived_faults(study).values()) == {None}
    assert read_manifest(folder) is not None
    save_findings(study, analyze(study), figures=False)
    return folder


def read_tables(folder: Path) -> dict[str, pa.Table]:
    """Every stored table by its name; the shards of a group and model as one."""
    names: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        names.setdefault(name.rpartition("-")[0] if name.startswith("scores/") else name, []).append(path)
    return {name: pa.concat_tables(map(pq.read_table, paths)) for name, paths in names.items()}


def assert_same_study(found: Path, expected: Path, *, ordered: bool = True) -> None:
    """Every table, array of states and finding; rows in any order where models are."""
    ours, theirs = read_tables(found), read_tables(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        tolerance = STATES if name.startswith("analyses/embeddings") else FLOATS
        assert_same_table(ours[name], theirs[name], name, tolerance, ordered=ordered)
    arrays = [sorted(path.relative_to(folder) for path in folder.rglob("*.npy")) for folder in (found, expected)]
    assert arrays[0] == arrays[1]
    for path in arrays[0]:
        np.testing.assert_allclose(
            *(np.load(folder / path).astype(np.float32) for folder in (found, expected)), **STATES
        )
    for path in sorted((expected / "analyses").glob("*.json")):
        assert_same_finding(found / "analyses" / path.name, path)


def assert_same_table(ours: pa.Table, theirs: pa.Table, name: str, tolerance: dict, *, ordered: bool) -> None:
    """Its columns one by one: those of floats within a tolerance, all others exactly."""
    assert ours.schema.remove_metadata() == theirs.schema.remove_metadata(), name
    is_float = [is_floating(field.type) for field in ours.schema]
    exact = [field.name for field, floating in zip(ours.schema, is_float, strict=True) if not floating]
    if not ordered:
        ours, theirs = (sort_rows(table, exact) for table in (ours, theirs))
    for column in ours.column_names:
        pair = [table[column].to_pylist() for table in (ours, theirs)]
        if column in exact:
            assert pair[0] == pair[1], f"{name}: {column}"
        else:
            np.testing.assert_allclose(
                *(to_floats(values) for values in pair), **tolerance, err_msg=f"{name}: {column}"
            )


def is_floating(kind: pa.DataType) -> bool:
    """Whether a column holds floats or lists of them."""
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return pa.types.is_floating(kind.value_type if is_list else kind)


def to_floats(values: list) -> np.ndarray:
    """One float array of numbers or lists of numbers; NaN where null."""
    return np.array(values, dtype=np.float64)


def sort_rows(table: pa.Table, names: list[str]) -> pa.Table:
    keys = list(zip(*(map(repr, table[name].to_pylist()) for name in names), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return table.take(pa.array(order, pa.int64())) if names else table


def assert_same_finding(ours: Path, theirs: Path) -> None:
    """Sentence and verdict to the letter, figures by their kind; not the provenance."""
    found, expected = (json.loads(path.read_bytes()) for path in (ours, theirs))
    assert (found["finding"], found["verdict"]) == (expected["finding"], expected["verdict"])
    assert found["figures"].keys() == expected["figures"].keys()
    for name, value in expected["figures"].items():
        assert found["figures"][name] == (pytest.approx(value, abs=2e-3, rel=2e-3) if type(value) is float else value)


def test_the_reference_says_something(reference):
    """What is compared is not empty: every score of both models, copies, states, numbers in each finding."""
    tables = read_tables(reference)
    for label, width in MODELS.items():
        assert set(range(7)) <= set(tables[f"traces/{label}/k8"]["num_matched"].to_pylist())
        assert np.load(reference / "traces" / label / "k8.layers.npy").shape[1:] == (1, 8, width)
    assert max(tables["counts/counts"]["num_copies"].to_pylist()) == 1
    for name, column in (
        ("factors/excess", "excess"),
        ("transitions/tests", "p_symmetric"),
        ("frequency/boundary", "difference"),
        ("entropy/curves", "mean"),
        ("embeddings/distances", "distance"),
        ("embeddings/separability", "silhouette"),
    ):
        values = tables[f"analyses/{name}"][column]
        assert len(values) > values.null_count, name


@pytest.mark.parametrize("settings", [{"batch_size": 3}, {"shard_rows": 37, "batch_size": 50}], ids=str)
def test_batches_and_shards(config, reference, tmp_path, settings):
    """Smaller and larger batches, other shards: another fingerprint, the same contents."""
    assert_same_study(finish(replace(config, **settings), tmp_path / "study"), reference)


def test_two_processes_of_which_one_is_killed(config, reference, tmp_path):
    """Two processes per model, the first one killed in the middle of a shard and replaced: the same contents."""
    killed = []

    def kill_one(label: str, num_done: int, num_sequences: int) -> None:
        if not killed and num_done:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    folder = finish(config, tmp_path / "study", engine=LocalEngine(2), progress=kill_one)
    assert_same_study(folder, reference)
    assert len(killed) == 1


def test_three_processes(config, reference, tmp_path):
    """Three processes score one of the models: its scores and traces are those it has in the whole study."""
    alone = replace(config, models=config.models[:1])
    run_study(alone, tmp_path / "study", engine=LocalEngine(3))
    ours, theirs = read_tables(tmp_path / "study"), read_tables(reference)
    names = ["scores/small/control", "scores/small/member", "traces/small/k8"]
    assert [name for name in ours if not name.startswith("counts")] == names
    for name in names:
        assert_same_table(ours[name], theirs[name], name, FLOATS, ordered=True)


def test_interrupted_and_resumed(config, reference, tmp_path):
    """Stopped in the middle of a shard of each model, of its traces and of the counts: finished, it says the same."""
    names = [name for label in MODELS for name in (label, f"{label} traces, k = 8")]
    for name in [*names, "counts, rows of the corpus"]:

        def stop(label: str, num_done: int, num_sequences: int, name: str = name) -> None:
            if label == name and num_done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_study(config, tmp_path / "study", progress=stop)
        assert read_manifest(tmp_path / "study") is None
    assert_same_study(finish(config, tmp_path / "study"), reference)


def test_order_of_models(config, reference, tmp_path):
    """The larger model first: the same rows, if in another order."""
    other = replace(config, models=config.models[::-1])
    assert_same_study(finish(other, tmp_path / "study"), reference, ordered=False)
