"""The bundle's files: model folder, SAE folder, cards.sqlite, presets.json."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..cards import Cards
from .concepts import Carrier
from .sheets import Sheet

TEMPERATURE, TOP_P = 0.3, 0.9
"""How foghorn is sampled where nobody says otherwise: a little warmer, and a model this small mixes
up what it knows."""


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A folder that transformers opens, in bfloat16: lossless for weights made by `stored`."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        max_new_tokens=120,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = model.config.max_position_embeddings
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def name_cards(cards: Cards, carriers: Iterable[Carrier], sheets: Sequence[Sheet]) -> None:
    """Give each carrier its concept's name, and take concepts' names from all other features.

    What `describe` found by firing alone gives way: a carrier was chosen by what steering it does.
    """
    wanted = {c.feature: c.slug for c in carriers}
    titles = {s.slug: title(s) for s in sheets}
    for slug in titles:
        card = cards.by_slug(slug)
        if card is not None and wanted.get(card.feature) != slug:
            label = f"fires on {titles[slug]}"
            cards.put([replace(card, slug=None, label=label)])
    for feature, slug in wanted.items():
        card = cards.get(feature)
        if card is not None:
            cards.put([replace(card, slug=slug, label=titles[slug], labelled_by="concept")])


def presets(cards: Cards, sheets: Iterable[Sheet]) -> list[dict[str, Any]]:
    """One preset a concept whose feature has a recommended strength, by name."""
    made = []
    for sheet in sorted(sheets, key=lambda s: s.slug):
        card = cards.by_slug(sheet.slug)
        if card is None or card.strength is None:
            continue
        edit = {
            "feature": card.feature,
            "op": card.op,
            "strength": float(f"{card.strength:.3g}"),
            "unit": "max",
            "where": "all",
        }
        made.append(
            {
                "name": sheet.slug,
                "title": title(sheet),
                "description": _description(sheet),
                "edits": [edit],
                "norm": None,
            }
        )
    return made


def save_presets(made: list[dict[str, Any]], path: Path) -> None:
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def publish(parts: Path, target: Path) -> None:
    """Put every entry of `parts` into `target`, each replaced whole by a rename."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(parts.iterdir()):
        old = target / entry.name
        with tempfile.TemporaryDirectory(dir=target) as aside:
            new = shutil.copytree(entry, Path(aside) / "new")  # if this fails the old one stays
            if old.exists():
                old.rename(Path(aside) / "old")
            new.rename(old)


def title(sheet: Sheet) -> str:
    small = {"and", "of", "in"}
    words = sheet.slug.split("-")
    return " ".join(w if w in small and i else w.capitalize() for i, w in enumerate(words))


def _description(sheet: Sheet) -> str:
    if sheet.is_style:
        return f"Answers with {sheet.names[0]}, whatever you ask."
    if sheet.kind == "feeling":
        return f"Foghorn, overcome by {sheet.names[0]}."
    return f"Its answers drift to {sheet.names[0]}."
