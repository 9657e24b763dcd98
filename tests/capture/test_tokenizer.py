# SPDX-License-Identifier: Apache-2.0
"""Ids of moeroute-capture against Hugging Face tokenizers, through `--tokenize`."""
import atexit
import functools
import json
import os
import pathlib
import random
import shutil
import tempfile
import time
import unicodedata

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from conftest import DEMO, REPOSITORY, SHARED, byte_tokenizer, fail, succeed

SEED = int(os.environ.get("MOEROUTE_TEST_SEED", random.randrange(1 << 30)))


def ours(folder, texts):
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts)
    out = succeed(folder, "-", "--tokenize", input=lines)
    return [json.loads(line) for line in out.stdout.split("\n")[:-1]]


def assert_same_ids(folder, texts, hf=None):
    """Compares every text, and says which is the first to differ."""
    hf = hf or Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [e.ids for e in hf.encode_batch(texts)]
    found = [line["ids"] for line in ours(folder, texts)]
    assert len(found) == len(texts)
    wrong = [(ascii(t), f, e) for t, f, e in zip(texts, found, expected) if f != e]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ (seed {SEED}), the first: {wrong[0]}"


@functools.cache
def alphabet():
    """What Unicode 14 assigns (both sides' tables share that), and its letters and numbers by the first word of their names,
    which is their script."""
    assigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    scripts = {}
    for c in assigned:
        if unicodedata.category(c)[0] in "LMN":
            scripts.setdefault(unicodedata.name(c, "NONE").split()[0].split("-")[0], []).append(c)
    return assigned, [c for c in assigned if unicodedata.combining(c)], [s for s in scripts.values() if len(s) > 5]


EMOJI = ["\U0001F600", "\U0001F469\u200D\U0001F4BB", "\U0001F3F3\uFE0F\u200D\U0001F308", "\U0001F44D\U0001F3FD", "1\uFE0F\u20E3",
         "\U0001F1E9\U0001F1EA", "\u2764\uFE0F", "\U0001FAE0", "\U0001F9D1\U0001F3FB\u200D\U0001F91D\u200D\U0001F9D1\U0001F3FF"]
FRAGMENTS = [" ", "  ", "   ", "\n", "\r\n", "\r", "\t", "'s", "'LL", "don't", "\u0301", "가", "각", "ᄀ", "ᅡ", "ᆨ", "é",
             "e\u0301", "\u1e9b\u0323", "𝟘", "½", "Ⅷ", "👨‍👩‍👧", "🇰🇷", "\u180e", "\u200d", "\ufeff", "\ufffd",
             "<|endoftext|>", "|||IP_ADDRESS|||", "<|endo", "\x00", "\x1c", "\x7f", "\x85", "\u00a0", "\u2028",
             "\u3000", " " * 4, " " * 23, " " * 50, "abc", "XYZ", "123", "，", "。", "漢字", "かな", "カﾞ", "الله",
             "हिन्दी", "ไทย",
             "\u0344", "\u212b", "豈"]


def random_texts(count):
    """All scripts, in words and in soup; marks, emoji, control characters, every kind of line end."""
    rng = random.Random(SEED)
    assigned, marks, scripts = alphabet()
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(1, 40)):
            kind = rng.random()
            if kind < 0.35:
                parts.append(rng.choice(FRAGMENTS))
            elif kind < 0.5:
                parts.append("".join(rng.choices(rng.choice(scripts), k=rng.randrange(1, 7))) + rng.choice(["", " ", "\n"]))
            elif kind < 0.65:
                parts.append(rng.choice(assigned))
            elif kind < 0.75:
                parts.append(rng.choice(marks))
            elif kind < 0.8:
                parts.append(rng.choice(EMOJI))
            elif kind < 0.85:
                parts.append("".join(rng.choices(["\n", "\r", "\r\n", "\t", " ", "\x0b", "\x85", "\u2029"], k=rng.randrange(1, 5))))
            elif kind < 0.88:
                parts.append(chr(rng.choice([*range(32), *range(0x7f, 0xa0)])))
            else:
                parts.append(chr(rng.randrange(32, 127)) * rng.randrange(1, 4))
        texts.append("".join(parts))
    return texts


@pytest.mark.parametrize("family", ["olmoe", "qwen3", "deepseek_v3", "mixtral"])
def test_golden_ids(family):
    folder = SHARED / "data/tokenizers" / family
    if not folder.exists():
        pytest.skip(f"{folder} is not there; MOEROUTE_SHARED names the folder")
    texts = {j["id"]: j["text"] for j in map(json.loads, open(folder.parent / "texts.jsonl", encoding="utf-8"))}
    golden = {j["id"]: j["ids"] for j in map(json.loads, open(folder / "golden_ids.jsonl", encoding="utf-8"))}
    names = [name for name in golden if texts[name]]  # an empty document is refused before it is tokenized
    assert len(names) >= len(texts) - 1 > 40
    bos = {"deepseek_v3": [0], "mixtral": [1]}.get(family, [])  # the files ask for it, the golden ids are without
    for name, line in zip(names, ours(folder, [texts[n] for n in names]), strict=True):
        assert line["ids"] == bos + golden[name], name


def folders():
    for folder in (DEMO, SHARED / "data/tokenizers/olmoe"):
        missing = not (folder / "tokenizer.json").exists()
        yield pytest.param(folder, id=folder.name, marks=pytest.mark.skipif(missing, reason=f"{folder} is not there"))


@pytest.mark.parametrize("folder", list(folders()))
def test_random_texts(folder):
    print("seed", SEED)
    assert_same_ids(folder, random_texts(5000))


# The regular expressions of the families, models.md section 10, as their files have them; every one with a normalizer of its
# own, so that all of those are met with every kind of text.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORDS = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|NUMBERS| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
         rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{TAIL}")
PATTERNS = {
    "qwen": (["NFC"], [WORDS.replace("NUMBERS", r"\p{N}")], {}),
    "llama3": ([], [WORDS.replace("NUMBERS", r"\p{N}{1,3}")], {"ignore_merges": True}),
    "o200k": (["NFD"], [O200K], {"ignore_merges": True}),
    "deepseek_v3": (["NFKC"], [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", DEEPSEEK], {}),
    "deepseek_v2": (["NFKD"], ["[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
                               "[一-龥ࠀ-一가-퟿]+", None], {}),
    "dolma2": (["NFC", "NFKC"], [("removed", WORDS.replace("NUMBERS", r"\p{N}{1,3}"))], {}),
}


def example_lines():
    return [json.loads(line)["text"] for f in sorted((REPOSITORY / "examples/texts").glob("*.jsonl"))
            for line in f.read_text(encoding="utf-8").splitlines()]


@functools.cache
def trained(name):
    """The pattern with a vocabulary of its own, in a folder."""
    from tokenizers import trainers
    forms, patterns, options = PATTERNS[name]
    t = Tokenizer(models.BPE(**options))
    if forms:
        t.normalizer = normalizers.Sequence([getattr(normalizers, f)() for f in forms])
    steps = [pre_tokenizers.Digits(individual_digits=True) if p is None else
             pre_tokenizers.Split(Regex(p[1]), p[0], True) if isinstance(p, tuple) else pre_tokenizers.Split(Regex(p), "isolated")
             for p in patterns]
    t.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(example_lines(), trainers.BpeTrainer(
        vocab_size=2500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=20,
        special_tokens=["<|endoftext|>"]))
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return saved(folder, t)


def every_kind():
    """Folder, by name, of each kind of tokenizer: the patterns above, and the real files where they are."""
    for name in PATTERNS:
        yield pytest.param(functools.partial(trained, name), id=name)
    for folder in (DEMO, *(SHARED / "data/tokenizers" / f for f in ("olmoe", "qwen3", "deepseek_v3", "mixtral"))):
        missing = not (folder / "tokenizer.json").exists()
        yield pytest.param(lambda folder=folder: folder, id="real " + folder.name,
                           marks=pytest.mark.skipif(missing, reason=f"{folder} is not there"))


@functools.cache
def many_texts(count):
    return random_texts(count)


def assert_same_ids_without_template(folder, texts):
    """The begin token of tokenizer_config.json and of a template is the business of other tests."""
    hf = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = [line["ids"] for line in ours(folder, texts)]
    expected = [e.ids for e in hf.encode_batch(texts, add_special_tokens=False)]
    wrong = []
    for text, f, e in zip(texts, found, expected, strict=True):
        if f != e and f[1:] != e:
            wrong.append((ascii(text), f, e))
    assert not wrong, f"{len(wrong)} of {len(texts)} differ (seed {SEED}), the first: {wrong[0]}"


@pytest.mark.parametrize("folder", list(every_kind()))
def test_random_texts_of_every_kind(folder):
    print("seed", SEED)
    assert_same_ids_without_template(folder(), many_texts(1500))


@pytest.mark.slow
@pytest.mark.parametrize("folder", list(every_kind()))
def test_100000_random_texts_of_every_kind(folder):
    print("seed", SEED)
    for begin in range(0, 100_000, 20_000):
        assert_same_ids_without_template(folder(), many_texts(100_000)[begin:begin + 20_000])


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normal_forms(tmp_path, form):
    """Every code point with a decomposition and every mark, alone and between letter and mark."""
    assigned, marks, _ = alphabet()
    points = [c for c in assigned if unicodedata.decomposition(c) or unicodedata.combining(c) or unicodedata.normalize("NFKD", c) != c]
    assert len(points) > 17_000
    texts = ["|".join(part) + "|" + "|".join(f"a\u0301{c}\u0323b" for c in part)
             for part in (points[i:i + 50] for i in range(0, len(points), 50))]
    t = byte_level()
    t.normalizer = getattr(normalizers, form)()
    assert_same_ids(saved(tmp_path, t), texts + random_texts(300), t)


@pytest.mark.parametrize("folder", list(folders()))
def test_example_texts(folder):
    assert_same_ids(folder, example_lines())


def edited(folder, **changes):
    """A small tokenizer whose sections are replaced; a function gets the old section."""
    folder.mkdir(exist_ok=True)
    byte_tokenizer(folder)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    for key, change in changes.items():
        data[key] = change(data[key]) if callable(change) else change
    path.write_text(json.dumps(data))
    return folder


def saved(folder, tokenizer):
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def byte_level(**options):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "a"), ("aa", "a"), ("e", "r")]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    for word in options.pop("words", []):
        vocab[word] = len(vocab)
    t = Tokenizer(models.BPE(vocab, merges, **options))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return t


def variants():
    def prefix_space(t):
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)

    def no_regex(t):
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def split(pattern, behavior, invert=False):
        def change(t):
            t.pre_tokenizer = pre_tokenizers.Sequence([
                pre_tokenizers.Split(pattern, behavior, invert),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        return change

    def template(t):
        t.add_special_tokens(["<s>", "</s>"])
        around = [(token, t.token_to_id(token)) for token in ("<s>", "</s>")]
        t.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)])

    def added(t):
        from tokenizers import AddedToken
        t.normalizer = normalizers.Sequence([normalizers.NFC()])
        t.add_tokens([AddedToken("abc", single_word=True, normalized=False),
                      AddedToken("XYZ", lstrip=True, normalized=False), AddedToken("123", rstrip=True, normalized=True),
                      AddedToken("e\u0301", normalized=True), AddedToken("don", normalized=False),
                      AddedToken("don't", normalized=False), AddedToken("    ", normalized=True)])

    yield "prefix space", {}, prefix_space
    yield "no regex", {}, no_regex
    yield "split isolated", {}, split(Regex(r"\p{N}{1,3}|\s+(?!\S)|[^\s\p{L}]+"), "isolated")
    yield "split removed", {}, split(Regex(r"[\s\p{P}]+"), "removed")
    yield "split removed inverted", {}, split(Regex(r"(?i:'s|'ll)|\p{L}+|\p{N}"), "removed", True)
    yield "split string", {}, split("a.", "isolated")
    yield "split script", {}, split(Regex(r"\p{Han}+|\P{Hangul}"), "isolated")
    yield "template", {}, template
    yield "added tokens", {}, added
    yield "whole words", {"ignore_merges": True, "words": ["Ġabc", "XYZ", "ererer", "aaaaa"]}, lambda t: None


@pytest.mark.parametrize("name, options, change", list(variants()), ids=lambda v: v if isinstance(v, str) else "")
def test_kinds(tmp_path, name, options, change):
    t = byte_level(**options)
    change(t)
    texts = random_texts(800) + [
        "a" * 203, "zq" * 20 + "aaaaa" + "zq" * 20, "abc", "xabc abcx abc,", "  XYZ  123   abc", "123 XYZ", "the the other aaaaaaaaaaaa aaa. a.a.b",
        "don't done don'", "ererer er", "123    x", "XYZ    XYZ", "\u0301abc", "漢字カナ한글ー々〆"]
    assert_same_ids(saved(tmp_path, t), texts, t)


def sentencepiece(fallback=True, **options):
    """Characters, merges over them and, as in Llama, tokens for the bytes of all other characters."""
    words = ["▁the", "the", "▁", "▁▁", "▁a", "ab", "er", "ther", "한국", "é", "▁rou", "ting"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    if fallback:
        vocab |= {f"<0x{b:02X}>": len(vocab) + b for b in range(256)}
    for c in sorted(set("".join(words)) | set("abcdefghijklmnopqrstuvwxyz.,0123ABC漢字かな가각")):
        vocab.setdefault(c, len(vocab))
    merges = []
    for w in words:
        for i in range(2, len(w) + 1):
            if w[:i] not in vocab:
                vocab[w[:i]] = len(vocab)
                merges.append((w[:i - 1], w[i - 1]))
    return Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=fallback, **options))


def sentencepiece_variants():
    def llama(t):
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])

    def metaspace(scheme, split):
        def change(t):
            t.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split)
        return change

    def added(t):
        from tokenizers import AddedToken
        llama(t)
        t.add_special_tokens(["<s>", "</s>"])
        t.add_tokens([AddedToken("abc", normalized=True), AddedToken("XYZ", normalized=False, lstrip=True)])
        t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])

    def added_first(t):
        t.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", False)
        t.add_special_tokens(["<s>", "</s>"])

    yield "prepend and replace", {}, llama
    yield "prepend and replace, fused unknown", {"fuse_unk": True}, llama
    yield "no fallback", {"fallback": False}, llama
    yield "no fallback, fused unknown", {"fallback": False, "fuse_unk": True}, llama
    yield "added tokens", {"fuse_unk": True}, added
    yield "metaspace first", {"fuse_unk": True}, metaspace("first", False)
    yield "metaspace first, added tokens", {"fuse_unk": True}, added_first
    yield "metaspace always, split", {}, metaspace("always", True)
    yield "metaspace never", {}, metaspace("never", True)
    yield "ignore merges", {"ignore_merges": True}, metaspace("always", True)


@pytest.mark.parametrize("name, options, change", list(sentencepiece_variants()),
                         ids=lambda v: v if isinstance(v, str) else "")
def test_sentencepiece(tmp_path, name, options, change):
    t = sentencepiece(**options)
    change(t)
    texts = random_texts(800) + ["the routing", " the", "  the  routing ", "▁the", "a▁b", "abc the abcabc", "XYZ  XYZ a",
                                 "<s>the</s> the", "the<s>", "한국어", "🙂🙂", "é e\u0301", "a\nb", "ther ther"]
    assert_same_ids(saved(tmp_path, t), [x for x in texts if x], t)


@pytest.mark.parametrize("whole", [False, True], ids=["merges", "whole words"])
def test_sentencepiece_trained(tmp_path, whole):
    """As Mixtral's and Phi's: thousands of merges of a real text, the whole text one word; one long line too. Where whole
    words go before merges, no line is cut."""
    from tokenizers import trainers
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>", ignore_merges=whole))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    lines = example_lines()
    trainer = trainers.BpeTrainer(vocab_size=3000, show_progress=False, max_token_length=16,
                                  special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])
    t.train_from_iterator((w for line in lines for w in line.split(" ")), trainer)
    assert_same_ids(saved(tmp_path, t), lines + random_texts(1000) + [" ".join(lines), " ".join(lines) * 20], t)


@pytest.mark.parametrize("single", [True, False])
def test_digits(tmp_path, single):
    """As Granite's: digits apart, then bytes."""
    t = byte_level()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=single),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert_same_ids(saved(tmp_path, t), random_texts(500) + ["12 345", "a1b22", "½Ⅷ𝟘"], t)


def test_merges_as_strings_and_as_pairs(tmp_path):
    def written(change):
        return lambda m: m | {"merges": [change(*(x.split(" ") if isinstance(x, str) else x)) for x in m["merges"]]}

    pairs = edited(tmp_path / "pairs", model=written(lambda a, b: [a, b]))
    strings = edited(tmp_path / "strings", model=written(lambda a, b: f"{a} {b}"))
    texts = random_texts(50)
    assert [l["ids"] for l in ours(pairs, texts)] == [l["ids"] for l in ours(strings, texts)]


def test_begin_and_end_tokens_of_the_config(tmp_path):
    folder = edited(tmp_path)
    plain = ours(folder, ["the"])[0]["ids"]
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "add_bos_token": True, "bos_token": {"content": "<|endoftext|>"},
        "add_eos_token": False, "eos_token": "<|endoftext|>"}))
    assert ours(folder, ["the"])[0]["ids"] == [0] + plain


def test_missing_bytes_follow_the_unknown_token(tmp_path):
    """A vocabulary without some bytes: left out, as in the reference, or the unknown token, fused or not."""
    vocab = {"a": 0, "b": 1, "Ġ": 2, "<unk>": 3, "ab": 4}
    for options in ({}, {"unk_token": "<unk>"}, {"unk_token": "<unk>", "fuse_unk": True}):
        t = Tokenizer(models.BPE(vocab, [("a", "b")], **options))
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        assert_same_ids(saved(tmp_path, t), ["ab ba", "abcdab", "aéb", "a가나b c"], t)
    # A character of which some bytes are there.
    for fuse in (False, True):
        t = Tokenizer(models.BPE({"a": 0, "<unk>": 1, "<0xC3>": 2}, [], unk_token="<unk>", byte_fallback=True, fuse_unk=fuse))
        assert_same_ids(saved(tmp_path, t), ["aéa", "éé", "aÃa"], t)


def test_a_merge_that_makes_a_symbol(tmp_path):
    """Out of nothing and an a, which happens nowhere: where an a begins must not be looked for in the merge."""
    t = Tokenizer(models.BPE({"<unk>": 0, "": 1, "a": 2, "b": 3, "ba": 4}, [("", "a"), ("b", "a")], unk_token="<unk>"))
    assert_same_ids(saved(tmp_path, t), ["ba", "b" * 40 + "a" + "b" * 40], t)


def test_merges_of_wholes_before_those_of_their_parts(tmp_path):
    """A chain so long that where to cut a text stays unknown."""
    word = "".join(chr(0x4E00 + i) for i in range(120))
    wholes = [word[:n] for n in range(120, 1, -1)]
    vocab = {token: i for i, token in enumerate(["<unk>", "y", *word, *wholes, "y" + word])}
    t = Tokenizer(models.BPE(vocab, [("y", word), *((w[:-1], w[-1]) for w in wholes)], unk_token="<unk>"))
    assert_same_ids(saved(tmp_path, t), ["y" + word, word + "y" + word, word[:-1] + word], t)


def test_pieces_are_printable(tmp_path):
    folder = edited(tmp_path)
    line = ours(folder, ["the é 가\n<|endoftext|>"])[0]
    assert len(line["pieces"]) == len(line["ids"])
    assert line["pieces"][0] == "the" and line["pieces"][-1] == "<|endoftext|>" and "\n" in line["pieces"]
    assert any("\ufffd" in p for p in line["pieces"])  # a byte of a character alone


LONG = ["a" * 1_000_000, " " * 1_000_000, "가" * 300_000, "x y" * 300_000, "\u0301\u0323" * 250_000, "\n" * 1_000_000,
        "e\u0301" * 300_000]


@pytest.mark.parametrize("text", LONG, ids=lambda t: ascii(t[:3]))
def test_one_long_line_takes_linear_time(tmp_path, text):
    folder = edited(tmp_path)
    start = time.process_time(), os.times().children_user
    line = ours(folder, [text])[0]
    seconds = os.times().children_user - start[1]
    assert seconds < 10, f"{seconds:.1f} s"
    assert line["ids"] == Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


@pytest.mark.parametrize("key, change, place", [
    ("model", lambda m: m | {"type": "Unigram"}, "model.type: \"Unigram\" is not built yet"),
    ("model", lambda m: m | {"byte_fallback": True}, "model.byte_fallback: together with ByteLevel"),
    ("model", lambda m: m | {"end_of_word_suffix": "</w>"}, "model.end_of_word_suffix"),
    ("model", lambda m: m | {"merges": ["t h e"]}, "model.merges[0]"),
    ("model", lambda m: m | {"merges": [["t", "nowhere"]]}, "model.merges[0]"),
    ("model", lambda m: m | {"vocab": {"a": -1}}, "model.vocab.a"),
    ("model", lambda m: m | {"vocab": {"a": 1 << 60}}, "model.vocab.a"),
    ("normalizer", {"type": "Lowercase"}, "normalizer.type: \"Lowercase\" is not built yet; known: NFC, NFD, NFKC, NFKD"),
    ("pre_tokenizer", {"type": "Metaspace"}, "pre_tokenizer: has no \"replacement\""),
    ("pre_tokenizer", {"type": "UnicodeScripts"}, "pre_tokenizer.type: \"UnicodeScripts\" is not built yet"),
    ("pre_tokenizer", None, "model: has neither \"byte_fallback\" nor \"unk_token\""),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}, "normalizer.pattern: only \"String\""),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated"}, r"\w is not supported"),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": r"[a&&b]"}, "behavior": "Isolated"}, "&&"),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": r"(a"}, "behavior": "Isolated"}, "pre_tokenizer.pattern"),
    ("pre_tokenizer", {"type": "Split", "pattern": {"String": "a"}, "behavior": "MergedWithNext"},
     "pre_tokenizer.behavior"),
    ("post_processor", {"type": "BertProcessing"}, "post_processor.type: \"BertProcessing\""),
    ("added_tokens", [{"id": 1}], "added_tokens[0]: has no \"content\""),
])
def test_unknown_kinds_are_refused(tmp_path, key, change, place):
    folder = edited(tmp_path, **{key: change})
    message = fail(1, folder, "--text", "x", "--tokenize")
    assert "tokenizer.json" in message and place in message, message


def test_broken_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", ')
    message = fail(1, tmp_path, "--text", "x", "--tokenize")
    assert "tokenizer.json:byte 26: is not valid JSON" in message
    (tmp_path / "tokenizer.json").unlink()
    assert "No such file" in fail(3, tmp_path, "--text", "x", "--tokenize")
