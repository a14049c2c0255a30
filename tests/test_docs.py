"""The README says what is: every file, every verb, every stored column, and code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import mnemoscope
from mnemoscope.cli import app
from mnemoscope.shards import UNITS
from networks import build, plant_sequences

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_lists_every_file():
    """Each module of the package stands in the README's tree, and each module it lists is there."""
    listed = re.findall(r"^ {4,8}(\w+\.py) ", README, flags=re.M)
    found = [path.name for path in (ROOT / "src" / "mnemoscope").rglob("*.py")]
    assert set(listed) == set(found)


def test_readme_names_every_verb_and_column():
    """Each verb of the command line and each stored column of the scores is named."""
    verbs = [name for name in app if not name.startswith("-")]
    assert sorted(verbs) == [
        "audit",
        "canaries",
        "demo",
        "export",
        "import-scores",
        "plan",
        "predict",
        "report",
        "score",
        "show",
        "status",
        "study",
        "view",
    ]
    for name in (*verbs, *UNITS):
        assert f"mnemoscope {name}" in README or f"`{name}`" in README, name


def test_pictures_and_links_are_there():
    """What the README shows or links to in this repository exists."""
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).is_file(), target


@pytest.mark.filterwarnings("ignore")
def test_python_example_runs(tmp_path, monkeypatch):
    """The README's example runs as it stands, on a tiny model and corpus put where it looks for them."""
    monkeypatch.chdir(tmp_path)
    network = build("gpt_neox")
    network.save_pretrained(tmp_path / "pythia-70m-deduped" / "step143000")
    rows = plant_sequences(network, num_sequences=12, window_tokens=96, contexts=(32,))
    padded = np.zeros((12, 2049), np.uint16)
    padded[:, :96] = rows
    (tmp_path / "document.bin").write_bytes(padded.tobytes())
    example = re.search(r"```python\n(.*?)```", README, flags=re.S).group(1)
    example = example.replace("EleutherAI/pythia-70m-deduped", str(tmp_path / "pythia-70m-deduped"))
    example = example.replace("sample=10_000", "sample=10")
    shown = []
    exec(example, {"print": shown.append})
    assert "recites" in shown[0]
    assert (tmp_path / "pythia-70m" / "manifest.json").is_file()
    assert mnemoscope.open_study("pythia-70m").runs.keys() == {"pythia-70m-deduped@step143000"}
