"""Laws of the steering maths (DESIGN section 1), on small random SAEs of every architecture."""

from __future__ import annotations

import pytest
import torch
from full_sae import SAE, TOKENS, D, make
from torch import Tensor

from dictionaries.edits import (
    EditTable,
    FeatureRows,
    Norm,
    Op,
    frame,
    read,
    shifted,
    steer,
    topk_cutoff,
)

ARCHITECTURES = ["standard", "jumprelu", "gated", "topk", "batchtopk"]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(1)) * 2


IDS = [3, 17, 40, 41, 60, 5]
EDITS = [
    Op.ADD.edit(1.5),
    Op.CLAMP.edit(3.0),
    Op.SCALE.edit(2.5),
    Op.ABLATE.edit(0),
    Op.AT_LEAST.edit(0.8),
    Op.AT_MOST.edit(0.2),
]


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steering_equals_decode_of_edited_features_plus_error(architecture, norm, x):
    sae = make(architecture, norm)
    f = sae.encode(x)
    assert (f > 0).any(0).float().mean() > 0.5, "a dead SAE would prove nothing"
    g = f.clone()
    for i, (scale, shift, floor, ceiling) in zip(IDS, EDITS, strict=True):
        g[:, i] = (scale * f[:, i] + shift).clamp(floor, ceiling)
    wanted = sae.decode(g, x) + (x - sae.decode(f, x))
    assert not torch.allclose(wanted, x, atol=0.1)
    torch.testing.assert_close(sae.steer(x, IDS, EDITS), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_rounds_the_exact_result_once(architecture, x):
    sae, low = make(architecture), x.bfloat16()
    exact = sae.steer(low.float(), IDS, EDITS)
    assert torch.equal(sae.steer(low, IDS, EDITS), exact.bfloat16())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chosen_features_read_as_the_full_sae_reads_them(architecture, x):
    sae = make(architecture)
    h, _ = frame(x, sae.norm)
    f = read(h, sae.rows(IDS), sae.cutoff(x))
    torch.testing.assert_close(f, sae.encode(x)[:, IDS], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_zero_edits_are_bit_identical(architecture, dtype, x):
    x = x.to(dtype)
    idle = [Op.ADD.edit(0.0), Op.SCALE.edit(1.0), Op.AT_LEAST.edit(-1.0), Op.AT_MOST.edit(1e9)]
    for keep in (None, torch.tensor(True)):
        assert torch.equal(make(architecture).steer(x, IDS[:4], idle, keep_norm=keep), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prefill_and_decode_steer_the_same(architecture, dtype, x):
    """The whole prompt at once equals one token at a time: what a KV cache relies on."""
    sae, x = make(architecture), x.to(dtype)
    whole = sae.steer(x, IDS, EDITS)
    steps = torch.cat([sae.steer(x[t : t + 1], IDS, EDITS) for t in range(TOKENS)])
    tolerance = 1e-6 if dtype is torch.float32 else 0.04  # one unit in bfloat16's last place
    torch.testing.assert_close(whole, steps, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_independent(dtype, x):
    """Batched tables: each row gets its own edits, and an unsteered row keeps its bits."""
    sae = make("jumprelu")
    one, two = sae.rows([1, 2]), sae.rows([9, 30])
    nothing = FeatureRows(*(torch.zeros_like(t) for t in fields(one)))
    batch = FeatureRows(*(stack(ts) for ts in zip(*map(fields, (one, nothing, two)), strict=True)))
    edits = [[Op.CLAMP.edit(2.0)] * 2, [Op.ADD.edit(0.0)] * 2, [Op.ADD.edit(-1.0)] * 2]
    tables = [EditTable.of(e) for e in edits]
    columns = zip(*((t.scale, t.shift, t.floor, t.ceiling) for t in tables), strict=True)
    table = EditTable(*(stack(c) for c in columns))
    xs = torch.stack([x, x + 1, x - 1]).to(dtype)
    out = steer(xs, batch, table)
    assert torch.equal(out[1], xs[1])
    for row, rows in ((0, one), (2, two)):
        alone = steer(xs[row], rows, tables[row])
        torch.testing.assert_close(out[row], alone, atol=1e-5, rtol=0.01)


def fields(rows: FeatureRows) -> list[Tensor]:
    return [rows.enc, rows.gain, rows.offset, rows.gate, rows.threshold, rows.dec]


def stack(tensors) -> Tensor:
    """[k, d] -> [rows, k, d]; [k] -> [rows, 1, k]."""
    both = torch.stack(list(tensors))
    return both if both.dim() == 3 else both[:, None]


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_clamp_reaches_its_target_and_leaves_the_orthogonal_complement(architecture, x):
    sae = make(architecture)
    sae.W_dec = torch.linalg.qr(torch.randn(D, D)).Q[:1].repeat(SAE, 1)  # unit direction
    sae.W_enc = sae.W_dec.T.clone()  # tied: the activation is the projection
    sae.b_enc, sae.b_dec = torch.zeros(SAE), torch.zeros(D)
    out = sae.steer(x, [4], [Op.CLAMP.edit(5.0)])
    fired = sae.encode(x)[:, 4] > 0
    assert fired.any()
    torch.testing.assert_close(sae.encode(out)[fired, 4], torch.full((fired.sum(),), 5.0))
    complement = torch.eye(D) - torch.outer(sae.W_dec[4], sae.W_dec[4])
    torch.testing.assert_close(out @ complement, x @ complement, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_order_of_edits_does_not_matter(architecture, x):
    sae = make(architecture)
    forth = sae.steer(x, IDS, EDITS)
    back = sae.steer(x, IDS[::-1], EDITS[::-1])
    torch.testing.assert_close(forth, back, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keeping_the_norm_turns_the_residual_and_keeps_its_length(dtype, x):
    sae, x = make("jumprelu"), x.to(dtype)
    out = sae.steer(x, IDS, EDITS, keep_norm=torch.tensor(True)).float()
    free = sae.steer(x, IDS, EDITS).float()
    tolerance = 1e-4 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(out.norm(dim=-1), x.float().norm(dim=-1), atol=0, rtol=tolerance)
    cosine = torch.cosine_similarity(out, free)
    torch.testing.assert_close(cosine, torch.ones(TOKENS), atol=tolerance, rtol=0)


def test_inactive_tokens_are_left_alone_bit_for_bit(x):
    active = torch.zeros(TOKENS, 1, dtype=torch.bool)
    active[3:6] = True
    sae = make("gated")
    out = sae.steer(x, IDS, EDITS, active=active)
    assert torch.equal(out[~active[:, 0]], x[~active[:, 0]])
    assert torch.equal(out[3:6], sae.steer(x, IDS, EDITS)[3:6])


def test_topk_cutoff_lets_exactly_k_through():
    z = torch.randn(5, 40)
    assert ((z > topk_cutoff(z, 7)).sum(-1) == 7).all()
    assert (z > topk_cutoff(z, 40)).all()


def test_shifting_by_nothing_changes_nothing():
    x = torch.randn(3, D).bfloat16()
    assert torch.equal(shifted(x, torch.zeros(3, D)), x)
