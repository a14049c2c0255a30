"""A causal language model on a device, loaded safely, with the three things the kernel asks of it.

`load_model` takes a folder or a hub name and revision, safetensors only; `CausalLM` then offers a forward pass that
stops before the vocabulary (`hidden_states`), the language-model head apart from it (`logits`), and a decoding step
under an explicit mask (`step`). Two probes at load time decide what may be relied on: that head(hidden) are the
model's own logits, and that a masked step over shared keys gives what a plain pass gives.

Axes: B sequences, T tokens, Q query tokens of a step, S key slots, D width, V vocabulary, P picked positions.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor

from mnemoscope.config import Grid, ModelConfig
from mnemoscope.errors import ModelError
from mnemoscope.grouped_attention import grouped_attention
from mnemoscope.head import Head
from mnemoscope.identity import ModelIdentity

PROBE_TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
"""Largest difference, relative to the spread of the logits, at which two computations of the same logits agree."""


class FileHashes(NamedTuple):
    """What tells one model's files from another's, both in hex."""

    weights_sha256: str
    config_sha256: str


class LayerStates(NamedTuple):
    """States of one causal pass."""

    last_BTD: Tensor
    """After the final norm."""
    chosen: list[Tensor]
    """[B, T, D] of each layer asked for, as it leaves the layer (the last block's after the final norm)."""


@final
class CausalLM:
    """A transformers causal language model in evaluation mode, on its device."""

    def __init__(self, network: Any, identity: ModelIdentity) -> None:
        self.network = network
        self.identity = identity
        self.device: torch.device = next(network.parameters()).device
        self.config: Any = network.config.get_text_config()
        self.head: Head | None = _find_head(network, identity.dtype)
        self.shares_keys: bool = self.head is not None and _masked_step_is_exact(self)
        """Whether decoding may branch over shared keys and values; else rollouts run whole passes."""
        self.batch_limit: int = sys.maxsize
        """Most sequences per pass that memory has been seen to allow; lowered when it runs out."""

    @property
    def has_head(self) -> bool:
        """Whether logits can be computed for picked positions alone; else `hidden_states` are whole logits."""
        return self.head is not None

    @torch.inference_mode()
    def hidden_states(self, tokens_BT: Tensor, *, cache: Any = None) -> Tensor:
        """Last-layer states after the final norm, [B, T, D], of one causal pass; fills `cache` if one is given.

        Where the head cannot be told apart from the model, the states are the logits themselves, [B, T, V].
        """
        if self.head is None:
            return self.network(input_ids=tokens_BT, use_cache=False).logits
        arguments = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
        return self.network.base_model(input_ids=tokens_BT, **arguments).last_hidden_state

    @torch.inference_mode()
    def layer_states(self, tokens_BT: Tensor, layers: Sequence[int], *, cache: Any = None) -> LayerStates:
        """Last-layer states as `hidden_states` has them, and those of chosen layers, from one pass."""
        arguments = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
        output = self.network.base_model(input_ids=tokens_BT, output_hidden_states=True, **arguments)
        return LayerStates(output.last_hidden_state, [output.hidden_states[layer] for layer in layers])

    @property
    def num_layers(self) -> int:
        """Blocks of the network; layer 0 is the embeddings' output, layer i that of block i."""
        return int(self.network.config.get_text_config().num_hidden_layers)

    @torch.inference_mode()
    def step(self, tokens_BQ: Tensor, positions_BQ: Tensor, mask_BQS: Tensor, cache: Any) -> Tensor:
        """Last-layer states [B, Q, D] of Q new tokens at given positions that see the key slots the mask leaves open.

        `mask_BQS` is additive, in the model's dtype; S counts the cache's slots with the new tokens' own.
        """
        with grouped_attention(self.network.config):
            return self.network.base_model(
                input_ids=tokens_BQ,
                position_ids=positions_BQ,
                attention_mask=mask_BQS[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state

    @torch.inference_mode()
    def logits(self, hidden_PD: Tensor) -> Tensor:
        """Float32 logits [P, V] of picked last-layer states [P, D]."""
        if self.head is None:
            return hidden_PD.to(torch.float32, copy=True)  # the caller may write into what it gets
        return self.head(hidden_PD).float()

    def may_share_keys(self, grid: Grid) -> bool:
        """Whether a grid's sequences may be decoded over shared keys: no layer looks back over fewer slots.

        Some layers with a window measure it in slots of the cache and not in positions, and slots are more.
        """
        num_slots = grid.window_tokens + len(grid.contexts) * grid.max_continuation
        return self.shares_keys and (self.sliding_window is None or num_slots <= self.sliding_window)

    @property
    def sliding_window(self) -> int | None:
        """Tokens that the layer with the shortest view looks back on; None where every layer sees everything."""
        names = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size", "local_attention")
        windows = [getattr(self.config, name, None) for name in names]
        known = [window for window in windows if isinstance(window, int) and window > 0]
        return min(known) if known and getattr(self.config, "use_sliding_window", True) else None


def load_model(config: ModelConfig, *, base: Path | None = None) -> CausalLM:
    """The model that `config` names, on its device, in evaluation mode.

    A relative local source is looked up under `base`. ModelError: no such model, pickled weights only, weights that
    do not fill the network, or a configuration that asks for remote code without leave.
    """
    source = locate(config, base=base)
    device = pick_device(config)
    network, loading = _from_pretrained(source, config)
    missing = sorted(loading.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"{config.source}: the weights of {missing[0]} and {len(missing) - 1} more are missing "
            "from the safetensors files; expected every parameter of the architecture in config.json"
        )
    folder = source or _hub_snapshot(config)
    commit = None if source else folder.name
    hashes = hash_files(folder, with_code=config.remote_code)
    return wrap_network(network.to(device), config=config, hashes=hashes, commit=commit)


def wrap_network(
    network: Any, *, config: ModelConfig | None = None, hashes: FileHashes | None = None, commit: str | None = None
) -> CausalLM:
    """A CausalLM around a transformers network that is in memory already, such as one under training.

    The network is put into evaluation mode; call its `train()` to go on training it.

    Without the hashes of its files, weights (names, dtypes, shapes and bytes) and settings are hashed in memory.
    """
    hashes = hashes or FileHashes(_hash_state(network), _hash_settings(network.config.to_dict()))
    network.eval()
    parameters = {id(p): p for p in network.parameters()}.values()
    output = network.get_output_embeddings()
    embeddings = {id(m.weight): m.weight for m in (network.get_input_embeddings(), output) if m is not None}
    first = next(iter(parameters))
    num_parameters = sum(p.numel() for p in parameters)
    identity = ModelIdentity(
        architecture=type(network).__name__,
        num_parameters=num_parameters,
        num_non_embedding_parameters=num_parameters - sum(weight.numel() for weight in embeddings.values()),
        vocab_size=int(output.weight.shape[0] if output is not None else network.config.get_text_config().vocab_size),
        max_positions=_max_positions(network.config.get_text_config()),
        weights_sha256=hashes.weights_sha256,
        config_sha256=hashes.config_sha256,
        commit=commit,
        dtype=str(first.dtype).removeprefix("torch."),
        device=first.device.type,
        attention=str((config and config.attention) or network.config._attn_implementation),
    )
    return CausalLM(network, identity)


def locate(config: ModelConfig, *, base: Path | None = None) -> Path | None:
    """The local folder a model lies in, its revision's subfolder included; None where the source is a hub name."""
    folder = Path(config.source).expanduser()
    folder = folder if folder.is_absolute() or base is None else base / folder
    looks_local = folder.is_absolute() or config.source.startswith((".", "~")) or config.source.count("/") != 1
    if not folder.exists():
        if looks_local:
            raise ModelError(
                f"{config.source}: no such folder; expected a folder with config.json and *.safetensors, or a hub name"
            )
        return None
    if config.revision is not None:
        inside = folder.resolve() in (folder / config.revision).resolve().parents
        if not inside or not (folder / config.revision).is_dir():
            raise ModelError(
                f"{folder}: no revision {config.revision!r}; expected a subfolder of that name in a local source"
            )
        folder = folder / config.revision
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; expected a transformers model folder")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        found = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
        raise ModelError(
            f"{folder}: {found}; expected *.safetensors, since unpickling runs code (save_pretrained writes them)"
        )
    return folder


def find_files(config: ModelConfig, *, base: Path | None = None) -> Path | None:
    """The folder with a model's files if it is on this machine, in the hub's cache too; nothing is fetched."""
    try:
        return locate(config, base=base) or _hub_snapshot(config)
    except (ModelError, OSError):
        return None


def hash_files(folder: Path, *, with_code: bool = False) -> FileHashes:
    """The hashes of a model's files: of one weights file, what `sha256sum` says; of several, of all in name order.

    The settings' hash covers the Python files in the folder too where their code is run.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    settings = json.loads((folder / "config.json").read_bytes())
    if with_code:
        code = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.py"))}
        settings |= {"code_sha256": code}
    return FileHashes(digest.hexdigest(), _hash_settings(settings))


def _hub_snapshot(config: ModelConfig) -> Path:
    """The folder of the hub's cache that holds the loaded revision; its name is the commit."""
    from transformers.utils.hub import cached_file  # the cache was filled by from_pretrained a moment ago

    path = cached_file(config.source, "config.json", revision=config.revision, local_files_only=True)
    return Path(str(path)).parent


def _from_pretrained(folder: Path | None, config: ModelConfig) -> tuple[Any, dict[str, Any]]:
    os.environ.setdefault(
        "DISABLE_SAFETENSORS_CONVERSION", "1"
    )  # else a hub repository of pickles is converted by a bot
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    if not sys.stderr.isatty():  # its bar of loaded weights would fill a log with carriage returns
        transformers_logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder or config.source),
            revision=None if folder else config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            use_safetensors=True,
            trust_remote_code=config.remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        at = f" at revision {config.revision}" if config.revision else ""
        what = "cannot be loaded" if folder else "is no folder here, and cannot be loaded from the hub"
        raise ModelError(
            f"{config.source}{at}: {what} as a causal language model from safetensors: {reason}"
        ) from error
    return loaded


def pick_device(config: ModelConfig) -> torch.device:
    """Where a model is to run; ModelError where this machine has no such device."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if config.device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[config.device]:
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise ModelError(f"device {config.device!r} is not on this machine; available: {there}")
    return torch.device(config.device)


def _max_positions(config: Any) -> int | None:
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _hash_settings(settings: dict[str, Any]) -> str:
    """Hash of what shapes the computation besides the weights; not of where the model lies or who wrote it."""
    unrelated = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
    facts = {name: value for name, value in settings.items() if name not in unrelated}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _hash_state(network: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _find_head(network: Any, dtype: str) -> Head | None:
    """The map from last-layer states to logits; None where head(hidden) are not the model's logits.

    Besides the output embedding some architectures scale or soften their logits (Cohere, Granite, Gemma); a probe
    compares the result with the whole model's, so that an unknown variant is noticed and not trusted.
    """
    if network.get_output_embeddings() is None:
        return None
    head = Head(network)
    tokens_BT = _probe_tokens(network, length=6)
    with torch.inference_mode():
        expected = network(input_ids=tokens_BT, use_cache=False).logits
        try:
            found = head(network.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state)
        except (AttributeError, TypeError, RuntimeError):
            return None
    return head if found.shape == expected.shape and _agree(found, expected, dtype) else None


def _masked_step_is_exact(model: CausalLM) -> bool:
    """Whether two branches decoded side by side over shared keys give the logits of two plain passes.

    Recurrent layers, position biases computed from slots (ALiBi) and attention kernels without masks do not.
    """
    prefix_BT = _probe_tokens(model.network, length=8)
    branches_BQT = _probe_tokens(model.network, length=12)[:, 8:].view(2, 2, 2)
    starts = (4, 8)  # one branch leaves the truth early, one at its end
    try:
        found_BQTV = _step_branches(model, prefix_BT, branches_BQT, starts)
        expected_BQTV = torch.stack(
            [_plain_branch(model, prefix_BT[:, :start], branches_BQT[:, q]) for q, start in enumerate(starts)], dim=1
        )
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):  # what is not implemented among them
        return False
    return _agree(found_BQTV, expected_BQTV, model.identity.dtype)


def _step_branches(model: CausalLM, prefix_BT: Tensor, branches_BQT: Tensor, starts: tuple[int, ...]) -> Tensor:
    """Logits [B, Q, T, V] of branches decoded token by token over the shared keys of their prefix."""
    from mnemoscope.slots import SlotCache

    batch, queries, steps = branches_BQT.shape
    num_truth = prefix_BT.shape[1]
    cache = SlotCache.after_prefix(model, prefix_BT, num_slots=num_truth + queries * steps)
    dtype = model.network.dtype
    mask_BQS = torch.full((batch, queries, num_truth + queries * steps), torch.finfo(dtype).min, dtype=dtype)
    logits = []
    for step in range(steps):
        for q, start in enumerate(starts):
            mask_BQS[:, q, :start] = 0
            mask_BQS[:, q, num_truth + q : num_truth + queries * (step + 1) : queries] = 0
        positions_BQ = torch.tensor([[start + step for start in starts]] * batch, device=model.device)
        mask = mask_BQS[:, :, : num_truth + queries * (step + 1)].to(model.device)
        logits.append(model.logits(model.step(branches_BQT[:, :, step], positions_BQ, mask, cache)))
    return torch.stack(logits, dim=2)


def _plain_branch(model: CausalLM, prefix_BT: Tensor, branch_BT: Tensor) -> Tensor:
    hidden_BTD = model.hidden_states(torch.cat([prefix_BT, branch_BT], dim=1))
    return model.logits(hidden_BTD[:, -branch_BT.shape[1] :])


def _agree(found: Tensor, expected: Tensor, dtype: str) -> bool:
    kept = ~(found.isneginf() & expected.isneginf())  # tokens that the model bans, in both
    found, expected = found[kept].float(), expected[kept].float()
    spread = expected.std().clamp_min(1e-6)
    difference = (found - expected).abs().max()
    return bool((difference / spread) < PROBE_TOLERANCE[dtype])  # NaN compares false: a broken model is not trusted


def _probe_tokens(network: Any, *, length: int) -> Tensor:
    vocab_size = int(network.config.get_text_config().vocab_size)
    ids = (torch.arange(2 * length).view(2, length) * 7919 + 13) % vocab_size
    return ids.to(next(network.parameters()).device)
