"""SAELens: a HookedSAETransformer with the SAE in the residual stream and a hook on its features.

Every token pays for the whole SAE, encoder and decoder, twice: once more for the error term.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from rival_work import Job, Work
from sae_lens import SAE, HookedSAETransformer
from transformer_lens.loading_from_pretrained import get_pretrained_model_config
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import AutoModelForCausalLM, AutoTokenizer


def clamp(acts: torch.Tensor, hook: Any, features: list[list[int]], value: float) -> torch.Tensor:
    """acts: [rows, tokens, d_sae]."""
    for row, ids in enumerate(features):
        acts[row, :, ids] = value
    return acts


class Subject:
    version = f"{version('sae-lens')}, TransformerLens {version('transformer-lens')}"
    op, batch, shared = "clamp", "static", False

    def __init__(self, work: Work) -> None:
        self.work = work
        # from_pretrained knows published names only; these are its own steps for any Llama
        config = get_pretrained_model_config(
            work.model, fold_ln=False, device="cpu", dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(work.model)
        self.model = HookedSAETransformer(config, tokenizer)
        model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
        weights = convert_llama_weights(model, config)
        self.model.load_and_process_state_dict(
            weights,
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
        sae = SAE.load_from_disk(work.sae, device="cpu")
        self.model.add_sae(sae, use_error_term=True)
        self.hook = f"{sae.cfg.metadata.hook_name}.hook_sae_acts_post"

    @torch.no_grad()
    def run(self, job: Job) -> list[list[int]]:
        ids = torch.tensor([self.work.prompts[row] for row in job.rows])
        edit = partial(clamp, features=job.features, value=self.work.strength)
        with self.model.hooks(fwd_hooks=[(self.hook, edit)]):
            out = self.model.generate(
                ids,
                max_new_tokens=job.tokens,
                stop_at_eos=False,
                do_sample=False,
                verbose=False,
            )
        replies: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return replies
