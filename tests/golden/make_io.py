# SPDX-License-Identifier: Apache-2.0
"""Golden values and files for core/scalar and io/*: writes tests/golden/io.json and tests/golden/io/.

`make_io.py --check npy FOLDER`, `--check npz FOLDER` and `--check safetensors FOLDER` read, with numpy and the safetensors package, the
files that the C++ tests wrote there and compare them with what they must hold; io/{npy,npz,safetensors}_test.cpp run it when a Python with
these packages is at hand.
"""
import hashlib
import json
import pathlib
import sys

import numpy as np
import safetensors
import safetensors.numpy


def pattern(n, kind):
    """What the C++ tests put into their arrays: i*i - 7i, as that type holds it."""
    i = np.arange(n, dtype=np.int64)
    return (i * i - 7 * i).astype(kind)


def check_npy(folder):
    for name, kind, shape in (("f4", "<f4", (3, 4)), ("f8", "<f8", (2, 3, 4)), ("i2", "<i2", (5,)), ("u1", "|u1", (0, 3)), ("i8", "<i8", ()), ("u8", "<u8", (1, 1))):
        x = np.load(folder / f"{name}.npy", allow_pickle=False)
        assert x.dtype == np.dtype(kind) and x.shape == shape, (name, x.dtype, x.shape)
        assert np.array_equal(x.flatten(), pattern(x.size, kind)), name


def check_npz(folder):
    import zipfile
    path = folder / "a.npz"
    assert zipfile.ZipFile(path).testzip() is None  # every CRC
    with np.load(path, allow_pickle=False) as f:
        assert f.files == ["x", "cdf", "scalar", "empty"], f.files
        for name, kind, shape in (("x", "<f8", (3, 4)), ("cdf", "<f4", (5,)), ("scalar", "<i8", ()), ("empty", "|u1", (0, 3))):
            assert f[name].dtype == np.dtype(kind) and f[name].shape == shape, (name, f[name].dtype, f[name].shape)
            assert np.array_equal(f[name].flatten(), pattern(f[name].size, kind)), name


def check_safetensors(folder):
    with safetensors.safe_open(folder / "written.safetensors", "np") as f:
        assert f.metadata() == {"made by": "moeroute", "mark": "ü\n\""}, f.metadata()
        assert sorted(f.keys()) == ["bytes", "empty", "f32", "f64", "i16", "ids/ü", "scalar"], f.keys()
        for name, kind, shape in (("f32", "f4", (3, 4)), ("f64", "f8", (7,)), ("i16", "i2", (5, 1)), ("ids/ü", "i8", (3,)), ("bytes", "u1", (3,)), ("scalar", "i4", ()), ("empty", "f4", (0, 4))):
            x = f.get_tensor(name)
            assert x.dtype == np.dtype(kind) and x.shape == shape, (name, x.dtype, x.shape)
            assert np.array_equal(x.flatten(), pattern(x.size, kind)), name


if len(sys.argv) == 4 and sys.argv[1] == "--check":
    {"npy": check_npy, "npz": check_npz, "safetensors": check_safetensors}[sys.argv[2]](pathlib.Path(sys.argv[3]))
    sys.exit()

import torch  # noqa: E402  (only to make the golden values)

rng = np.random.default_rng(20240613)


def fnv(words):
    h = 0xCBF29CE484222325
    for byte in words.astype("<u4").tobytes():
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return str(h)


def widened(x):
    bits = x.astype(np.float32).view(np.uint32).copy()
    bits[np.isnan(x)] = 0x7FC00000
    return bits


every = np.arange(65536, dtype=np.uint16)
as_f16 = every.view(np.float16).astype(np.float32)
as_bf16 = torch.from_numpy(every.view(np.int16).copy()).view(torch.bfloat16).float().numpy()

# Around every exponent: exact values, ties, and their neighbours.
patterns = set()
for exponent in range(256):
    for fraction in (0, 1, 0xFFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x7FF000, 0x7F8000):
        for sign in (0, 1):
            patterns.add(sign << 31 | exponent << 23 | fraction)
patterns = sorted(p for p in patterns if not (p & 0x7FFFFFFF) > 0x7F800000)
x = np.array(patterns, dtype=np.uint32).view(np.float32)
with np.errstate(over="ignore"):
    to_f16 = x.astype(np.float16).view(np.uint16)
to_bf16 = torch.from_numpy(x.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
rounded = [[int(p), int(a), int(b)] for p, a, b in zip(patterns, to_f16, to_bf16)]

hashes = []
for n in (0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 1000, 70000):
    hashes.append([n, hashlib.sha256(bytes((i * 31 + 7) % 251 for i in range(n))).hexdigest()])

folder = pathlib.Path(__file__).with_name("io")
folder.mkdir(exist_ok=True)
np.save(folder / "f4.npy", pattern(12, "f4").reshape(3, 4))
np.save(folder / "i2.npy", pattern(5, "i2"))
np.save(folder / "u1_empty.npy", pattern(0, "u1").reshape(0, 3))
np.save(folder / "scalar.npy", np.float64(-6.0))
np.save(folder / "fortran.npy", np.asfortranarray(pattern(12, "f4").reshape(3, 4)))
np.save(folder / "big_endian.npy", pattern(3, ">f4"))
with open(folder / "version2.npy", "wb") as f:
    np.lib.format.write_array(f, pattern(6, "f8").reshape(2, 3), version=(2, 0))
safetensors.numpy.save_file({"f32": pattern(12, "f4").reshape(3, 4), "i16": pattern(5, "i2"), "half": pattern(4, "f2"), "scalar": pattern(1, "i8").reshape(()),
                             "empty": pattern(0, "f8").reshape(0, 4), "bools": np.array([True, False])},
                            folder / "python.safetensors", metadata={"key": "välue"})

versions = {"numpy": np.__version__, "torch": torch.__version__, "safetensors": safetensors.__version__, "python": sys.version.split()[0]}
golden = {"made_by": "tests/golden/make_io.py", "versions": versions,
          "scalar": {"f16_widened": fnv(widened(as_f16)), "bf16_widened": fnv(widened(as_bf16)), "rounded": rounded}, "sha256": hashes}
path = pathlib.Path(__file__).with_name("io.json")
path.write_text(json.dumps(golden) + "\n")
print(path.name, versions)
