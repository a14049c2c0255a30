"""The study file: what it says is what is run, and every mistake in it is told at once."""

from pathlib import Path

import pytest

from mnemoscope.config import CorpusConfig, ModelConfig, StudyConfig
from mnemoscope.errors import ConfigError
from mnemoscope.study_file import dump_study, load_study, resolve_paths

SMALL = """
contexts = [32, 48]
continuations = [16]
[corpus]
path = "train.npy"
[[models]]
source = "EleutherAI/pythia-70m"
revision = "step1000"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_small_study(tmp_path):
    """What a file does not say has the documented default; labels and training steps come from revisions."""
    study = load_study(write(tmp_path, SMALL))
    assert (study.contexts, study.continuations, study.grid.window_tokens) == ((32, 48), (16,), 64)
    assert (study.mode, study.batch_size, study.shard_rows) == ("graded", "auto", 4096)
    assert [(model.label, model.training_step) for model in study.models] == [("pythia-70m@step1000", 1000)]
    assert study.corpus.path == str(tmp_path / "train.npy")


def test_dumped_study_loads_as_itself(tmp_path):
    """load(dump(study)) == study, for every kind of value and for characters that TOML must escape."""
    study = StudyConfig(
        models=(
            ModelConfig(source="/models/a", name="a", attention="eager", remote_code=True, dtype="bfloat16"),
            ModelConfig(source="owner/b", revision="main", device="cpu"),
        ),
        corpus=CorpusConfig(path=('/x/quote" back\\slash', "/x/tab\tdel\x7fbell\x07é漢"), offset="random", sample=7),
        control=CorpusConfig(path="s3://bucket/*.jsonl.gz", tokenizer="owner/b", sequences="/x/ids.csv", bos=True),
        contexts=(1, 2),
        continuations=(3,),
        mode="exact",
        batch_size=5,
    )
    assert load_study(write(tmp_path, dump_study(study))) == study


def test_paths_are_resolved_against_the_file(tmp_path):
    """Relative paths are the file's neighbours; hub names, addresses and absolute paths stay."""
    (tmp_path / "tiny").mkdir()
    study = StudyConfig(
        models=(ModelConfig(source="tiny"), ModelConfig(source="./other"), ModelConfig(source="gpt2")),
        corpus=CorpusConfig(path=("a/*.npy", "/b.npy", "s3://c/d.npy"), sequences="../ids.csv", tokenizer="tiny"),
        contexts=(1,),
        continuations=(1,),
    )
    resolved = resolve_paths(study, tmp_path)
    assert [model.source for model in resolved.models] == [f"{tmp_path}/tiny", f"{tmp_path}/other", "gpt2"]
    assert resolved.corpus.path == (f"{tmp_path}/a/*.npy", "/b.npy", "s3://c/d.npy")
    assert (resolved.corpus.sequences, resolved.corpus.tokenizer) == (
        f"{tmp_path.parent}/ids.csv",
        f"{tmp_path}/tiny",
    )
    assert resolve_paths(resolved, tmp_path / "elsewhere") == resolved


def test_every_mistake_at_once(tmp_path):
    """One line names the file and each mistake with its place, what came and what is allowed."""
    text = """
    contexts = ["32"]
    continuations = [16]
    colour = "red"
    [corpus]
    path = 3
    row_tokens = 1
    offset = "here"
    [control]
    path = "b.npy"
    seeds = 1
    sample = 0
    [[models]]
    source = "a/b"
    [[models]]
    dtype = "float8"
    """
    with pytest.raises(ConfigError) as caught:
        load_study(write(tmp_path, text))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/study.toml: ") and "\n" not in message
    assert "models[1].dtype: \"float8\" given; expected 'float32', 'bfloat16' or 'float16'" in message
    assert "models[1].source: missing; this setting is required" in message
    assert 'contexts[0]: "32" given; expected a valid integer' in message
    assert "corpus.path: 3 given; expected a valid string or a valid array" in message
    assert "corpus.offset: \"here\" given; expected a valid integer or 'random'" in message
    assert "control.seeds: no such setting; expected one of bos, column, format," in message
    assert "colour: no such setting; expected one of batch_size, contexts, continuations, control, corpus," in message


def test_own_checks_name_their_table(tmp_path):
    """A check of ours is told with the place of its table, together with those of other tables."""
    text = SMALL.replace('path = "train.npy"', 'path = "a"\nrow_tokens = 1\n[control]\npath = "b"\nsample = 0')
    with pytest.raises(ConfigError, match=r"corpus\.row_tokens: 1 given; expected 2 or more; control\.sample: 0 given"):
        load_study(write(tmp_path, text))
    text = SMALL + 'name = "a b"\n'
    with pytest.raises(ConfigError, match=r"study\.toml: models\[0\]\.name: 'a b' given; expected letters"):
        load_study(write(tmp_path, text))
    with pytest.raises(ConfigError, match=r"study\.toml: contexts: \[48, 32\] given; expected positive"):
        load_study(write(tmp_path, SMALL.replace("[32, 48]", "[48, 32]")))


def test_unreadable_file(tmp_path):
    """A file that is not there, or no TOML, is named, with the line."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read \(No such file or directory\)"):
        load_study(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"study\.toml: not valid TOML: .*line 2"):
        load_study(write(tmp_path, "contexts = [1]\ncontinuations = = 2\n"))


def test_unknown_home_folder_is_refused(tmp_path: Path) -> None:
    """~nosuchuser is told as what it is, not as an internal error."""
    (tmp_path / "s.toml").write_text(
        'contexts = [8]\ncontinuations = [8]\n[corpus]\npath = "~no-such-user-here/x.npy"\n[[models]]\nsource = "/m"\n'
    )
    with pytest.raises(ConfigError, match="no such user's home folder"):
        load_study(tmp_path / "s.toml")
