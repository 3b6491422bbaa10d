"""What we are measured against: the machine's memory, and `transformers.generate` with a hook."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from traffic import PROMPTS
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dictionaries.edits import EditTable, Op, frame, steer
from dictionaries.formats import open_dictionary
from server.engine.threads import fastest


def stream_read(megabytes: int = 512, repeats: int = 5) -> float:
    """GB/s of reading memory once from end to end with torch's threads, best of `repeats`."""
    block = torch.ones(megabytes * 2**20 // 4)
    best = 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        block.sum()
        best = max(best, block.numel() * 4 / 1e9 / (time.perf_counter() - started))
    return best


@dataclass(frozen=True)
class Spent:
    tokens: int
    wall: float  # seconds
    cpu: float


class Plain:
    """One request at a time through `generate`; a forward hook clamps the same features.

    threads: as many as it is fastest on, which is what a server looks for too; torch is set to it.
    """

    def __init__(self, model: Path, dictionary: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.published = AutoConfig.from_pretrained(model).dtype or torch.float32
        self.dictionary = open_dictionary(dictionary)
        site = self.dictionary.info.site
        if site.hook != "resid_post":
            raise SystemExit(f"the comparison steers the output of a layer, not {site}")
        self.layer = self.model.model.layers[site.layer]
        self.threads = fastest(self._step, torch.get_num_threads())

    @torch.no_grad()
    def _step(self) -> None:
        self.model(input_ids=torch.zeros(1, 1, dtype=torch.long))

    @property
    def megabytes(self) -> float:
        """What one decode step must read: the weights as they were published, without the input
        embedding.
        """
        tied = self.model.config.tie_word_embeddings
        unread = 0 if tied else self.model.get_input_embeddings().weight.numel()
        return (
            (sum(p.numel() for p in self.model.parameters()) - unread)
            * self.published.itemsize
            / 1e6
        )

    def hook(self, edits: Sequence[dict[str, Any]]) -> torch.utils.hooks.RemovableHandle:
        rows = self.dictionary.rows([edit["feature"] for edit in edits])
        table = EditTable.of([Op(edit["op"]).edit(edit["strength"]) for edit in edits])
        norm = self.dictionary.info.norm

        def clamp(_module: Any, _args: Any, x: torch.Tensor) -> torch.Tensor:
            cutoff = self.dictionary.cutoff(frame(x, norm).h) if self.dictionary.info.k else None
            return steer(x, rows, table, norm=norm, cutoff=cutoff)

        return self.layer.register_forward_hook(clamp)

    @torch.no_grad()
    def run(self, indices: Sequence[int], max_tokens: int, edits: Sequence[Any]) -> Spent:
        """The replies to requests number `indices`, one after another."""
        tokens, wall, cpu = 0, time.perf_counter(), time.process_time()
        for index in indices:
            messages = [{"role": "user", "content": PROMPTS[index % len(PROMPTS)]}]
            inputs = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            handle = self.hook(edits[index])
            torch.manual_seed(index)
            try:
                out = self.model.generate(
                    **inputs,
                    max_new_tokens=max_tokens,
                    do_sample=True,
                    temperature=0.7,
                    top_p=0.95,
                    top_k=0,
                    pad_token_id=0,
                )
            finally:
                handle.remove()
            tokens += out.shape[1] - inputs["input_ids"].shape[1]
        return Spent(tokens, time.perf_counter() - wall, time.process_time() - cpu)
