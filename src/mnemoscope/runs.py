"""The runs of a study: what each model's facts follow from, and which models study.toml names.

    study.toml                the study, resolved
    scores/MODEL/run.json     what the model's facts follow from, and its fingerprint
    models/MODEL.toml         on object stores only: the study with this one model, as whoever scores it gave it

**Several drivers.** In a folder, study.toml is read and written anew under a lock. An object store has none, and two
drivers may write study.toml over each other. So each first puts its own models' files, one per model, which nobody else
writes differently; then it lists models/, writes study.toml with all that it found, and starts over until study.toml
holds them all already. Take two drivers with a model each: their files come before their lists, so whoever listed
later saw both. If the other's shorter study.toml was written last, the other lists and reads again after that write,
and mends it. Where lists are eventual, one may lack the other's file; study.toml itself, which each reads by name,
brings it in, and each driver registers again at its end, when the lists of its beginning are long past.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from mnemoscope.config import ModelConfig, StudyConfig
from mnemoscope.errors import StoreError
from mnemoscope.identity import RunIdentity
from mnemoscope.shards import ShardRange, plan_shards
from mnemoscope.storage import LocalStorage, Place, Storage, storage_of
from mnemoscope.study_file import dump_study, parse_study, resolve_paths

STUDY_FILE: Final = "study.toml"
Group = Literal["member", "control"]
GROUPS: Final[tuple[Group, ...]] = ("member", "control")
_MOST_PASSES: Final = 20
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model's run: what its facts follow from, and where they lie."""

    label: str
    """The model's name in folders, tables and figures."""
    source: str
    revision: str | None
    training_step: int | None
    identity: RunIdentity
    fingerprint: str

    @property
    def shards(self) -> tuple[ShardRange, ...]:
        """The plan: every shard that a complete run has."""
        counts = {group: facts.num_sequences for group, facts in self.identity.groups.items()}
        return plan_shards(counts, self.identity.shard_rows)


def read_study(place: Place) -> StudyConfig | None:
    """The study that study.toml says; None where there is none; ConfigError where it says none."""
    storage = storage_of(place)
    content = storage.read_many([STUDY_FILE]).get(STUDY_FILE)
    if content is None:
        return None
    study = parse_study(content, storage.where(STUDY_FILE))
    # A path that somebody wrote into a folder's file is meant from there; an address has no folders to start from.
    return resolve_paths(study, Path(storage.where(STUDY_FILE)).parent) if isinstance(storage, LocalStorage) else study


def read_run(place: Place, label: str) -> Run | None:
    """The run of a model as its run.json has it; None where it has not begun."""
    return read_runs(place, [label]).get(label)


def read_runs(place: Place, labels: Sequence[str]) -> dict[str, Run]:
    """The runs of some models, by label, in the order given; those that have not begun are left out."""
    storage = storage_of(place)
    contents = storage.read_many([run_name(label) for label in labels])
    return {
        label: _parse_run(storage, label, contents[run_name(label)]) for label in labels if run_name(label) in contents
    }


def check_run(place: Place, run: Run) -> None:
    """StoreError, naming what differs, where another run of the model or another study lies there."""
    storage = storage_of(place)
    study = read_study(storage)
    named = [model.label for model in study.models] if study is not None else []
    runs = read_runs(storage, list(dict.fromkeys([run.label, *named, *storage.list_names("scores")])))
    there = runs.get(run.label)
    if there is not None and there.fingerprint != run.fingerprint:
        raise _another_run(storage, run.label, there.identity.differences(run.identity))
    for label, other in runs.items():
        if differences := other.identity.study_differences(run.identity):
            raise _another_run(storage, label, differences)


def begin_run(place: Place, run: Run) -> None:
    """Write the run's file, unless it is there; the same StoreErrors as `check_run`, also for a run begun meanwhile."""
    storage = storage_of(place)
    check_run(storage, run)
    content = (json.dumps(asdict(run), indent=1) + "\n").encode()
    if _parse_run(storage, run.label, storage.create(run_name(run.label), content)) != run:
        check_run(storage, run)
        storage.write(run_name(run.label), content)


def study_lock(place: Place) -> AbstractContextManager[None]:
    """Held while study.toml is read and written anew, and while the manifest is: one process at a time.

    An object store has no locks, and needs none (see above).
    """
    return storage_of(place).locked(STUDY_FILE)


def register_models(
    place: Place, config: StudyConfig, *, replacing: Sequence[str], before_change: Callable[[], None]
) -> None:
    """Write study.toml: the models that have a run there, those in `replacing` anew, and the new ones behind.

    A model that never began and is not asked for any more is forgotten; sections [traces], [counts] and [prediction]
    that are there stay when `config` has none. `before_change` is called if the file is about to say something else.
    Who calls this holds the `study_lock`, and begins a model's run before letting it go.
    """
    storage = storage_of(place)
    if not storage.has_locks:
        _announce(storage, config, replacing)
    for _ in range(_MOST_PASSES):
        there = storage.read_many([STUDY_FILE]).get(STUDY_FILE)
        study = None if there is None else parse_study(there, storage.where(STUDY_FILE))
        announced = () if storage.has_locks else _announced(storage)
        content = dump_study(_merge(storage, config, study, announced, replacing)).encode()
        if there == content:
            return
        before_change()
        storage.write(STUDY_FILE, content)
        if storage.has_locks:
            return
        before_change()  # a manifest that another driver wrote between the two
    raise StoreError(f"{storage.where(STUDY_FILE)}: other runs there write it again and again; run again")


def run_name(label: str) -> str:
    """The name of a model's run.json."""
    return f"scores/{label}/run.json"


def run_folder(folder: Path, label: str) -> Path:
    """Where a model's scores lie."""
    return folder / "scores" / label


def _merge(
    storage: Storage,
    config: StudyConfig,
    there: StudyConfig | None,
    announced: Sequence[ModelConfig],
    replacing: Sequence[str],
) -> StudyConfig:
    given = {model.label: model for model in config.models}
    known = {model.label: model for model in (*(there.models if there else ()), *announced)}
    began = read_runs(storage, list(known))
    models = {
        label: given[label] if label in replacing else model
        for label, model in known.items()
        if label in began or label in given
    }
    return replace(
        config,
        models=tuple((given | models)[label] for label in models | given),
        traces=config.traces or (there.traces if there else None),
        counts=config.counts or (there.counts if there else None),
        prediction=config.prediction or (there.prediction if there else None),
    )


def _announce(storage: Storage, config: StudyConfig, labels: Sequence[str]) -> None:
    """Put the file of each of our models: equal content over equal content, whoever scores the same."""
    for model in config.models:
        if model.label in labels:
            storage.write(f"models/{model.label}.toml", dump_study(replace(config, models=(model,))).encode())


def _announced(storage: Storage) -> list[ModelConfig]:
    """The models that any driver announced, by label."""
    names = [f"models/{name}" for name in storage.list_names("models") if name.endswith(".toml")]
    contents = storage.read_many(names)
    studies = [parse_study(contents[name], storage.where(name)) for name in names if name in contents]
    return [model for study in studies for model in study.models]


def _another_run(storage: Storage, label: str, differences: Sequence[str]) -> StoreError:
    return StoreError(
        f"{storage}: holds another run of {label} ({'; '.join(differences)}); "
        "expected the same facts: choose another results folder, or set them as they are there"
    )


def _parse_run(storage: Storage, label: str, content: bytes) -> Run:
    run = parse_record(Run, content)
    # Label and groups name folders and files: they must be what the study says, not what a file from anywhere does.
    is_named = run is not None and run.label == label and set(run.identity.groups) <= set(GROUPS)
    if run is None or not is_named or run.fingerprint != run.identity.fingerprint:
        folder = storage.where(f"scores/{label}")
        raise StoreError(
            f"{storage.where(run_name(label))}: damaged; remove the folder {folder} and run again, or restore it"
        )
    return run


@cache  # a millisecond each, and large studies have many thousand commits
def _adapter(kind: type[_T]) -> TypeAdapter[_T]:
    return TypeAdapter(kind)


def parse_record(kind: type[_T], content: bytes) -> _T | None:
    """A dataclass from its JSON; None where it is not what it should be."""
    try:
        return _adapter(kind).validate_json(content, strict=True)
    except ValidationError:
        return None
