"""Models are loaded safely, named fully, and refused with a line that helps."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from mnemoscope.config import Grid, ModelConfig
from mnemoscope.errors import ModelError
from mnemoscope.memory import bytes_per_sequence, choose_batch_size, copied_bytes
from mnemoscope.model import hash_files, load_model, wrap_network
from mnemoscope.scoring import score_sequences
from networks import VOCAB, build


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    build("gpt_neox").save_pretrained(path)
    return path


def load(source, **fields):
    return load_model(ModelConfig(source=str(source), device="cpu", **fields))


def test_identity_names_what_was_run(folder):
    """Parameters by hand: 2 layers of 32 wide with 64 inner, embeddings in and out of 97 x 32."""
    identity = load(folder).identity
    layer = 4 * 32 * 32 + 4 * 32 + 2 * 32 * 64 + 64 + 32 + 4 * 32  # attention, its biases, MLP, its biases, two norms
    assert identity.num_non_embedding_parameters == 2 * layer + 2 * 32
    assert identity.num_parameters == identity.num_non_embedding_parameters + 2 * VOCAB * 32
    assert identity.vocab_size == VOCAB
    assert identity.max_positions == 128
    assert identity.dtype == "float32"
    assert identity.device == "cpu"
    assert identity.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_changed_weight_changes_the_hash():
    """Two networks that differ in one number have different hashes; the same network has the same."""
    one, two = build("gpt_neox"), build("gpt_neox")
    assert wrap_network(one).identity.weights_sha256 == wrap_network(two).identity.weights_sha256
    with torch.no_grad():
        two.lm_head.weight[0, 0] += 1e-3
    assert wrap_network(one).identity.weights_sha256 != wrap_network(two).identity.weights_sha256


def test_the_same_weights_under_other_settings_are_another_model(folder, tmp_path):
    """An edited rotary base changes the settings' hash and not the weights'; a moved folder neither."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    one, moved = load(folder).identity, load(tmp_path).identity
    assert one == moved
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["rope_parameters"]["rope_theta"] = 500.0
    (tmp_path / "config.json").write_text(json.dumps(settings))
    other = load(tmp_path).identity
    assert other.weights_sha256 == one.weights_sha256
    assert other.config_sha256 != one.config_sha256


def test_revision_of_a_local_source_is_its_subfolder(tmp_path):
    """`revision="step7"` loads the weights in the subfolder step7."""
    for step in (7, 9):
        build("gpt_neox", seed=step).save_pretrained(tmp_path / f"step{step}")
    seven, nine = (load(tmp_path, revision=f"step{step}") for step in (7, 9))
    assert seven.identity.weights_sha256 != nine.identity.weights_sha256
    with pytest.raises(ModelError, match=r"no revision 'step8'.*subfolder"):
        load(tmp_path, revision="step8")


def test_hub_name_and_revision_load_from_the_hub_cache(tmp_path, folder):
    """`org/model` at `step143000` resolves as on the hub: through refs and snapshots, here of an offline cache."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "step143000").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    code = (
        "import json; from dataclasses import asdict; from mnemoscope.config import ModelConfig; "
        "from mnemoscope.model import load_model; "
        "config = ModelConfig(source='org/tiny', revision='step143000', device='cpu'); "
        "print(json.dumps(asdict(load_model(config).identity)))"
    )
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    identity = json.loads(done.stdout.splitlines()[-1])
    assert identity["commit"] == commit
    assert identity["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_pickled_weights_are_refused_and_not_run(tmp_path, folder):
    """A folder with only pytorch_model.bin gets one line; the pickle inside, which would leave a file, stays shut."""
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/ran'\ntR.")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\); expected \*.safetensors"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_code_of_a_model_folder_is_not_run(tmp_path, folder):
    """A config that points to code beside it is refused unless remote code is asked for by name."""
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fill_the_network_are_refused(tmp_path, folder):
    """A file that lacks a tensor would be filled with random numbers in silence; it is an error here."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("gpt_neox.layers.1.mlp.dense_h_to_4h.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"dense_h_to_4h.*missing"):
        load(tmp_path)


def _only(path, folder, name):
    path.mkdir()
    (path / name).write_bytes((folder / name).read_bytes())


def _truncate(path, folder):
    _only(path, folder, "config.json")
    (path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path, folder: None, "no such folder"),
        (lambda path, folder: path.mkdir(), "no config.json"),
        (lambda path, folder: _only(path, folder, "config.json"), "no weights"),
        (_truncate, "cannot be loaded"),
    ],
)
def test_broken_model_folders_get_one_line(tmp_path, folder, prepare, message):
    """A missing, empty, weightless or truncated model folder is a ModelError of one line that names it."""
    path = tmp_path / "broken"
    prepare(path, folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_device_that_is_not_there_is_refused(folder):
    """Asking for cuda on a machine without it names what there is."""
    if torch.cuda.is_available():
        pytest.skip("this machine has cuda")
    with pytest.raises(ModelError, match=r"device 'cuda' is not on this machine; available: .*cpu"):
        load_model(ModelConfig(source=str(folder), device="cuda"))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "cohere", "gpt2"])
def test_head_apart_from_the_model_gives_the_models_logits(architecture):
    """Scaled and softened logits are reproduced from hidden states, not only plain ones."""
    network = build(architecture)
    model = wrap_network(network)
    assert model.has_head
    tokens_BT = torch.arange(20).view(2, 10)
    with torch.inference_mode():
        expected = network(tokens_BT).logits
    torch.testing.assert_close(model.logits(model.hidden_states(tokens_BT)), expected, atol=1e-4, rtol=1e-4)


def test_model_whose_head_is_not_understood_is_still_scored():
    """With logits changed behind the head's back, whole logits are used and the facts follow them."""
    network = build("gpt_neox")
    plain = network.forward
    network.forward = lambda *args, **kwargs: _negated(plain(*args, **kwargs))
    model = wrap_network(network)
    assert not model.has_head
    tokens_RW = np.arange(36).reshape(2, 18) % VOCAB
    grid = Grid(contexts=(4,), continuations=(3,))
    facts = score_sequences(model, tokens_RW, grid, mode="exact", batch_size=2)
    with torch.inference_mode():
        log_p = network(torch.from_numpy(tokens_RW[:, :7])).logits.log_softmax(-1)
    truth = log_p[:, 3:6].gather(-1, torch.from_numpy(tokens_RW[:, 4:7, None]))[..., 0].sum(1)
    np.testing.assert_allclose(facts.log_probability_RCN[:, 0, 0], truth.numpy(), rtol=1e-5)


def _negated(output):
    output.logits = -output.logits
    return output


def test_batch_size_follows_free_memory(monkeypatch):
    """Memory for ten sequences gives batches of at most ten; for none, of one."""
    model, grid = wrap_network(build("llama")), Grid(contexts=(4, 8), continuations=(8,))
    need = bytes_per_sequence(model, grid, "graded")
    assert need > bytes_per_sequence(model, grid, "exact") > 0
    weights = sum(parameter.nbytes for parameter in model.network.parameters())
    head = model.network.get_output_embeddings().weight.nbytes
    copies = copied_bytes(model, "graded")
    assert copies == weights + head // 2  # packed, and the head in bfloat16
    assert copied_bytes(model, "exact") == weights
    for num_sequences in (1, 10):
        free = int(num_sequences * need / 0.6) + copies + 1
        monkeypatch.setattr("mnemoscope.memory.free_bytes", lambda _device, free=free: free)
        assert choose_batch_size(model, grid, "graded") == num_sequences
    three = 3 * (int(10 * need / 0.6 + 1) + copies) + 2 * weights  # two more copies of the weights
    monkeypatch.setattr("mnemoscope.memory.free_bytes", lambda _device: three)
    assert choose_batch_size(model, grid, "graded", 3) == 10
    monkeypatch.setattr("mnemoscope.memory.free_bytes", lambda _device: 0)
    assert choose_batch_size(model, grid, "graded") == 1


def test_code_that_is_run_is_part_of_the_model(folder, tmp_path):
    """With remote code the Python files beside the weights count, by name and content; without it they do not."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = hash_files(copy), hash_files(copy, with_code=True)
    (copy / "modeling.py").write_text("A = 1")
    one = hash_files(copy, with_code=True)
    (copy / "modeling.py").write_text("A = 2")
    two = hash_files(copy, with_code=True)
    assert len({before[1], one, two}) == 3
    assert hash_files(copy) == before[0]
    assert load(copy, remote_code=True).identity.config_sha256 == two.config_sha256
