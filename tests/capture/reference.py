# SPDX-License-Identifier: Apache-2.0
"""The comparison with transformers: eager attention, one document per forward pass."""
import dataclasses

import numpy as np
import torch
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4

# Threads that wait for each other cost more than such small models are worth.
torch.set_num_threads(1)


def corrected(model):
    """transformers 5.23 asks for Phi's longrope frequencies without saying how long the text is, so gets the short ones for
    every text, scaled as the length says. test_families.test_longrope_of_transformers watches it."""
    for m in model.modules():
        if type(m).__name__ != "PhimoeRotaryEmbedding" or m.rope_type != "longrope":
            continue
        frequencies = m.rope_init_fn
        m.register_forward_pre_hook(lambda m, _, given: setattr(m, "length", int(given["position_ids"].max()) + 1), with_kwargs=True)
        m.rope_init_fn = lambda config, device=None, m=m, **_: frequencies(config, device, seq_len=m.length)
    return model


def load_reference(folder, dtype=torch.float32):
    return corrected(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval())


@dataclasses.dataclass
class Difference:
    """How far a trace is from the reference, at its worst."""
    logits: float = 0  # max |dz| / max |z| of the row
    selections: int = 0  # tokens with another set, though the gap at the k-th place exceeds twice the measured error
    weights: float = 0
    logprob: float = 0  # relative to max(1, |value|)
    loss: float = 0
    predicted: int = 0  # tokens whose argmax differs though the two largest are further apart than the tolerance
    tokens: int = 0
    undecided: int = 0  # tokens whose gap is smaller
    row: str = ""

    def agrees(self):
        return (self.logits <= TOLERANCE and self.selections == 0 and self.weights <= TOLERANCE
                and self.logprob <= TOLERANCE and self.loss <= TOLERANCE and self.predicted == 0)


def routers(model):
    """The modules that choose experts, in the order of layers: each returns logits, weights and ids."""
    return [m for m in model.modules()
            if type(m).__name__.lower().endswith(("topkrouter", "moev1gate"))]


def selection_scores(router, z):
    """What the router ranks, [T, E], for comparing how far the k-th is from the next: sigmoid or softmax, bias, groups."""
    name = type(router).__name__
    if name.startswith(("DeepseekV3", "Glm4Moe", "Dots1", "MiniMaxM2")):
        scores = torch.sigmoid(z)
    else:
        scores = torch.softmax(z, -1)
    statics = getattr(router, "moe_statics", router)
    bias = getattr(statics, "e_score_correction_bias", getattr(router, "outer_bias", None))
    if bias is not None:
        scores = scores + bias.squeeze()
    groups = getattr(router, "num_group", 1) or 1
    if groups > 1 and getattr(router, "topk_method", "group_limited_greedy") == "group_limited_greedy":
        members = scores.view(len(z), groups, -1)
        best = members.max(-1).values if name.startswith("DeepseekV2") else members.topk(2, -1).values.sum(-1)
        order = best.argsort(-1, descending=True)
        rank = order.argsort(-1)
        scores = members.masked_fill((rank >= router.topk_group)[..., None], -torch.inf).flatten(1)
    return scores


def compare(trace, model, documents=None):
    """The differences over all documents of the trace, or over the first few."""
    out = Difference()
    record = []
    gates = routers(model)
    assert len(gates) == len(trace.layers), (len(gates), trace.layers)
    for gate, block in zip(gates, [m for m in model.modules() if hasattr(m, "gate") and m.gate in gates]):
        if hasattr(block, "e_score_correction_bias"):  # MiniMax keeps the bias outside the router
            gate.outer_bias = block.e_score_correction_bias
    hooks = [g.register_forward_hook(lambda g, _, output: record.append((g, *output))) for g in gates]
    for document, arrays in list(zip(trace.documents, trace.arrays))[:documents]:
        ids = torch.from_numpy(arrays["token_ids"].astype(np.int64))[None]
        record.clear()
        with torch.no_grad():
            reference = model(ids)
        out.tokens += ids.shape[1]
        for l, (gate, z, theirs, chosen) in zip(trace.layers, record, strict=True):
            z, theirs, chosen = z.float(), theirs.float().numpy(), chosen.numpy()
            ours = torch.from_numpy(arrays[f"layers.{l}.logits"].astype(np.float32))
            k = chosen.shape[1]
            ratio = ((ours - z).abs().amax(1) / z.abs().amax(1)).numpy()
            if not ratio.max() <= out.logits:
                out.logits, out.row = float(ratio.max()), f"{document['id']} layer {l} token {ratio.argmax()}"
            scores, our_scores = selection_scores(gate, z), selection_scores(gate, ours)
            finite = torch.isfinite(scores) & torch.isfinite(our_scores)
            error = (scores - our_scores).abs().where(finite, torch.zeros(())).amax(1)
            best = scores.topk(min(k + 1, scores.shape[1]), -1).values
            clear = (best[:, k - 1] - best[:, -1] > 2 * error).numpy() if k < scores.shape[1] else np.ones(len(z), bool)
            out.undecided += int((~clear).sum())
            selected = arrays[f"layers.{l}.ids"].astype(np.int64)
            a, b = selected.argsort(1), chosen.argsort(1)
            same = (np.take_along_axis(selected, a, 1) == np.take_along_axis(chosen, b, 1)).all(1)
            out.selections += int((clear & ~same).sum())
            gap = np.abs(np.take_along_axis(arrays[f"layers.{l}.weights"], a, 1) - np.take_along_axis(theirs, b, 1))
            out.weights = max(out.weights, float(gap[same].max(initial=0)))
        logits = reference.logits[0].float()
        two = logits.topk(2, -1).values
        decided = (two[:, 0] - two[:, 1] > TOLERANCE * two[:, 0].abs().clamp(min=1)).numpy()
        out.predicted += int((decided & (logits.argmax(-1).numpy() != arrays["predicted"])).sum())
        assert np.isnan(arrays["logprob"][0])
        if ids.shape[1] > 1:
            logprob = torch.log_softmax(logits, -1)[:-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
            ours = arrays["logprob"][1:]
            out.logprob = max(out.logprob, float((np.abs(logprob - ours) / np.maximum(1, np.abs(logprob))).max()))
            loss = -logprob.astype(np.float64).mean()
            out.loss = max(out.loss, abs(loss - document["loss"]) / max(1.0, abs(loss)))
        else:
            assert document["loss"] is None
    for hook in hooks:
        hook.remove()
    return out
