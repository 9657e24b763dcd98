# SPDX-License-Identifier: Apache-2.0
"""Data sets with their scoring on the demo model, against the same computation written out with transformers."""
import gzip
import json
import math
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from conftest import DEMO, Trace, fail, succeed

ONE = ["--threads", 1]
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def reference():
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32, attn_implementation="eager").eval()
    words = Tokenizer.from_file(str(DEMO / "tokenizer.json"))

    def score(ids, first):
        """Nats of ids[first:], how many there are, whether each is the argmax."""
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        rows = range(first - 1, len(ids) - 1)
        return (-sum(log_p[t, ids[t + 1]].item() for t in rows), len(ids) - first,
                all(log_p[t].argmax().item() == ids[t + 1] for t in rows))

    def score_text(prompt, answer, longest=10**9):
        stripped = prompt.rstrip()
        ids, context = words.encode(prompt + answer).ids, words.encode(stripped).ids
        cut = max(0, len(ids) - longest)
        return score(ids[cut:], len(context) - cut)

    return score_text, score, lambda text: words.encode(text).ids


def scores(tmp_path, kind, lines, *arguments, name=None):
    path = tmp_path / (name or f"{kind}.jsonl")
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines))
    result = succeed(DEMO, "--data", f"{kind}:{path}", "-o", tmp_path / "t", *ONE, *arguments)
    data = json.loads((tmp_path / "t/scores.json").read_text())
    assert (data["format"], data["version"]) == ("moeroute.scores", 1)
    [entry] = data["data_sets"]
    assert entry["data_set"] == kind and entry["file"] == path.name
    assert f"n = {entry['n']} " in result.stdout and result.stdout.count("\n") == 1
    for name, value in entry["metrics"].items():
        assert f"{name.replace('_', ' ')} {value:.4f}" in result.stdout
    return entry, Trace(tmp_path / "t")


def agree(example, expected):
    nats, tokens, greedy = expected
    assert example["tokens"] == tokens
    assert abs(example["nats"] - nats) <= 1e-4 * max(1, tokens)
    assert example["greedy"] == greedy


PASSAGES = ["The cat sat on the mat and looked at the", "def add(a, b):\n    return a +  b", "Die Katze sitzt auf der Matte .",
            "One two three one two three one two three one two three", "a b"]


def test_lambada(reference, tmp_path):
    entry, trace = scores(tmp_path, "lambada", [{"text": t} for t in PASSAGES])
    expected = [reference[0](t[:t.rindex(" ")], t[t.rindex(" "):]) for t in PASSAGES]
    for example, e in zip(entry["examples"], expected, strict=True):
        agree(example, e)
    assert entry["n"] == len(PASSAGES) and any(e[2] for e in expected) != all(e[2] for e in expected)
    assert entry["metrics"]["accuracy"] == np.mean([e[2] for e in expected])
    assert math.isclose(entry["metrics"]["perplexity"], math.exp(np.mean([e[0] for e in expected])), rel_tol=1e-3)
    assert [d["labels"] for d in trace.documents] == [{"label": "lambada"}] * len(PASSAGES)
    assert [x["documents"] for x in entry["examples"]] == [[i] for i in range(len(PASSAGES))]


def test_a_long_prompt_loses_its_beginning(reference, tmp_path):
    text = " ".join(PASSAGES) + " end"
    entry, trace = scores(tmp_path, "lambada", [{"text": text}], "--max-tokens", 20)
    agree(entry["examples"][0], reference[0](text[:-4], text[-4:], longest=20))
    assert trace.manifest["run"]["documents_truncated"] == 1 and trace.documents[0]["tokens"] == 20
    assert trace.arrays[0]["token_ids"].tolist() == reference[2](text)[-20:]


def cleaned(text):
    """As in the task definitions of lm-evaluation-harness and OLMo."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub("\\[.*?\\]", "", text).replace("  ", " ")


HELLASWAG = [
    {"ind": 1, "activity_label": "Baking cookies", "ctx_a": "A woman puts dough on a tray.", "ctx_b": "she THEN",
     "ctx": "A woman puts dough on a tray. she THEN", "split_type": "indomain", "source_id": "activitynet~v",
     "endings": ["bakes it.", "sings a long song about the sea and the wind.", "is.", "goes Äöü."], "label": 1},
    {"ind": 2, "activity_label": "Health", "ctx_a": "[header] How to rest [title] Sleep. [step]", "ctx_b": "",
     "ctx": "", "endings": ["Close your eyes.  [substeps] Wait.", "Run", "Talk loudly to your cat", "Ääääääääääää"], "label": "3"},
]


def test_hellaswag(reference, tmp_path):
    entry, trace = scores(tmp_path, "hellaswag", HELLASWAG)
    right = [0, 0]
    for example, line in zip(entry["examples"], HELLASWAG, strict=True):
        prompt = cleaned(f"{line['activity_label']}: {line['ctx_a']} {line['ctx_b'].capitalize()}")
        endings = [cleaned(e) for e in line["endings"]]
        nats = [reference[0](prompt, " " + e)[0] for e in endings]
        assert np.allclose(example["nats"], nats, atol=1e-3) and example["characters"] == [len(e) for e in endings]
        choices = [int(np.argmin(nats)), int(np.argmin(np.array(nats) / [len(e) for e in endings]))]
        assert [example["choice"], example["choice_normalized"]] == choices and example["right"] == int(line["label"])
        assert choices[0] != choices[1], "these endings do not tell the two accuracies apart"
        right = [r + (c == int(line["label"])) for r, c in zip(right, choices)]
    assert [entry["metrics"][m] for m in ("accuracy", "accuracy_normalized")] == [r / 2 for r in right]
    assert [(d["id"], d["labels"]["passage"]) for d in trace.documents[3:5]] == [
        ("hellaswag:1/3", "hellaswag:1"), ("hellaswag:2/0", "hellaswag:2")]
    # The form of OLMo's evaluations: cleaned already.
    ready = [{"query": "A: b", "choices": ["c d", "e"], "gold": 1}]
    entry, _ = scores(tmp_path, "hellaswag", ready, "--overwrite")
    assert np.allclose(entry["examples"][0]["nats"], [reference[0]("A: b", " c d")[0], reference[0]("A: b", " e")[0]], atol=1e-3)


def test_wikitext(reference, tmp_path):
    """Articles in pieces of 32 tokens that overlap by one: every token but the first of an article is predicted once."""
    articles = [" \n = The Cat = \n \n The cat <unk> sat @-@ still . \n \n = = Life = = \n \n " + "It sat on the mat . " * 12 + "\n \n",
                " = Dog = \n \n A dog . \n"]
    entry, trace = scores(tmp_path, "wikitext", ["".join(articles)[:-1]], "--max-tokens", 32, name="wiki.test.tokens")
    assert entry["n"] == 2
    total = words = tokens = 0
    for example, text in zip(entry["examples"], [articles[0][2:], articles[1]], strict=True):
        ids, nats = reference[2](text), 0
        for first in range(0, len(ids) - 1, 31):
            nats += reference[1](ids[first:first + 32], 1)[0]
        assert abs(example["nats"] - nats) < 1e-4 * len(ids)
        assert (example["tokens"], example["words"]) == (len(ids) - 1, len(text.split()))
        total, words, tokens = total + nats, words + len(text.split()), tokens + len(ids) - 1
    assert len(entry["examples"][0]["documents"]) > 2 and trace.manifest["run"]["documents_truncated"] == 0
    assert math.isclose(entry["metrics"]["word_perplexity"], math.exp(total / words), rel_tol=1e-4)
    assert math.isclose(entry["metrics"]["token_perplexity"], math.exp(total / tokens), rel_tol=1e-4)
    assert (entry["tokens"], entry["words"]) == (tokens, words)
    assert {d["labels"]["passage"] for d in trace.documents} == {"wiki.test:2", f"wiki.test:{articles[0].count(chr(10)) + 1}"}


ANSWERS = {
    "gsm8k": ([{"question": "What is 2 + 2?", "answer": "It is 2+2=<<2+2=4>>4.\n#### 4"}, {"question": "1 + 1?", "answer": "#### 2"}],
              lambda x: (f"Question: {x['question']}\nAnswer:", " " + x["answer"])),
    "math": ([{"problem": "What is $1$?", "level": "Level 1", "type": "Algebra", "solution": "$\\boxed{1}$"}],
             lambda x: (f"Problem:\n{x['problem']}\n\nSolution:", " " + x["solution"])),
    "humaneval": ([{"task_id": "HumanEval/0", "prompt": "def f(x):\n    \"\"\" Double. \"\"\"\n", "entry_point": "f",
                    "canonical_solution": "    return 2 * x\n", "test": "def check(f): pass"}],
                  lambda x: (x["prompt"], x["canonical_solution"])),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers(reference, tmp_path, kind):
    lines, parts = ANSWERS[kind]
    entry, trace = scores(tmp_path, kind, lines)
    expected = [reference[0](*parts(x)) for x in lines]
    for example, e in zip(entry["examples"], expected, strict=True):
        agree(example, e)
    nats, tokens = sum(e[0] for e in expected), sum(e[1] for e in expected)
    assert math.isclose(entry["metrics"]["nats_per_answer"], nats / len(lines), rel_tol=1e-4)
    assert math.isclose(entry["metrics"]["nats_per_token"], nats / tokens, rel_tol=1e-4)
    assert entry["metrics"]["greedy_match"] == np.mean([e[2] for e in expected])
    text = "".join(parts(lines[0]))
    assert "".join(trace.documents[0]["pieces"]) == text
    extra = {"math": {"level": "Level 1", "type": "Algebra"}, "humaneval": {"task_id": "HumanEval/0"}}.get(kind, {})
    assert trace.documents[0]["labels"] == {"label": kind, **extra}


def test_mgsm_and_packed(reference, tmp_path):
    (tmp_path / "mgsm_de.tsv.gz").write_bytes(gzip.compress("Was ist 1 + 1?\t2\r\nUnd 10 + 10?\t20\n".encode()))
    succeed(DEMO, "--data", f"mgsm:{tmp_path / 'mgsm_de.tsv.gz'}", "-o", tmp_path / "t", *ONE)
    [entry] = json.loads((tmp_path / "t/scores.json").read_text())["data_sets"]
    agree(entry["examples"][0], reference[0]("Question: Was ist 1 + 1?\nAnswer:", " 2"))
    agree(entry["examples"][1], reference[0]("Question: Und 10 + 10?\nAnswer:", " 20"))
    assert Trace(tmp_path / "t").documents[1]["labels"] == {"label": "mgsm", "language": "de", "passage": "mgsm:2"}


def test_aqua(reference, tmp_path):
    line = {"question": "1 + 1?", "options": ["A)1", "B)2", "C)3"], "rationale": "x", "correct": "B"}
    entry, _ = scores(tmp_path, "aqua", [line], name="test.json")
    nats = [reference[0]("Question: 1 + 1?\nOptions:\nA)1\nB)2\nC)3\nAnswer:", " " + c)[0] for c in "ABC"]
    example = entry["examples"][0]
    assert np.allclose(example["nats"], nats, atol=1e-3) and example["choice"] == int(np.argmin(nats)) and example["right"] == 1
    assert entry["metrics"] == {"accuracy": float(np.argmin(nats) == 1)}


def test_several_sets_beside_texts(tmp_path):
    """Every set has its entry, in order; texts without scoring are in none."""
    lines = "".join(json.dumps({"text": t}) + "\n" for t in PASSAGES)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl").write_text(lines)
    (tmp_path / "q").write_text(json.dumps({"question": "?", "options": ["A)1", "B)2"], "correct": "A"}) + "\n")
    succeed(DEMO, tmp_path / "b.jsonl", "--data", f"lambada:{tmp_path / 'a.jsonl'}", "--data", f"aqua:{tmp_path / 'q'}", "--max-docs", 2,
            "-o", tmp_path / "t", "--label", "label=mine", *ONE)
    sets = json.loads((tmp_path / "t/scores.json").read_text())["data_sets"]
    assert [(s["data_set"], s["n"]) for s in sets] == [("lambada", 2), ("aqua", 1)]
    assert [x["documents"] for s in sets for x in s["examples"]] == [[2], [3], [4, 5]]
    trace = Trace(tmp_path / "t")
    assert {d["labels"]["label"] for d in trace.documents} == {"mine"}
    succeed(DEMO, tmp_path / "b.jsonl", "-o", tmp_path / "u", *ONE)
    assert not (tmp_path / "u/scores.json").exists()


@pytest.mark.parametrize("kind, line, words", [
    ("lambada", {"text": "word"}, ':1: field "text" does not end in a space and a word'),
    ("lambada", {"text": " word"}, ":1: the prompt has no tokens"),
    ("lambada", {"txt": "a b"}, ':1: has no "text"'), ("lambada", [1], ":1"), ("lambada", "{", ":1: is not valid JSON"),
    ("hellaswag", {**HELLASWAG[0], "label": ""}, "which says not which ending is right"),
    ("hellaswag", {**HELLASWAG[0], "label": 4}, "names the right answer 4 of 4"),
    ("hellaswag", {**HELLASWAG[0], "endings": ["a", "[x]"]}, ":1: has an empty answer"),
    ("gsm8k", {"question": "x", "answer": 4}, ":1.answer"), ("gsm8k", {"question": "x", "answer": ""}, "has an empty answer"),
    ("aqua", {"question": "x", "options": ["A)1"], "correct": "B"}, 'field "correct" names none of the options'),
    ("mgsm", "question without answer", ":1: is not question<tab>answer"),
    ("humaneval", {"prompt": "x", "task_id": "t"}, ':1: has no "canonical_solution"'),
    ("math", "PAR1...", "is parquet, which is not read"),
])
def test_what_is_not_in_the_published_form(tmp_path, kind, line, words):
    (tmp_path / "x").write_text((line if isinstance(line, str) else json.dumps(line)) + "\n")
    assert words in fail(1, DEMO, "--data", f"{kind}:{tmp_path / 'x'}", "-o", tmp_path / "t", *ONE)
    assert not (tmp_path / "t").exists()


def test_an_answer_that_does_not_fit(tmp_path):
    (tmp_path / "x").write_text(json.dumps({"question": "x", "answer": "one two three four five six seven eight"}) + "\n")
    assert "more than fit beside a prompt into 5" in fail(1, DEMO, "--data", f"gsm8k:{tmp_path / 'x'}", "--max-tokens", 5, "-o", tmp_path / "t", *ONE)
