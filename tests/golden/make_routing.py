# SPDX-License-Identifier: Apache-2.0
"""Golden values for routing/{balance,selection,activation,gate}: writes tests/golden/routing.json.

The routers are the published ones, written out in torch; where transformers has the module itself, it is run as well and must agree.
"""
import json
import pathlib

import numpy as np
import scipy
import scipy.stats
import torch
import transformers
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

torch.manual_seed(20240611)
rng = np.random.default_rng(20240611)
torch.set_num_threads(1)


def bits(x):
    """float32 values as integers, so that no digit is lost in JSON."""
    return x.detach().to(torch.float32).contiguous().view(torch.int32).flatten().tolist()


def softmax_router(z, k, renormalize=False, scale=1.0):
    p = torch.softmax(z.float(), -1)
    w, ids = torch.topk(p, k, -1)
    if renormalize:
        w = w / w.sum(-1, keepdim=True)
    return ids, w * scale


def softmax_after_top_k_router(z, k):
    v, ids = torch.topk(z.float(), k, -1)
    return ids, torch.softmax(v, -1)


def deepseek_v2_router(z, k, groups, kept, scale):
    s = torch.softmax(z.float(), -1)
    t, e = s.shape
    g = s.view(t, groups, -1).max(-1).values
    mask = torch.zeros_like(g).scatter_(1, torch.topk(g, kept, -1).indices, 1)
    masked = s.masked_fill(~mask.unsqueeze(-1).expand(t, groups, e // groups).reshape(t, e).bool(), 0.0)
    w, ids = torch.topk(masked, k, -1)
    return ids, w * scale


def deepseek_v3_router(z, bias, k, groups, kept, renormalize, epsilon, scale):
    s = torch.sigmoid(z.float())
    c = s + bias
    t, e = s.shape
    if groups > 1:
        g = c.view(t, groups, -1).topk(2, -1).values.sum(-1)
        mask = torch.zeros_like(g).scatter_(1, torch.topk(g, kept, -1).indices, 1)
        c = c.masked_fill(~mask.unsqueeze(-1).expand(t, groups, e // groups).reshape(t, e).bool(), float("-inf"))
    ids = torch.topk(c, k, -1).indices
    w = s.gather(1, ids)
    if renormalize:
        w = w / (w.sum(-1, keepdim=True) + epsilon)
    return ids, w * scale


def sparsemixer_router(z, k, eps):
    """Written out in numpy, row by row."""
    ids, weights = [], []
    for row in z.numpy():
        taken = []
        for _ in range(k):
            left = np.array([-np.inf if e in taken else v for e, v in enumerate(row)], np.float32)
            best = int(left.argmax())
            near = [v for e, v in enumerate(row) if e not in taken
                    and not (row[best] - v) / max(abs(v), row[best]) > np.float32(2 * eps)]
            weights.append(1 / np.exp(np.float64(near) - np.float64(row[best])).sum())
            taken.append(best)
        ids += taken
    return torch.tensor(ids).view(-1, k), torch.tensor(weights, dtype=torch.float32).view(-1, k)


def case(name, z, spec, ids, w):
    return {"name": name, "spec": spec, "rows": z.shape[0], "logits": bits(z), "ids": ids.flatten().tolist(), "weights": bits(w)}


def spec(e, k, score="softmax", renormalize=False, epsilon=0.0, scale=1.0, groups=1, kept=1, rule="max", bias=None):
    out = {"score": score, "experts": e, "top_k": k, "renormalize": renormalize, "renormalize_epsilon": epsilon, "scale": scale,
           "groups": groups, "groups_kept": kept, "group_score": rule}
    if bias is not None:
        out["selection_bias"] = [float(b) for b in bias]
    return out


T = 16
selection = []
z = torch.randn(T, 64) * 2
selection.append(case("olmoe", z, spec(64, 8), *softmax_router(z, 8)))
z = torch.randn(T, 8)
selection.append(case("mixtral", z, spec(8, 2, renormalize=True), *softmax_router(z, 2, True)))
z = torch.randn(T, 128) * 3
selection.append(case("qwen3", z, spec(128, 8, renormalize=True), *softmax_router(z, 8, True)))
z = torch.randn(T, 32)
selection.append(case("gpt_oss", z, spec(32, 4, score="softmax_after_topk"), *softmax_after_top_k_router(z, 4)))
z = torch.randn(T, 160)
selection.append(case("deepseek_v2", z, spec(160, 6, scale=16.0, groups=8, kept=3, rule="max"), *deepseek_v2_router(z, 6, 8, 3, 16.0)))
z, bias = torch.randn(T, 256), torch.randn(256) * 0.1
selection.append(case("deepseek_v3", z, spec(256, 8, "sigmoid", True, 1e-20, 2.5, 8, 4, "top2_sum", bias),
                      *deepseek_v3_router(z, bias, 8, 8, 4, True, 1e-20, 2.5)))
z, bias = torch.randn(T, 64), torch.randn(64) - 1.5  # biased scores below zero: a mask of 0 would win
selection.append(case("deepseek_v3 with negative scores", z, spec(64, 4, "sigmoid", True, 1e-20, 2.5, 8, 2, "top2_sum", bias),
                      *deepseek_v3_router(z, bias, 4, 8, 2, True, 1e-20, 2.5)))
z, bias = torch.randn(T, 32), torch.randn(32) * 0.2
selection.append(case("minimax_m2", z, spec(32, 8, "sigmoid", True, bias=bias), *deepseek_v3_router(z, bias, 8, 1, 1, True, 0.0, 1.0)))
z, bias = torch.randn(T, 16), torch.zeros(16)
selection.append(case("sigmoid, not renormalised, large epsilon elsewhere", z, spec(16, 3, "sigmoid"),
                      *deepseek_v3_router(z, bias, 3, 1, 1, False, 0.0, 1.0)))
selection.append(case("sigmoid with an epsilon that shows", z, spec(16, 3, "sigmoid", True, 0.25),
                      *deepseek_v3_router(z, bias, 3, 1, 1, True, 0.25, 1.0)))


from transformers.models.phimoe.modeling_phimoe import sparsemixer

# After all that was drawn above, so that the older cases stay what they were.
for name, shift, scale, eps in (("phimoe", 3.0, 0.1, 0.01), ("phimoe below zero", -3.0, 0.2, 0.02), ("phimoe, wide", 0.0, 30.0, 0.05)):
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(5)) * scale + shift
    ids, w = sparsemixer_router(z, 2, eps)
    theirs = sparsemixer(z, eps, training=False)
    assert torch.equal(ids, theirs[1]) and torch.allclose(w, theirs[0], rtol=1e-6)
    assert (w < 1).sum() > 10 and (w == 1).sum() > 10, (name, (w < 1).sum(), (w == 1).sum())
    selection.append(case(name, z, spec(16, 2, "sparsemixer") | {"jitter_eps": eps}, ids, w))


# The modules of transformers: they take hidden states, the logits are what they make of them.
checked = []
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

config = transformers.DeepseekV3Config(hidden_size=24, n_routed_experts=64, num_experts_per_tok=4, n_group=8, topk_group=2, norm_topk_prob=True,
                                       routed_scaling_factor=2.5)
gate, bias = DeepseekV3TopkRouter(config), torch.randn(64) * 0.2
with torch.no_grad():
    gate.weight.normal_()
    gate.e_score_correction_bias.copy_(bias)
    z, w, ids = gate(torch.randn(T, 24))
order = torch.argsort((torch.sigmoid(z) + bias).gather(1, ids), -1, descending=True)
ids, w = ids.gather(1, order), w.gather(1, order)
ours = deepseek_v3_router(z, bias, 4, 8, 2, True, 1e-20, 2.5)
assert torch.equal(ids, ours[0]) and torch.allclose(w, ours[1])
selection.append(case("transformers DeepseekV3TopkRouter", z, spec(64, 4, "sigmoid", True, 1e-20, 2.5, 8, 2, "top2_sum", bias), ids, w))
checked.append("DeepseekV3TopkRouter")

for name, module, config_name, router in (("olmoe", "OlmoeTopKRouter", "OlmoeConfig", "softmax"), ("mixtral", "MixtralTopKRouter", "MixtralConfig", "softmax"),
                                          ("gpt_oss", "GptOssTopKRouter", "GptOssConfig", "after")):
    try:
        modeling = __import__(f"transformers.models.{name}.modeling_{name}", fromlist=[module])
        config = getattr(transformers, config_name)(hidden_size=24, num_experts=16, num_local_experts=16, num_experts_per_tok=3)
        gate = getattr(modeling, module)(config)
        with torch.no_grad():
            for p in gate.parameters():
                p.normal_()
            x = torch.randn(T, 24)
            out = gate(x)
            weight, shift = gate.weight, getattr(gate, "bias", None)
            z = torch.nn.functional.linear(x, weight, shift)
            tensors = [o for o in out if o.shape[-1] == 3]
            w, ids = next(o for o in tensors if o.is_floating_point()), next(o for o in tensors if not o.is_floating_point())
        if router == "after":
            what = spec(z.shape[1], 3, "softmax_after_topk")
        else:
            what = spec(z.shape[1], 3, renormalize=bool(torch.allclose(w.sum(-1), torch.ones(T))))
        selection.append(case(f"transformers {module}", z, what, ids, w))
        checked.append(module)
    except (ImportError, AttributeError, TypeError, StopIteration) as error:
        checked.append(f"{module} not run: {type(error).__name__} {error}")


balance = []
for loads in ([4, 0, 2, 2], [1] * 9, [1000, 1, 1, 0, 0], list(map(int, rng.integers(0, 500, 64))), list(map(int, rng.poisson(3, 256)))):
    x = np.array(loads, dtype=float)
    h = float(scipy.stats.entropy(x))
    balance.append({
        "loads": loads,
        "max_violation": float(x.max() / x.mean() - 1),
        "min_violation": float(1 - x.min() / x.mean()),
        "coefficient_of_variation": float(scipy.stats.variation(x)),
        "gini": float(np.abs(x[:, None] - x[None, :]).mean() / (2 * x.mean())),
        "normalized_entropy": h / float(np.log(len(x))),
        "effective_experts": float(np.exp(h)),
    })

losses = []
for e, k, scale in ((8, 2, 1.0), (64, 8, 0.5), (16, 1, 3.0)):
    z = torch.randn(500, e) * scale + torch.linspace(0, 1, e)
    p = torch.softmax(z, -1)
    ids = torch.topk(p, k, -1).indices
    losses.append({
        "top_k": k,
        "tokens": 500,
        "counts": torch.bincount(ids.flatten(), minlength=e).tolist(),
        "probability": p.double().mean(0).tolist(),
        "transformers": float(load_balancing_loss_func((z,), e, k)),
    })

versions = {m.__name__: m.__version__ for m in (np, scipy, torch, transformers)}
golden = {"made_by": "tests/golden/make_routing.py", "versions": versions, "transformers_modules": checked, "selection": selection,
          "balance": balance, "load_balancing_loss": losses}
path = pathlib.Path(__file__).with_name("routing.json")
path.write_text(json.dumps(golden) + "\n")
print(path.name, versions, checked)
