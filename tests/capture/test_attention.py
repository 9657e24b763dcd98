# SPDX-License-Identifier: Apache-2.0
"""--attention: every way to compute it agrees with transformers, or is refused with the reason."""
import functools

import numpy as np
import pytest

from conftest import Trace, fail, succeed, write_documents
from reference import compare, load_reference
from test_families import made

WINDOWS = ("qwen3_moe", "window, yarn")
SINKS = ("gpt_oss", "plain")
CASES = [("mixtral", "plain"), ("mixtral", "window, tied, wide heads"), WINDOWS, ("granitemoe", "multipliers"),
         ("deepseek_v2", "groups, yarn"), ("deepseek_v3", "one group, direct q, not renormalised"), SINKS]
# Longer than a block of queries and than every window, beside short ones.
TEXTS = ["routing of experts " * 40, "a", "one short document", "another text that is a little longer than the other " * 3]
REFUSED = {"sdpa": (SINKS,), "flash": (SINKS, WINDOWS, ("mixtral", "window, tied, wide heads"))}


@functools.cache
def captured(case, way):
    folder, _ = made(case)
    write_documents(folder / "long.jsonl", TEXTS)
    out = folder / f"trace-{way}"
    succeed(folder, folder / "long.jsonl", "-o", out, "--threads", 1, "--attention", way)
    return Trace(out)


@pytest.mark.parametrize("way", ["auto", "eager", "sdpa", "flash"])
@pytest.mark.parametrize("case", CASES, ids=": ".join)
def test_agrees_with_transformers(case, way, tmp_path):
    folder, _ = made(case)
    if case in REFUSED.get(way, ()):
        line = fail(2, folder, "--text", "a", "-o", tmp_path / "t", "--attention", way)
        assert f"--attention {way}: " in line and ("sinks" if case == SINKS else "sliding window") in line
        assert not (tmp_path / "t").exists()
        return
    trace = captured(case, way)
    assert max(len(a["token_ids"]) for a in trace.arrays) > 128
    difference = compare(trace, load_reference(folder))
    assert difference.agrees(), difference
    assert trace.manifest["run"]["attention"] == ({SINKS: "eager"}.get(case, "sdpa") if way == "auto" else way)


@pytest.mark.parametrize("case", [c for c in CASES if c != SINKS], ids=": ".join)
def test_the_option_is_heard(case):
    """Two orders of the same sum round otherwise; the same bytes would mean that the same code ran."""
    eager, fused = captured(case, "eager"), captured(case, "sdpa")
    assert any(not np.array_equal(a[name], b[name]) for a, b in zip(eager.arrays, fused.arrays) for name in a
               if name.endswith(".logits"))


def test_flash_needs_its_kernel(tiny, tmp_path):
    """The kernel is asked for, not guessed: on the CPU libtorch has one for these types."""
    for dtype in ("float32", "bfloat16", "float16"):
        succeed(tiny, "--text", "the routing of experts", "-o", tmp_path / dtype, "--attention", "flash", "--dtype", dtype)
        assert Trace(tmp_path / dtype).manifest["run"]["attention"] == "flash"


def test_unknown_word(tiny, tmp_path):
    assert "--attention fast: expected auto, eager, sdpa or flash" in fail(
        2, tiny, "--text", "a", "-o", tmp_path / "t", "--attention", "fast")


def test_resuming_in_another_way_is_refused(tiny, tmp_path):
    arguments = [tiny, "--text", "the routing of experts", "-o", tmp_path / "t"]
    succeed(*arguments, "--attention", "eager")
    assert "run.attention" in fail(1, *arguments, "--resume")
