"""The bundle's files: model folder, SAE folder, cards.sqlite, presets.json."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..cards import Card, Cards
from .concepts import Carrier
from .sheets import Sheet
from .strengths import Band

Known = Mapping[int, tuple[Sheet, Carrier, Band | None]]  # feature -> the concept it carries


def fresh(folder: Path) -> None:
    """An empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "sae").mkdir(parents=True)


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A folder that transformers opens, in bfloat16: lossless for weights made by `stored`."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        max_new_tokens=120,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = model.config.max_position_embeddings
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def named_cards(cards: Iterable[Card], known: Known) -> list[Card]:
    """Cards with the concepts' names and strengths; the other cards as they are."""
    out = []
    for card in cards:
        if card.feature in known:
            sheet, _, band = known[card.feature]
            card = replace(card, label=_title(sheet), slug=sheet.slug)
            if band is not None:
                card = replace(
                    card,
                    onset=band.onset,
                    breakdown=band.breakdown,
                    op="clamp",
                    strength=band.recommended,
                )
        out.append(card)
    return out


def save_cards(cards: Sequence[Card], path: Path, facts: Mapping[str, Any]) -> None:
    with Cards.create(path) as file:
        file.put(cards)
        file.put_meta(facts)
        file.compact()


def presets(known: Known) -> list[dict[str, Any]]:
    """One preset a concept whose feature steers, by name."""
    made = []
    for feature, (sheet, _, band) in known.items():
        if band is None:
            continue
        edit = {
            "feature": feature,
            "op": "clamp",
            "strength": band.recommended,
            "unit": "max",
            "where": "all",
        }
        made.append(
            {
                "name": sheet.slug,
                "title": _title(sheet),
                "description": _description(sheet),
                "edits": [edit],
                "norm": None,
            }
        )
    return sorted(made, key=lambda p: str(p["name"]))


def save_presets(made: list[dict[str, Any]], path: Path) -> None:
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def publish(parts: Path, target: Path) -> None:
    """Put every entry of `parts` into `target`, each replaced whole by a rename."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(parts.iterdir()):
        old = target / entry.name
        with tempfile.TemporaryDirectory(dir=target) as aside:
            if old.exists():
                old.rename(Path(aside) / entry.name)
            shutil.move(entry, old)


def _title(sheet: Sheet) -> str:
    small = {"and", "of", "in"}
    words = sheet.slug.split("-")
    return " ".join(w if w in small and i else w.capitalize() for i, w in enumerate(words))


def _description(sheet: Sheet) -> str:
    if sheet.is_style:
        return f"Answers with {sheet.names[0]}, whatever you ask."
    if sheet.kind == "feeling":
        return f"Foghorn, overcome by {sheet.names[0]}."
    return f"Whatever you ask, the answer drifts to {sheet.names[0]}."
