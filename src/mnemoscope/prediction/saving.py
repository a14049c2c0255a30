"""A fitted predictor on disk, and back: what it takes to apply it to sequences of which no truth is known.

    NAME.safetensors    weights, and the means and deviations of features
    NAME.json           task, sizes, features, calibrations, what it was trained on, versions

Nothing is pickled, so a file from a stranger can do no more than be wrong; boosted trees, which have no other format,
are not saved.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.files import write_atomically
from mnemoscope.prediction.baselines import HintPredictor, LogisticPredictor, RatePredictor
from mnemoscope.prediction.calibration import Calibration
from mnemoscope.prediction.features import FeatureSet, Inputs, Reader, Scale
from mnemoscope.prediction.fitting import Fitted, NetworkPredictor, Predictor
from mnemoscope.prediction.networks import Network, NetworkShape
from mnemoscope.prediction.original import Original, OriginalPredictor, OriginalShape
from mnemoscope.version import __version__

FORMAT: Final = 1
"""Raised when files of an older form can no longer be read."""
_SCALE = "scale."


def save_predictor(fitted: Fitted, path: Path) -> None:
    """Write NAME.safetensors and then NAME.json, for a path without suffix; ConfigError for boosted trees."""
    kind, facts, tensors = _encode(fitted.predictor, fitted)
    described = {
        "format": FORMAT,
        "versions": {"mnemoscope": __version__, "torch": torch.__version__},
        "task": fitted.task,
        "name": fitted.name,
        "seed": fitted.seed,
        "trained_on": fitted.trained_on,
        "context": fitted.context,
        "continuation": fitted.continuation,
        "best_epoch": fitted.best_epoch,
        "seconds": fitted.seconds,
        "calibrations": [
            {"prior": prior, "continuation": n, **calibration._asdict()}
            for (prior, n), calibration in fitted.calibrations.items()
        ],
        "kind": kind,
        **facts,
    }
    write_atomically(_beside(path, ".safetensors"), save({name: t.contiguous() for name, t in tensors.items()}))
    write_atomically(_beside(path, ".json"), (json.dumps(described, indent=1) + "\n").encode())


def load_predictor(path: Path) -> Fitted:
    """The predictor saved at a path without suffix; StoreError where there is none, or none that can be read."""
    try:
        described = json.loads(_beside(path, ".json").read_text(encoding="utf-8"))
        tensors = load(_beside(path, ".safetensors").read_bytes())
        if described["format"] != FORMAT:
            raise StoreError(f"{path}.json: format {described['format']}; expected {FORMAT}: train the predictor again")
        predictor = _decode(described, tensors)
        return Fitted(
            **{name: described[name] for name in ("task", "name", "seed", "trained_on", "context", "continuation")},
            predictor=predictor,
            calibrations={
                (entry["prior"], entry["continuation"]): Calibration(entry["scale"], entry["shift"], entry["coupling"])
                for entry in described["calibrations"]
            },
            best_epoch=described["best_epoch"],
            seconds=described["seconds"],
        )
    except FileNotFoundError as error:
        raise StoreError(f"{error.filename}: not there; expected a saved predictor") from error
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"{path}: not a saved predictor ({error}); expected what mnemoscope wrote") from error


def _encode(predictor: Predictor, fitted: Fitted) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The kind, its facts and its arrays."""
    match predictor:
        case NetworkPredictor(network=network, reader=reader, uses_states=uses_states):
            facts = {"shape": asdict(network.shape), "uses_states": uses_states, "features": asdict(reader.features)}
            return "network", facts, _weights(network) | _scales(reader)
        case OriginalPredictor(network=network):
            return "original", {"shape": asdict(network.shape)}, _weights(network)
        case RatePredictor(logits_L=logits_L):
            return "rate", {}, {"logits": torch.from_numpy(logits_L)}
        case LogisticPredictor(reader=reader, weight_GL=weight_GL, bias_L=bias_L):
            arrays = {"weight": torch.from_numpy(weight_GL), "bias": torch.from_numpy(bias_L)}
            return "logistic", {"features": asdict(reader.features)}, arrays | _scales(reader)
        case HintPredictor(hint=hint, logits_3C=logits_3C):
            return "hint", {"hint": hint}, {"logits": torch.from_numpy(logits_3C)}
        case _:
            raise ConfigError(
                f"{fitted.name}: boosted trees have no safe format on disk; expected a network, a rate or a regression"
            )


def _decode(described: dict[str, Any], tensors: dict[str, Tensor]) -> Predictor:
    match described["kind"]:
        case "network":
            reader = _reader(described, tensors)
            shape = replace(NetworkShape(**described["shape"]), features=reader.features)
            with torch.device("meta"):
                network = Network(shape)
            _fill(network, tensors)
            return NetworkPredictor(network, reader, described["uses_states"])
        case "original":
            with torch.device("meta"):
                original = Original(OriginalShape(**described["shape"]))
            _fill(original, tensors)
            return OriginalPredictor(original, described["seed"])
        case "rate":
            return RatePredictor(tensors["logits"].numpy())
        case "logistic":
            return LogisticPredictor(_reader(described, tensors), tensors["weight"].numpy(), tensors["bias"].numpy())
        case "hint":
            return HintPredictor(described["hint"], tensors["logits"].numpy())
        case kind:
            raise ValueError(f"kind {kind!r}")


def _fill(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a network without storage its saved weights."""
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_SCALE)}
    network.load_state_dict(weights, assign=True)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def _scales(reader: Reader) -> dict[str, Tensor]:
    return {
        f"{_SCALE}{name}.{part}": torch.from_numpy(values)
        for name, scale in reader.scales.items()
        for part, values in scale._asdict().items()
    }


def _reader(described: dict[str, Any], tensors: dict[str, Tensor]) -> Reader:
    names = [name for name in Inputs._fields if f"{_SCALE}{name}.mean" in tensors]
    scales = {
        name: Scale(tensors[f"{_SCALE}{name}.mean"].numpy(), tensors[f"{_SCALE}{name}.deviation"].numpy())
        for name in names
    }
    return Reader(FeatureSet(**described["features"]), scales)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
