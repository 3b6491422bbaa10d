"""Synthetic dictionaries and cards of any size; sparse files hold what a disk would not."""

from __future__ import annotations

import itertools
import json
import os
import random
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import torch

from dictionaries import cards_schema as schema
from dictionaries.card import Card
from dictionaries.formats import open_dictionary
from dictionaries.packed_layout import MANIFEST, ROWS, beginning, manifest

WORDS = 30_000
SYLLABLES = ("ba", "ri", "don", "gol", "te", "ga", "mi", "fo", "ru", "lan", "ser", "co", "pe", "qu")


def published(folder: Path, d_sae: int, d_in: int, *, real: bool) -> Path:
    """A JumpReLU SAE as SAELens stores it, bfloat16: W_enc [d_in, d_sae], W_dec [d_sae, d_in].

    real: random numbers, which take their room on the disk; else zeros, which take none.
    """
    shapes = {
        "W_enc": ("BF16", [d_in, d_sae]),
        "W_dec": ("BF16", [d_sae, d_in]),
        "b_enc": ("F32", [d_sae]),
        "b_dec": ("F32", [d_in]),
        "threshold": ("F32", [d_sae]),
    }
    entries, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        size = (2 if dtype == "BF16" else 4) * shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    folder.mkdir(parents=True)
    config = {"architecture": "jumprelu", "hook_name": "blocks.0.hook_resid_post"}
    (folder / "cfg.json").write_text(json.dumps(config))
    with (folder / "sae_weights.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        if real:
            _fill(file.write, entries["W_dec"]["data_offsets"][1])
        file.truncate(8 + len(header) + end)
        file.flush()
        os.fsync(file.fileno())
    return folder


def _fill(write, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    block = (torch.randn(8 * 2**20, generator=generator) / 64).bfloat16().view(torch.uint8)
    for start in range(0, size, block.numel()):
        write(block[: size - start].numpy().data)


def packed(source: Path, folder: Path, features: list[int]) -> Path:
    """What `steerdeck dictionaries pack` would make of a sparse `source`, without its zeros.

    features: those whose rows are filled with numbers, so that there is something to read.
    """
    dictionary = open_dictionary(source)
    prefix, total = beginning(dictionary.weights)
    folder.mkdir(parents=True)
    d_in, d_sae = dictionary.info.d_in, dictionary.info.d_sae
    record = 2 * d_in + 8  # the encoder's, with bias and threshold
    with (folder / ROWS).open("wb") as file:
        file.write(prefix)
        file.truncate(total)
        for i in features:
            row = (torch.randn(d_in) / d_in**0.5).bfloat16().view(torch.uint8).numpy().tobytes()
            os.pwrite(file.fileno(), row, len(prefix) + i * record)
            os.pwrite(file.fileno(), row, len(prefix) + d_sae * record + i * 2 * d_in)
    (folder / MANIFEST).write_text(json.dumps(manifest(dictionary.info, dictionary.weights)))
    return folder


def vocabulary() -> list[str]:
    """Made-up words, the most frequent first."""
    draw = random.Random(1)
    words = {"".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(WORDS)}
    return sorted(words, key=lambda word: (len(word), word))


def cards(path: Path, count: int) -> Path:
    """Labels of 5 words and 8 promoted tokens, drawn as words of a language are (Zipf)."""
    words = vocabulary()
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))
    draw = random.Random(2)

    def drawn() -> Iterator[Card]:
        for feature in range(count):
            said = draw.choices(words, cum_weights=weights, k=13)
            yield Card(
                feature,
                " ".join(said[:5]),
                density=draw.random(),
                maximum=50 * draw.random(),
                promoted=tuple((f" {word}", 1.0) for word in said[5:]),
            )

    with sqlite3.connect(path) as made:  # Cards.put would commit, and merge, far too often
        made.executescript(schema.SCHEMA)
        made.execute("PRAGMA synchronous = OFF")
        made.execute("PRAGMA cache_size = -100000")
        for setting, value in (("hashsize", 2**27), ("automerge", 0)):
            made.execute("INSERT INTO search (search, rank) VALUES (?, ?)", (setting, value))
        made.executemany(schema.PUT, map(schema.to_row, drawn()))
        made.execute("INSERT INTO search (search) VALUES ('optimize')")
    made.close()
    return path
