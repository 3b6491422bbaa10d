"""Settings -> a Deck: find the files, load the model, open its dictionaries, start the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dictionaries.asked import Asked, asked, paired
from dictionaries.beside import cards_of, open_cards, presets_beside, stated_cards
from dictionaries.cards import Cards
from dictionaries.catalog import names, pairing
from dictionaries.dictionary import Dictionary
from dictionaries.hub import bare, find_files, origin

from .deck import Deck
from .engine.engine import SlotEngine
from .engine.linear import ROUNDINGS
from .engine.load import load_model
from .errors import BadRequest
from .fit import Measured, fit
from .generation import defaults
from .presets import Preset, Presets, builtin, read_builtin
from .service import Report
from .settings import Settings
from .stand_in import StandIn

PRESETS_FILE = "presets.json"  # what users save, in data_dir
COMPILED = "compiled"  # in data_dir


@dataclass(frozen=True)
class Wanted:
    """The names to load: of the wire, of the model's files, and of each dictionary's files."""

    name: str
    model: str
    dictionaries: tuple[Asked, ...]
    cards: tuple[Path | None, ...]
    presets: tuple[Mapping[str, Any], ...] = ()  # of the catalog, for its own dictionary


def wanted(settings: Settings) -> Wanted:
    """What the settings mean: a name of the catalog, with its dictionary, or names of files."""
    found = pairing(settings.model)
    given = tuple(_named(dictionary) for dictionary in settings.dictionary)
    cards: tuple[Path | None, ...] = settings.cards
    if found is None:
        name = bare(settings.model).rstrip("/").rpartition("/")[2]
        return Wanted(name, settings.model, given, _padded(cards, given))
    if not given:
        given = (Asked(found.dictionary, id=found.name),)
        cards = cards or ((Path(found.cards),) if found.cards else ())
    # A preset's features are those of the first dictionary, if it does not say whose.
    presets = found.presets if given[0].name + given[0].facts == found.dictionary else ()
    return Wanted(found.name, found.model, given, _padded(cards, given), presets)


def _named(dictionary: str) -> Asked:
    """A folder, a hub's name, or a name of the catalog, which is its id on the wire, too."""
    want, found = paired(asked(dictionary))
    return replace(want, id=want.id or found.name) if found else want


def _padded(
    cards: Sequence[Path | None], dictionaries: Sequence[object]
) -> tuple[Path | None, ...]:
    if len(cards) > len(dictionaries):
        raise BadRequest(
            f"{len(cards)} cards files for {len(dictionaries)} dictionaries: give one each"
        )
    return (*cards, *[None] * (len(dictionaries) - len(cards)))


def load(settings: Settings, report: Report) -> Deck:
    """Blocking; seconds for a small model. Raises SteerdeckError, ValueError or OSError with a
    sentence that says what to do.
    """
    want = wanted(settings)
    report("finding the files", 0.02)
    model_path = find(want.model, "model", report, 0.02, 0.09)
    report("loading the model", 0.1)
    device, dtype = pick_device(settings.device), settings.dtype
    if dtype == "int8" and device != "cpu":
        raise BadRequest(f"dtype int8 is for a CPU, and the model is to run on {device}")
    weights = next((fewer for fewer in ROUNDINGS if fewer == dtype and device == "cpu"), None)
    loaded = "float32" if weights else None if dtype == "auto" else dtype
    model, tokenizer = load_model(model_path, device=device, dtype=loaded)
    with ExitStack() as undo:
        report("opening the dictionaries", 0.6)
        opened = _open(want, undo, report)
        report("measuring how the dictionaries fit", 0.75)
        measured = _measured(model, tokenizer, opened.dictionaries)
        presets = Presets(want.name, opened.presets, settings.data_dir / PRESETS_FILE)
        report("starting the engine", 0.8)
        engine = SlotEngine(
            model,
            tokenizer,
            opened.dictionaries,
            max_rows=settings.max_rows,
            max_waiting=settings.max_waiting,
            max_context=settings.max_context,
            max_edits=settings.max_edits,
            prefix_cache=settings.prefix_cache * 2**20,
            threads=settings.threads,
            compiled=settings.data_dir / COMPILED if settings.compile else None,
            graphs=settings.graphs,
            weights=weights,
        )
        undo.pop_all()
    engine.start()
    return Deck(
        engine=engine,
        tokenizer=tokenizer,
        model=want.name,
        revision=revision(model_path),
        dictionaries=opened.dictionaries,
        cards=opened.cards,
        presets=presets,
        defaults=defaults(model),
        sources=opened.sources | _source("model", model_path),
        fits={id: one.fit for id, one in measured.items() if one.fit is not None},
        lengths={id: one.length for id, one in measured.items() if one.length is not None},
        stand_in=StandIn(model, tokenizer),
    )


@dataclass
class Opened:
    """The dictionaries by their names, the cards of those that have any, their presets."""

    dictionaries: dict[str, Dictionary] = field(default_factory=dict)
    cards: dict[str, Cards] = field(default_factory=dict)
    presets: list[Preset] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)  # see Deck


def _open(want: Wanted, undo: ExitStack, report: Report) -> Opened:
    opened = Opened(presets=builtin(want.presets, f"the catalog's {want.name}"))
    for one, cards_path in zip(want.dictionaries, want.cards, strict=True):
        path = find(one.name, "dictionary", report, 0.6, 0.7)
        dictionary = one.open(path)
        id = dictionary.info.id
        if id in opened.dictionaries:
            raise BadRequest(
                f"two dictionaries are called {id}: give one another name, {one.name}?id=…"
            )
        opened.dictionaries[id] = dictionary
        opened.sources |= _source(id, path, one.facts)
        beside = cards_of(dictionary.path, dictionary.info)
        cards = (
            open_cards(cards_path or beside, dictionary.info)
            if cards_path or beside.is_file()
            else stated_cards(dictionary.path, dictionary.info)
        )
        if cards is not None:
            undo.callback(cards.close)
            opened.cards[id] = cards
        opened.presets += read_builtin(presets_beside(dictionary.path))
    return opened


def _measured(
    model: Any, tokenizer: Any, dictionaries: Mapping[str, Dictionary]
) -> dict[str, Measured]:
    found = {}
    for id, dictionary in dictionaries.items():
        entry = pairing(id)
        found[id] = fit(model, tokenizer, dictionary, entry.l0 if entry else None)
    return found


def _source(what: str, path: Path, facts: str = "") -> dict[str, str]:
    found = origin(path)
    return {what: found + facts} if found else {}


def find(
    name: str, kind: Any, report: Report | None = None, start: float = 0.0, stop: float = 1.0
) -> Path:
    """Names that are no folder and look like none of the Hub's are answered with the catalog.

    report: told how far a download is, between progress `start` and `stop`, at every piece of it:
    what report raises ends the download.
    """
    if not Path(name).exists() and "/" not in name:
        raise BadRequest(
            f"{name!r} is no {kind} folder here and no name of the catalog "
            f"({', '.join(names())}); a name on the Hub has the form org/name"
        )
    last, stage = -1, ""

    def told(there: int, total: int) -> None:
        nonlocal last, stage
        if there * 20 // total > last:  # other words, and so a line of the log, every 5 %
            last = there * 20 // total
            stage = f"downloading {bare(name)}: {there / 1e9:.1f} of {total / 1e9:.1f} GB"
        if report is not None:
            report(stage, start + (stop - start) * there / total)

    return find_files(name, kind=kind, told=told)


def pick_device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def revision(folder: Path) -> str:
    """blake2b, 16 hex digits, of the names and contents of the model's files; of a file of more
    than 64 MiB its size, head and tail (1 MiB each) stand for it.
    """
    total = hashlib.blake2b(digest_size=8)
    kept = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in kept):
        total.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            if path.stat().st_size <= 64 * 2**20:
                total.update(hashlib.file_digest(file, "blake2b").digest())
                continue
            total.update(file.read(2**20))
            file.seek(-(2**20), 2)
            total.update(file.read())
    return total.hexdigest()
