"""The embedded study: its text, its corpus, its ladder of models, and the cache that keeps them."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from mnemoscope import demo
from mnemoscope.cache import building, cache_folder, is_whole
from mnemoscope.demo import Recipe, build_corpus, demo_study, prepare, train_tokenizer, training_display
from mnemoscope.errors import CorpusError, ModelError, StoreError
from mnemoscope.ladder import Rung, Schedule, TrainingProgress, build_model, train_ladder, training_steps
from mnemoscope.library import Source, gather_sources

SMALL = Rung(name="small", hidden_size=16, num_layers=1, num_heads=2, learning_rate=3e-3)
LARGE = Rung(name="large", hidden_size=32, num_layers=2, num_heads=2, learning_rate=3e-3)
RECIPE = Recipe(
    rungs=(SMALL, LARGE),
    schedule=Schedule(batch_rows=4, warmup_steps=2, num_checkpoints=3),
    documents_by_repeats=((1, 12), (2, 6), (4, 3)),
    num_heldout=8,
    row_tokens=40,
    vocabulary_size=500,
    rows_per_source=2,
    contexts=(8, 16),
    traced_contexts=(16,),
    traced_continuation=8,
    traced_path_tokens=16,
    continuations=(8, 16),
    rungs_over_time=("large",),
    predicted_rungs=("small", "large"),
)
NUM_ROWS = 12 * 1 + 6 * 2 + 3 * 4


def prose_sources(num_sources: int = 40) -> list[Source]:
    """Texts of random words over one boilerplate paragraph that stands at the head of them all."""
    generator = np.random.default_rng(7)
    words = ["".join(chr(97 + letter) for letter in generator.integers(0, 26, 5)) for _ in range(150)]
    boilerplate = " ".join(generator.choice(words, 60))
    return [
        Source(f"text/{number}", boilerplate + "\n" + " ".join(generator.choice(words, 120)))
        for number in range(num_sources)
    ]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> demo.DemoAssets:
    return prepare(tmp_path_factory.mktemp("cache"), recipe=RECIPE, sources=prose_sources())


def runs_of(rows_RT: np.ndarray, length: int) -> list[tuple[int, ...]]:
    return [tuple(row[start : start + length]) for row in rows_RT.tolist() for start in range(len(row) - length + 1)]


def test_no_run_of_sixteen_tokens_stands_in_two_documents(assets: demo.DemoAssets) -> None:
    """No 16-token run occurs twice among the members and the held-out rows, though all sources share a paragraph."""
    stream, first_rows = np.load(assets.stream), pq.read_table(assets.sequences)["sequence_id"].to_numpy()
    members, heldout = stream[first_rows], np.load(assets.heldout)
    runs = Counter(runs_of(members, 16) + runs_of(heldout, 16))
    assert max(runs.values()) == 1
    assert sum(runs.values()) == (21 + 8) * (40 - 16 + 1)
    assert not set(runs_of(stream, 16)) & set(runs_of(heldout, 16))


def test_a_document_stands_in_the_stream_as_often_as_its_num_repeats(assets: demo.DemoAssets) -> None:
    """The stream holds each member num_repeats times and nothing else; sequences.parquet lists first occurrences."""
    stream = [tuple(row) for row in np.load(assets.stream).tolist()]
    table = pq.read_table(assets.sequences)
    first_rows, repeats = table["sequence_id"].to_pylist(), table["num_repeats"].to_pylist()
    assert {name: str(kind) for name, kind in zip(table.column_names, table.schema.types, strict=True)} == {
        "sequence_id": "int64",
        "num_repeats": "int32",
    }
    assert len(stream) == NUM_ROWS == sum(repeats)
    assert Counter(repeats) == {1: 12, 2: 6, 4: 3}
    assert {stream[row]: count for row, count in zip(first_rows, repeats, strict=True)} == Counter(stream)
    assert first_rows == sorted(first_rows) == [stream.index(stream[row]) for row in first_rows]


def test_a_source_serves_members_or_the_control(assets: demo.DemoAssets) -> None:
    """Every held-out row and every member decodes to a stretch of its source, and no source has both."""
    tokenizer = AutoTokenizer.from_pretrained(assets.tokenizer.parent)
    texts = [source.text for source in prose_sources()]

    def homes(rows_RT: np.ndarray) -> set[int]:
        # a row cut inside the boilerplate has many homes, so the row's end, in the source's own words, decides
        found = [[i for i, text in enumerate(texts) if tokenizer.decode(row) in text] for row in rows_RT.tolist()]
        assert all(found)
        return {home[0] for home in found if len(home) == 1}

    members, heldout = homes(np.load(assets.stream)), homes(np.load(assets.heldout))
    assert members
    assert heldout
    assert not members & heldout


def test_too_little_text_is_an_error_with_numbers() -> None:
    """Text for fewer documents than the recipe wants is refused, and the error says how many there were."""
    sources = prose_sources(2)
    tokenizer = train_tokenizer([source.text for source in sources], vocabulary_size=500)
    with pytest.raises(CorpusError, match=r"gives \d+ documents and \d+ held-out ones of 40 tokens; expected 21 and 8"):
        build_corpus(sources, tokenizer, RECIPE)


def test_few_long_sources_are_cut_deeper() -> None:
    """Where two rows of each source do not suffice, more are taken: a Python with only its help topics has a demo."""
    texts = [source.text.partition("\n")[2] for source in prose_sources()]
    sources = [Source(f"text/{number}", "\n".join(texts[number::8])) for number in range(8)]
    tokenizer = train_tokenizer(texts, vocabulary_size=500)
    corpus = build_corpus(sources, tokenizer, RECIPE)
    assert len(corpus.first_rows_R) == 21 > 8 * RECIPE.rows_per_source
    assert corpus.stream_ST.shape == (NUM_ROWS, 40)
    assert corpus.heldout_RT.shape == (8, 40)


def test_the_interpreter_has_text_enough_for_the_default_recipe() -> None:
    """The library's texts are the same at every call, from several kinds of source, and no module gives two."""
    sources = gather_sources()
    names = [source.name for source in sources]
    assert sources == gather_sources()
    assert len(names) == len(set(names))
    modules = Counter(name.partition("/")[2] for name in names if name.startswith(("code/", "docstrings/")))
    assert modules["heapq"] == modules["asyncio.events"] == 1
    assert max(modules.values()) == 1
    assert sum(len(source.text) for source in sources) > 1_000_000


def test_checkpoints_are_revisions_that_load(assets: demo.DemoAssets) -> None:
    """Each model has a folder per kept step, ceil(9 i / 3) of 9, with other weights and a tokenizer."""
    assert assets.revisions == ("step3", "step6", "step9")
    for model in assets.models:
        networks = [AutoModelForCausalLM.from_pretrained(model / revision) for revision in assets.revisions]
        assert {type(network).__name__ for network in networks} == {"GPTNeoXForCausalLM"}
        first, second, third = (network.get_output_embeddings().weight for network in networks)
        assert not torch.equal(first, second)
        assert not torch.equal(second, third)
        tokenizer = AutoTokenizer.from_pretrained(model / "step9")
        assert tokenizer.decode(tokenizer.encode("naïve — text")) == "naïve — text"


def test_architecture_is_pythias() -> None:
    """Blocks hold 12 D² weights beside biases and norms; rotary quarter, parallel residual, untied embeddings."""
    model = build_model(LARGE, vocabulary_size=500, row_tokens=40, seed=0)
    width = 32
    matrices = [weight for name, weight in model.named_parameters() if ".layers." in name and weight.ndim == 2]
    assert sum(weight.numel() for weight in matrices) == LARGE.num_parameters == 2 * 12 * width**2
    assert model.config.rope_parameters["partial_rotary_factor"] == 0.25
    assert model.config.use_parallel_residual
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


def test_building_a_model_leaves_the_global_seed_alone() -> None:
    """The draw after building a model is the draw that would have come without it."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_model(SMALL, vocabulary_size=50, row_tokens=8, seed=1)
    assert torch.equal(torch.rand(2), expected)


def test_schedule_by_hand() -> None:
    """10 rows in batches of 4 are 3 steps; the learning rate rises linearly, then falls by a cosine to the fraction."""
    schedule = Schedule(batch_rows=4, warmup_steps=2, final_fraction=0.2, num_checkpoints=2)
    assert schedule.num_steps(10) == 3
    assert schedule.checkpoint_steps(10) == (2, 3)
    factors = [schedule.learning_rate_factor(step, total_steps=6) for step in range(1, 7)]
    # halfway down the cosine, at step 4, it is the mean of 1 and 0.2
    assert factors == pytest.approx([0.5, 1.0, 0.2 + 0.8 * (1 + 2**-0.5) / 2, 0.6, 0.2 + 0.8 * (1 - 2**-0.5) / 2, 0.2])


def test_training_learns_a_stream_of_one_row() -> None:
    """A stream that repeats one row is learned by heart: the loss falls from ln 50 to nearly nothing."""
    stream = np.tile(np.random.default_rng(0).integers(0, 50, 12).astype(np.uint16), (400, 1))
    model = build_model(SMALL, vocabulary_size=50, row_tokens=12, seed=0)
    schedule = Schedule(batch_rows=4, warmup_steps=5)
    losses = [loss for _, loss in training_steps(model, stream, learning_rate=2e-2, schedule=schedule)]
    assert losses[0] == pytest.approx(np.log(50), abs=0.2)
    assert len(losses) == 100
    assert losses[-1] < 0.05


def test_the_same_seed_gives_the_same_bits_however_many_train_at_once(assets: demo.DemoAssets, tmp_path: Path) -> None:
    """One process at a time and two at a time write bit-identical models; another seed does not."""
    options = {
        "tokenizer_files": (assets.tokenizer,),
        "vocabulary_size": 500,
        "schedule": RECIPE.schedule,
    }
    train_ladder(RECIPE.rungs, assets.stream, folder=tmp_path / "one", seed=0, num_processes=1, **options)
    train_ladder([SMALL], assets.stream, folder=tmp_path / "other", seed=1, **options)
    weights = Path("small") / "step9" / "model.safetensors"
    for rung in RECIPE.rungs:
        name = Path(rung.name) / "step9" / "model.safetensors"
        assert (tmp_path / "one" / name).read_bytes() == (assets.models[0].parent / name).read_bytes()
    assert (tmp_path / "other" / weights).read_bytes() != (tmp_path / "one" / weights).read_bytes()


def test_a_whole_cache_trains_nothing(assets: demo.DemoAssets) -> None:
    """A second call reports no step, writes no file, and gives the same paths."""
    home = assets.stream.parents[1]
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    seen: list[TrainingProgress] = []
    again = prepare(home.parents[1], recipe=RECIPE, sources=prose_sources(), progress=seen.append)
    assert seen == []
    assert again == assets
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_damaged_file_is_made_again_and_nothing_else(tmp_path: Path) -> None:
    """After a flipped byte in one model and a lost corpus file, a call restores both and reports one model."""
    assets = prepare(tmp_path, recipe=RECIPE, sources=prose_sources())
    damaged = assets.models[0] / "step6" / "model.safetensors"
    whole, heldout = damaged.read_bytes(), assets.heldout.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assets.heldout.unlink()
    seen: list[TrainingProgress] = []
    assert prepare(tmp_path, recipe=RECIPE, sources=prose_sources(), progress=seen.append) == assets
    assert {progress.name for progress in seen} == {"small"}
    assert damaged.read_bytes() == whole
    assert assets.heldout.read_bytes() == heldout


def test_another_recipe_or_text_has_another_place(assets: demo.DemoAssets) -> None:
    """Seed and text both enter the cache's key; the study's grid does not, as it trains nothing."""
    home = assets.stream.parents[1]
    places = {
        home.name,
        demo._key(replace(RECIPE, seed=1), prose_sources()),
        demo._key(RECIPE, prose_sources(39)),
    }
    assert len(places) == 3
    assert demo._key(replace(RECIPE, contexts=(4,)), prose_sources()) == home.name


KILLED = """
import sys
from pathlib import Path
from mnemoscope.ladder import Rung, Schedule, train_ladder
if __name__ == "__main__":
    stream, folder = map(Path, sys.argv[1:])
    rungs = [Rung(name="quick", hidden_size=16, num_layers=1, num_heads=2, learning_rate=1e-3),
             Rung(name="slow", hidden_size=256, num_layers=4, num_heads=2, learning_rate=1e-3)]
    say = lambda progress: print(progress.name, progress.step, flush=True)
    train_ladder(rungs, stream, folder=folder, tokenizer_files=(), vocabulary_size=500, seed=0, num_processes=2,
                 schedule=Schedule(batch_rows=2, num_checkpoints=100), report=say)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_kill_leaves_no_half_model(tmp_path: Path) -> None:
    """SIGKILL amid training leaves only whole models under their names, and no process that trains on."""
    stream, folder, script = tmp_path / "stream.npy", tmp_path / "models", tmp_path / "killed.py"
    np.save(stream, np.random.default_rng(0).integers(0, 500, (2000, 40)).astype(np.uint16))
    script.write_text(KILLED)
    with subprocess.Popen([sys.executable, script, stream, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("slow"):
                break
        process.kill()
        process.stdout.read()  # ends when the last process that holds the pipe has ended
    assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while any(path.name.startswith(".tmp-") for path in folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {path.name for path in folder.iterdir()} <= {"quick"}
    assert all(is_whole(path) for path in folder.iterdir())


def test_a_training_process_that_dies_is_one_line(assets: demo.DemoAssets, tmp_path: Path) -> None:
    """A stream with a token outside the vocabulary ends the training process; the error names the model's folder."""
    with pytest.raises(ModelError, match=r"models.small: its training process ended with code 1; .* run the same"):
        train_ladder(
            [SMALL],
            assets.stream,
            folder=tmp_path / "models",
            tokenizer_files=(),
            vocabulary_size=3,
            schedule=RECIPE.schedule,
            seed=0,
        )
    assert list((tmp_path / "models").iterdir()) == []


def test_a_disk_that_refuses_is_a_store_error(assets: demo.DemoAssets, tmp_path: Path) -> None:
    """Where the models' folder cannot be made, the training process's StoreError arrives here."""
    (tmp_path / "models").write_text("a file is in the way")
    with pytest.raises(StoreError, match=r"models.small: cannot be written"):
        train_ladder(
            [SMALL],
            assets.stream,
            folder=tmp_path / "models",
            tokenizer_files=(),
            vocabulary_size=500,
            schedule=RECIPE.schedule,
            seed=0,
        )


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    """A block that fails leaves nothing; of two builders of one folder the first wins and neither fails."""
    with pytest.raises(ZeroDivisionError), building(tmp_path / "a") as folder:
        (folder / "x").write_text("half")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    with building(tmp_path / "a") as slow:
        (slow / "x").write_text("second")
        with building(tmp_path / "a") as fast:
            (fast / "x").write_text("first")
    assert (tmp_path / "a" / "x").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("harm", ["change", "remove", "add", "unseal"])
def test_any_harm_to_a_folder_shows(tmp_path: Path, harm: str) -> None:
    """A changed, a missing, an added file or a missing seal: each makes a folder not whole."""
    with building(tmp_path / "a") as folder:
        (folder / "x").write_text("text")
    assert is_whole(tmp_path / "a")
    match harm:
        case "change":
            (tmp_path / "a" / "x").write_text("tent")
        case "remove":
            (tmp_path / "a" / "x").unlink()
        case "add":
            (tmp_path / "a" / "y").write_text("")
        case _:
            (tmp_path / "a" / "checksums.json").unlink()
    assert not is_whole(tmp_path / "a")


def test_abandoned_temporary_folders_go(tmp_path: Path) -> None:
    """A temporary folder of a killed process goes after hours; a fresh one, which may be in use, stays."""
    for name in (".tmp-old", ".tmp-new"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".tmp-old", (0, 0))
    with building(tmp_path / "a") as folder:
        (folder / "x").write_text("text")
    assert {path.name for path in tmp_path.iterdir()} == {".tmp-new", "a"}


def test_the_cache_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$MNEMOSCOPE_CACHE first, then the user's cache folder."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MNEMOSCOPE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == Path.home() / ".cache" / "mnemoscope"


def test_the_study_names_every_model_once_and_points_at_what_is_there(assets: demo.DemoAssets) -> None:
    """Last revisions first, then the earlier ones; every path exists, the control is the held-out part."""
    study = demo_study(assets)
    assert [model.label for model in study.models] == [
        *("small", "large", "large@step3", "large@step6"),
    ]
    assert [model.training_step for model in study.models] == [9, 9, 3, 6]
    for model in study.models:
        assert (Path(model.source) / str(model.revision) / "model.safetensors").is_file()
    assert study.corpus.path == str(assets.stream)
    assert study.control is not None
    assert study.control.path == str(assets.heldout)
    assert study.grid.window_tokens == 32 <= RECIPE.row_tokens


def test_the_default_recipe_fits_its_rows() -> None:
    """The default grid fits into a row, and the ladder spans 0.1 to 3 million weights."""
    recipe = Recipe()
    assert {*recipe.rungs_over_time} <= {rung.name for rung in recipe.rungs}
    assert recipe.contexts[-1] + recipe.continuations[-1] <= recipe.row_tokens
    assert [rung.num_parameters for rung in recipe.rungs] == [98_304, 393_216, 1_228_800, 3_145_728]
    assert [repeats for repeats, _ in recipe.documents_by_repeats] == [1, 2, 4, 8, 16, 32, 64]


def test_progress_in_a_pipe_is_a_line_a_quarter() -> None:
    """Of 40 steps reported by tens, a pipe gets a line at 10, 20, 30 and 40; of 1000, at 250, 500, 750 and 1000."""
    for total, expected in ((40, [10, 20, 30, 40]), (1000, [250, 500, 750, 1000]), (9, [9])):
        text = io.StringIO()
        with training_display(Console(file=text, width=200)) as show:
            for step in [*range(10, total, 10), total]:
                show(TrainingProgress("demo", step, total, (step - 1) % 10 + 1, 1.5))
        assert text.getvalue().splitlines() == [
            f"training demo: step {step} of {total}, loss 1.50" for step in expected
        ]


def test_tables_of_a_finished_study_are_kept_and_restored(tmp_path):
    """What `keep_tables` took is what `restore_tables` gives back, byte for byte; never over a folder that is there."""
    from mnemoscope.demo import demo_study, prepare
    from mnemoscope.kept_tables import keep_tables, restore_tables
    from mnemoscope.run import run_study

    assets = prepare(tmp_path / "cache", recipe=RECIPE, sources=prose_sources(), num_processes=2)
    config = demo_study(assets)
    assert not restore_tables(assets, config, tmp_path / "first")
    run_study(config, tmp_path / "first")
    keep_tables(assets, config, tmp_path / "first")
    assert restore_tables(assets, config, tmp_path / "second")
    assert not restore_tables(assets, config, tmp_path / "second")

    def tables(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.parquet")}

    assert tables(tmp_path / "first") == tables(tmp_path / "second")
    assert len(tables(tmp_path / "first")) > 4
    run_study(config, tmp_path / "second")  # finds everything there and undamaged
    assert tables(tmp_path / "first") == tables(tmp_path / "second")


def test_another_study_takes_nothing_from_the_cache(tmp_path):
    """A study that differs in one setting finds no tables."""
    from mnemoscope.demo import demo_study, prepare
    from mnemoscope.kept_tables import kept_tables

    assets = prepare(tmp_path / "cache", recipe=RECIPE, sources=prose_sources(), num_processes=2)
    config = demo_study(assets)
    assert kept_tables(assets, config) != kept_tables(assets, replace(config, shard_rows=7))
