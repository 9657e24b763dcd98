#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""FLAME-MoE checkpoint of Megatron (torch_dist) to a folder that moeroute-capture runs.

    flame_moe.py iter_0010000/ tokenizer.json out/

A FLAME-MoE folder on the hub holds iter_XXXXXXX/ with .metadata and __R_W.distcp, no Hugging Face files. This reads the
weights, splits what Megatron keeps together (q, k, v of a head; gate and up; all experts of a layer) and writes one
safetensors file per layer, an index and a config.json of the family flame_moe. One layer is in memory at a time.

Pickles are read with an allow-list: .metadata by an unpickler that knows the classes of torch.distributed.checkpoint and
nothing else, the tensors by torch.load with weights_only=True.
"""
import argparse
import enum
import io
import json
import pathlib
import pickle
import re
import shutil
import sys

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint import filesystem, metadata


class Refused(Exception):
    """A checkpoint that is not what it should be; the text names file and place."""


def member(enumeration, name):
    """Stands for getattr, by which Python 3.11.0 to 3.11.3 write a member of an enumeration; gives nothing else."""
    if not (isinstance(enumeration, type) and issubclass(enumeration, enum.Enum) and name in enumeration.__members__):
        raise Refused(f".metadata asks for attribute {name!r}, which no checkpoint needs; it was not loaded")
    return enumeration[name]


ALLOWED = {
    ("builtins", "getattr"): member,
    **{("torch.distributed.checkpoint.metadata", name): getattr(metadata, name)
       for name in ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
                    "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")},
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): filesystem._StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("pathlib", "PosixPath"): pathlib.PurePosixPath,
    ("collections", "OrderedDict"): dict,
    **{("torch", str(t).split(".")[1]): t for t in (torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.uint8)},
}


class MetadataReader(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise Refused(f".metadata asks for {module}.{name}, which no checkpoint needs; it was not loaded")
        return ALLOWED[module, name]


class Checkpoint:
    """Tensors of a torch_dist folder by name, each read when it is asked for."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        path = self.folder / ".metadata"
        try:
            with open(path, "rb") as file:
                self.metadata = MetadataReader(file).load()
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}; give the folder iter_XXXXXXX itself") from error
        except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError) as error:
            raise Refused(f"{path}: is not the metadata of a distributed checkpoint: {error}") from error
        if not isinstance(self.metadata, metadata.Metadata):
            raise Refused(f"{path}: is not the metadata of a distributed checkpoint")
        self.tensors = {name: t for name, t in self.metadata.state_dict_metadata.items()
                        if isinstance(t, metadata.TensorStorageMetadata)}

    def shape(self, name):
        if name not in self.tensors:
            raise Refused(f"{self.folder}: tensor {name} is missing")
        return tuple(self.tensors[name].size)

    def read(self, name):
        whole = torch.empty(self.shape(name), dtype=self.tensors[name].properties.dtype)
        filled = 0
        for chunk in self.tensors[name].chunks:
            found = [info for index, info in self.metadata.storage_data.items()
                     if index.fqn == name and tuple(index.offset or ()) == tuple(chunk.offsets)]
            if len(found) != 1:
                raise Refused(f"{self.folder}: tensor {name} has no data at {tuple(chunk.offsets)}")
            path = self.folder / pathlib.PurePosixPath(found[0].relative_path).name
            with open(path, "rb") as file:
                file.seek(found[0].offset)
                data = file.read(found[0].length)
            try:
                part = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            except Exception as error:  # torch has many names for bad bytes
                raise Refused(f"{path}: byte {found[0].offset}: {str(error).splitlines()[0]}") from error
            if tuple(part.shape) != tuple(chunk.sizes):
                raise Refused(f"{path}: tensor {name} has {tuple(part.shape)}, .metadata says {tuple(chunk.sizes)}")
            whole[tuple(slice(o, o + s) for o, s in zip(chunk.offsets, chunk.sizes))] = part
            filled += part.numel()
        if filled != whole.numel():
            raise Refused(f"{self.folder}: tensor {name} has {filled} of {whole.numel()} values")
        return whole


def layer_tensors(checkpoint, layer, heads):
    """The tensors of a layer under Hugging Face's names."""
    here, there = f"decoder.layers.{layer}.", f"model.layers.{layer}."
    out = {}
    out[there + "input_layernorm.weight"] = checkpoint.read(here + "self_attention.linear_qkv.layer_norm_weight")
    qkv = checkpoint.read(here + "self_attention.linear_qkv.weight")
    hidden = qkv.shape[1]
    if qkv.shape[0] != 3 * hidden or hidden % heads:
        raise Refused(f"{here}self_attention.linear_qkv.weight: {tuple(qkv.shape)} is not three times {heads} heads")
    parts = qkv.view(heads, 3, hidden // heads, hidden)  # q, k and v of each head stand together
    for i, name in enumerate("qkv"):
        out[there + f"self_attn.{name}_proj.weight"] = parts[:, i].reshape(hidden, hidden)
    out[there + "self_attn.o_proj.weight"] = checkpoint.read(here + "self_attention.linear_proj.weight")

    def unit(stem, fc1, fc2):
        gate, up = fc1.chunk(2)
        out.update({stem + ".gate_proj.weight": gate, stem + ".up_proj.weight": up, stem + ".down_proj.weight": fc2})

    read = lambda name: checkpoint.read(here + name)
    if here + "mlp.router.weight" not in checkpoint.tensors:
        out[there + "post_attention_layernorm.weight"] = read("mlp.linear_fc1.layer_norm_weight")
        unit(there + "mlp", read("mlp.linear_fc1.weight"), read("mlp.linear_fc2.weight"))
        return out
    out[there + "post_attention_layernorm.weight"] = read("pre_mlp_layernorm.weight")
    out[there + "mlp.gate.weight"] = read("mlp.router.weight")
    unit(there + "mlp.shared_experts", read("mlp.shared_experts.linear_fc1.weight"), read("mlp.shared_experts.linear_fc2.weight"))
    fc1, fc2 = read("mlp.experts.experts.linear_fc1.weight"), read("mlp.experts.experts.linear_fc2.weight")
    for e in range(len(fc1)):
        unit(there + f"mlp.experts.{e}", fc1[e], fc2[e])
    return out


def convert(source, tokenizer, target, *, heads=16, top_k=6, rope_theta=10000.0, norm_epsilon=1e-6, positions=2048):
    checkpoint = Checkpoint(source)
    numbers = {int(m[1]) for name in checkpoint.tensors if (m := re.match(r"decoder\.layers\.(\d+)\.", name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise Refused(f"{source}: layers are {sorted(numbers)}, expected 0, 1, ... (are they stacked in one tensor?)")
    layers = len(numbers)
    dense = [l for l in range(layers) if f"decoder.layers.{l}.mlp.router.weight" not in checkpoint.tensors]
    if dense != list(range(len(dense))) or len(dense) == layers:
        raise Refused(f"{source}: layers without a router are {dense}, expected the first ones")
    vocabulary, hidden = checkpoint.shape("embedding.word_embeddings.weight")
    moe = f"decoder.layers.{len(dense)}.mlp."
    experts, double_width = checkpoint.shape(moe + "experts.experts.linear_fc1.weight")[:2]
    shared = checkpoint.shape(moe + "shared_experts.linear_fc1.weight")[0]
    if shared % double_width:
        raise Refused(f"{source}: shared experts of {shared // 2} beside experts of {double_width // 2}")
    config = dict(
        model_type="flame_moe", num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads,
        num_key_value_heads=heads, vocab_size=vocabulary, n_routed_experts=experts, num_experts_per_tok=top_k,
        moe_intermediate_size=double_width // 2, n_shared_experts=shared // double_width, first_k_dense_replace=len(dense),
        max_position_embeddings=positions, rope_theta=rope_theta, rms_norm_eps=norm_epsilon, hidden_act="silu",
        tie_word_embeddings=False)
    if dense:
        config["intermediate_size"] = checkpoint.shape("decoder.layers.0.mlp.linear_fc1.weight")[0] // 2

    target = pathlib.Path(target)
    target.mkdir(parents=True)
    files = {}

    def save(name, tensors):
        save_file({k: v.contiguous() for k, v in tensors.items()}, target / name)
        files.update({k: name for k in tensors})

    save("embedding.safetensors", {"model.embed_tokens.weight": checkpoint.read("embedding.word_embeddings.weight")})
    for layer in range(layers):
        save(f"layer-{layer:05}.safetensors", layer_tensors(checkpoint, layer, heads))
        print(f"layer {layer + 1} of {layers}", file=sys.stderr)
    save("head.safetensors", {"model.norm.weight": checkpoint.read("decoder.final_layernorm.weight"),
                              "lm_head.weight": checkpoint.read("output_layer.weight")})
    config["torch_dtype"] = str(checkpoint.tensors["output_layer.weight"].properties.dtype).split(".")[1]
    shutil.copyfile(tokenizer, target / "tokenizer.json")
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}, indent=1))
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")  # last: without it the folder is no model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="the folder iter_XXXXXXX")
    parser.add_argument("tokenizer", help="tokenizer.json of EleutherAI/pythia-12b")
    parser.add_argument("target", help="a new folder")
    parser.add_argument("--heads", type=int, default=16, help="attention heads (default 16, as all released sizes)")
    parser.add_argument("--top-k", type=int, default=6, help="experts per token (default 6, as all released sizes)")
    a = parser.parse_args()
    try:
        convert(a.source, a.tokenizer, a.target, heads=a.heads, top_k=a.top_k)
    except (Refused, OSError) as error:
        sys.exit(f"flame_moe: {error}")


if __name__ == "__main__":
    main()
