"""The dictionary as it is trained and saved: BatchTopK in training, JumpReLU on disk.

Plain torch rather than SAELens: it is this one page, and SAELens would pull 650 MB of packages
(TransformerLens, datasets, wandb) into an extra whose output is two files. The files are SAELens'.
BatchTopK: https://arxiv.org/abs/2412.06410.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Sae(nn.Module):
    """f = z where z > threshold, z = (x - b_dec) @ W_enc + b_enc; reconstruction f @ W_dec + b_dec.

    W_enc [d_in, d_sae], W_dec [d_sae, d_in] with rows of length 1, threshold [d_sae].
    """

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(d_sae, d_in, generator=generator)
        rows = rows / rows.norm(dim=-1, keepdim=True)
        self.W_dec = nn.Parameter(rows)
        self.W_enc = nn.Parameter(rows.T.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("threshold", torch.zeros(d_sae))
        self.threshold: Tensor

    @property
    def d_sae(self) -> int:
        return int(self.W_dec.shape[0])

    def preactivations(self, x: Tensor) -> Tensor:
        """[.., d_in] -> [.., d_sae], before ReLU and threshold."""
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """[.., d_in] -> [.., d_sae] as the saved JumpReLU dictionary does."""
        z = self.preactivations(x)
        return torch.where(z > self.threshold, z, 0.0).relu()

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.W_dec + self.b_dec

    @torch.no_grad()
    def unit_rows(self) -> None:
        """Bring every decoder row back to length 1."""
        self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-8))

    @torch.no_grad()
    def unscale(self, scale: float) -> None:
        """From activations multiplied by `scale` in training to the model's own."""
        for tensor in (self.b_dec, self.b_enc, self.threshold):
            tensor.div_(scale)


def save(
    sae: Sae,
    folder: Path,
    *,
    model: str,
    layer: int,
    context: int,
    k: int,
    hook: str = "resid_post",
    dataset: str = "dictionaries/foghorn/corpus",
    prepend_bos: bool = True,
) -> None:
    """SAELens v6: cfg.json and sae_weights.safetensors, architecture `jumprelu`."""
    point = "attn.hook_z" if hook == "hook_z" else f"hook_{hook}"
    folder.mkdir(parents=True, exist_ok=True)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    tensors = {n: getattr(sae, n).detach().float().cpu().contiguous() for n in names}
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu",
        "d_in": sae.W_dec.shape[1],
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "sae_lens_training_version": None,
            "model_name": model,
            "hook_name": f"blocks.{layer}.{point}",
            "hook_head_index": None,
            "prepend_bos": prepend_bos,
            "context_size": context,
            "exclude_special_tokens": True,
            "dataset_path": dataset,
            "training_architecture": "batchtopk",
            "training_k": k,
        },
    }
    (folder / "cfg.json").write_text(json.dumps(config, indent=2) + "\n")


def load(folder: Path) -> Sae:
    """Open what `save` wrote."""
    tensors = load_file(folder / "sae_weights.safetensors")
    d_sae, d_in = tensors["W_dec"].shape
    sae = Sae(d_in, d_sae)
    sae.load_state_dict(tensors)
    return sae
