# SPDX-License-Identifier: Apache-2.0
"""Times per item of throw-away programs that showed which speed a task can reach: on one thread, compiled for this machine.
What they print is read; a line that is missing is a task without a prototype."""
import pathlib
import re
import shutil
import subprocess
import tempfile

NUMBER = r"([0-9.]+(?:e[-+]?\d+)?)"


def kde(text):
    for n, block in re.findall(r"n=(\d+) m=10000 brute[^\n]*\n(.*?)(?=\nn=|\Z)", text, re.S):
        boxes = re.findall(rf"box .*total {NUMBER} ms  maxrel {NUMBER}", block)
        exact = [float(total) for total, error in boxes if float(error) <= 1e-12]
        if exact:
            yield ("kde_gaussian", int(n)), min(exact) * 1e6 / 10_000
        sort = re.search(rf"radix {NUMBER} ms.*prefix build {NUMBER} ms eval {NUMBER} ms", block)
        tail = re.search(rf"laplace two-pass recursion {NUMBER} ms", block)
        if sort:
            compact = sum(map(float, sort.groups())) * 1e6 / 10_000
            for kernel in ("epanechnikov", "tophat", "triangular", "biweight", "triweight", "cosine"):
                yield (f"kde_{kernel}", int(n)), compact
        if sort and tail:
            yield ("kde_exponential", int(n)), (float(sort[1]) + float(tail[1])) * 1e6 / 10_000


def survival(text):
    rows = re.findall(rf"build {NUMBER} ms: body max rel {NUMBER};.*scalar eval {NUMBER} us/pt", text)
    exact = [float(build) * 1e6 / 10_000 + float(us) * 1e3 for build, error, us in rows if float(error) <= 2e-12]
    if exact:
        yield ("kde_survival", 100_000), min(exact)


def lags(text):
    for key, pattern in ((("corrcoef", 128), "corrcoef 48x128 -> 48x48"), (("layer_order", 48), "max-lag permutation test 48 layers, 24 lags")):
        if found := re.search(rf"{pattern}: {NUMBER} us", text):
            yield key, float(found[1]) * 1e3


def stream(text):
    for task, sizes, pattern in (("moments", (1 << 24,), r"moments 1\.\.4"), ("histogram", (1 << 24,), r"hist 4096 bins, AVX512 index, [148] tables?"),
                                 ("streaming_kde bf16", (1 << 24,), "bf16 lossless"), ("coactivation", (64,), "co-activation via"),
                                 ("load uint8", (64,), "expert load counts")):
        best = [float(ns) for ns in re.findall(rf"{pattern}[^\n]*? {NUMBER} ns/val", text)]
        for n in sizes if best else ():
            yield (task, n), min(best)


def packed(text):
    if found := re.search(rf"{NUMBER} ns/val", text):
        yield ("streaming_kde float", 1 << 24), float(found[1])


def top_k(text):
    for e, top, half, log_sum in re.findall(rf"E=(\d+) .*top-8 {NUMBER} ns/row.*bf16 {NUMBER} ns/row.*logsumexp {NUMBER} ns/row", text):
        n = int(e)
        yield ("top_8 float", n), float(top)
        yield ("top_8 bf16", n), float(half)
        yield ("log_sum_exp", n), float(log_sum)
        yield ("softmax, top 8, renormalize", n), float(top) + float(log_sum)


PROGRAMS = (("proto_topk", top_k, []), ("proto_packed", packed, []), ("proto_stream", stream, []), ("proto_kde", kde, []),
            ("proto_sf", lambda text: [*survival(text), *lags(text)], ["-ffast-math"]))


def measure(folder, say):
    found = {}
    compiler = shutil.which("g++")
    if compiler is None:
        say("no g++: the prototypes are left out")
        return found
    with tempfile.TemporaryDirectory() as work:
        for name, read, flags in PROGRAMS:
            source, program = pathlib.Path(folder) / f"{name}.cpp", pathlib.Path(work) / name
            try:
                subprocess.run([compiler, "-O3", "-march=native", "-std=c++20", "-w", *flags, source, "-o", program], check=True, capture_output=True)
                text = subprocess.run([program], check=True, capture_output=True, text=True, timeout=300).stdout
            except (OSError, subprocess.SubprocessError) as error:
                say(f"prototype {source} left out: {type(error).__name__}")
                continue
            for key, ns in read(text):
                found[key] = min(ns, found.get(key, ns))
        say(f"{len(found)} tasks have a prototype")
    return found
