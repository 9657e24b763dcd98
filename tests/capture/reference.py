# SPDX-License-Identifier: Apache-2.0
"""The comparison with transformers: eager attention, one document per forward pass."""
import dataclasses

import numpy as np
import torch
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4

# Threads that wait for each other cost more than such small models are worth.
torch.set_num_threads(1)


def load_reference(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


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
    row: str = ""

    def agrees(self):
        return (self.logits <= TOLERANCE and self.selections == 0 and self.weights <= TOLERANCE
                and self.logprob <= TOLERANCE and self.loss <= TOLERANCE and self.predicted == 0)


def router_scores(config, z):
    return torch.softmax(torch.from_numpy(z), -1, dtype=torch.float32).numpy()


def compare(trace, model, documents=None):
    """The differences over all documents of the trace, or over the first few."""
    out = Difference()
    k = model.config.num_experts_per_tok
    for document, arrays in list(zip(trace.documents, trace.arrays))[:documents]:
        ids = torch.from_numpy(arrays["token_ids"].astype(np.int64))[None]
        with torch.no_grad():
            reference = model(ids, output_router_logits=True)
        out.tokens += ids.shape[1]
        for l, z in zip(trace.layers, reference.router_logits):
            z = z.float().numpy()
            ours = arrays[f"layers.{l}.logits"].astype(np.float32)
            ratio = np.abs(ours - z).max(1) / np.abs(z).max(1)
            if ratio.max() > out.logits:
                out.logits, out.row = float(ratio.max()), f"{document['id']} layer {l} token {ratio.argmax()}"
            scores, our_scores = router_scores(model.config, z), router_scores(model.config, ours)
            error = np.abs(scores - our_scores).max(1)
            best = -np.sort(-scores, 1)
            clear = best[:, k - 1] - best[:, k] > 2 * error
            chosen = np.sort(np.argsort(-scores, 1, kind="stable")[:, :k], 1)
            selected = arrays[f"layers.{l}.ids"]
            same = (np.sort(selected, 1) == chosen).all(1)
            out.selections += int((clear & ~same).sum())
            # Weights as the reference would give them to the experts that we chose.
            weights = np.take_along_axis(scores, selected.astype(np.int64), 1)
            if model.config.norm_topk_prob:
                weights = weights / weights.sum(1, keepdims=True)
            out.weights = max(out.weights, float(np.abs(weights - arrays[f"layers.{l}.weights"])[clear].max(initial=0)))
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
    return out
