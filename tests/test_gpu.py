"""On a GPU: the facts of a CPU, flips of bfloat16 counted, batches halved when memory runs out. Skipped without one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mnemoscope.config import Grid
from mnemoscope.flips import read_flips
from mnemoscope.memory import choose_batch_size, free_bytes, is_out_of_memory
from mnemoscope.model import wrap_network
from mnemoscope.run import run_study
from mnemoscope.scoring import score_sequences
from networks import VOCAB, build, plant_sequences
from studies import make_study

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
NEAR = 1e-3
"""Logits: below this two kernels of float32 may choose differently."""
GRID = Grid(contexts=(8, 16), continuations=(4, 12))


@needs_gpu
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2", "gemma2", "bloom"])
@pytest.mark.parametrize("mode", ["exact", "graded"])
def test_float32_facts_are_those_of_a_cpu(architecture, mode):
    """First mismatches, match bits and log-probabilities of both devices are one, but for paths with a near-tie."""
    tokens_RW = plant_sequences(build(architecture), num_sequences=48, window_tokens=28, contexts=GRID.contexts)
    here, there = (
        score_sequences(wrap_network(build(architecture).to(device)), tokens_RW, GRID, mode=mode, batch_size=16)
        for device in ("cpu", "cuda")
    )
    firm_RC = here.smallest_margin_RCN[:, :, -1] > NEAR
    assert firm_RC.mean() > 0.8
    assert (here.first_mismatch_RC[firm_RC] == there.first_mismatch_RC[firm_RC]).all()
    if mode == "graded":
        assert (here.matched_RCn[firm_RC] == there.matched_RCn[firm_RC]).all()
    np.testing.assert_allclose(there.log_probability_RCN, here.log_probability_RCN, atol=1e-2)


@needs_gpu
def test_flips_of_bfloat16_are_counted_on_the_gpu(tmp_path):
    """The sample is scored on the run's own device, and an audit of everything leaves no flip."""
    config = make_study(tmp_path, num_rows=60, num_control=20, batch_size=8, shard_rows=16)
    model = replace(config.models[0], dtype="bfloat16", device="cuda", name="half")
    plain = run_study(replace(config, models=(model,)), tmp_path / "plain")
    rate = read_flips(plain, plain.run("half"))
    assert (rate.reference_device, rate.dtype) == ("cuda", "bfloat16")
    assert {count.num_sequences for count in rate.counts} == {60, 20}
    audited = run_study(replace(config, models=(replace(model, audit=100.0),)), tmp_path / "audited")
    assert sum(count.num_changed for count in read_flips(audited, audited.run("half")).counts) == 0


@needs_gpu
def test_a_batch_too_large_for_the_gpu_is_halved(caplog):
    """With room for a part of the batch alone: the batch is halved, said, and the facts are those of small batches."""
    model = wrap_network(build("gpt_neox").to("cuda"))
    tokens_RW = np.random.default_rng(0).integers(0, VOCAB, (20_000, 28))
    expected = score_sequences(model, tokens_RW[:200], GRID, mode="exact", batch_size=200)
    total = torch.cuda.get_device_properties(model.device).total_memory
    # 256 MB: a batch of 20,000 needs over 1 GB for the states of one layer's MLP and the queries of its attention.
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (256 << 20)) / total)
    try:
        found = score_sequences(model, tokens_RW, GRID, mode="exact", batch_size=20_000)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "memory ran out with 20000 sequences per pass" in caplog.text
    assert model.batch_limit < 20_000
    assert (found.first_mismatch_RC[:200] == expected.first_mismatch_RC).mean() > 0.99


@needs_gpu
def test_free_memory_is_the_device_s():
    """Allocating 64 MiB takes that much of what is free, within what the allocator rounds to."""
    before = free_bytes(torch.device("cuda"))
    block = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    assert before - free_bytes(torch.device("cuda")) == pytest.approx(64 << 20, abs=16 << 20)
    del block


def test_room_for_logits_is_kept_on_an_accelerator(monkeypatch):
    """Of 10 GiB a GPU gives sequences 60 %; of 2 GiB no more than a chunk of logits, 1.5 GiB in float32, leaves."""
    model = wrap_network(build("gpt_neox"))
    model.device = torch.device("cuda")
    monkeypatch.setattr("mnemoscope.memory.MOST_SEQUENCES", {"cuda": 1 << 40})
    sizes = []
    for gibibytes in (10, 2, 1):
        monkeypatch.setattr("mnemoscope.memory.free_bytes", lambda _device, n=gibibytes: n << 30)
        sizes.append(choose_batch_size(model, GRID, "exact"))
    assert sizes[0] / sizes[1] == pytest.approx(6 / 0.5, rel=1e-3)
    assert sizes[2] == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error, expected):
    """The allocator's own errors, and those of the libraries below it; no other error is taken for one."""
    assert is_out_of_memory(error) is expected
