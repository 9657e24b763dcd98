"""Build the corpus of the demo model from Debian 12 documentation packages: `corpus.py -o corpus/`.

Downloads the packages with `apt-get download` (no root, nothing is installed), unpacks them with
`dpkg-deb -x` into a temporary folder, and writes `debian_{en,ko,ja,de,zh,code}.jsonl` with one
document a line: lang, source, id, text. The id names the document without its language, so that a
document and its translations carry the same id. `packages.json` says what every package gave.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from data import LABELS, corpus_file

SMALLEST_DOCUMENT = 80  # characters; below it there is a title and little else
SMALLEST_FILE, LARGEST_FILE = 300, 60_000  # bytes of a source file: no stubs, no generated tables


@dataclass(frozen=True)
class Package:
    name: str
    source: str  # first part of the document ids
    licence: str  # as the package's copyright file states it for the texts
    path: str  # regular expression of the paths to read; group `id`, and group `lang` if it has several
    kind: str = "html"
    label: str | None = None  # where the whole package has one label
    languages: tuple[tuple[str, str], ...] = ()  # (what group `lang` says, label)


def language_packages(name: str, source: str, licence: str, path: str, names: dict[str, str], kind="html"):
    return [
        Package(name.format(package), source, licence, path, kind, label) for label, package in names.items()
    ]


GPL2 = "GPL-2"
GPL2_PLUS = "GPL-2+"
MAN = r"usr/share/man/(?:{}/)?man\d/(?P<id>[^/]+\.\d)[a-z]*\.gz"
# What Debian calls the languages, where one package holds them all.
LANGUAGES = tuple({"en": "en", "en-US": "en", "C": "en", "ko": "ko", "ko-KR": "ko", "ja": "ja", "ja-JP": "ja",
                   "de": "de", "de-DE": "de", "zh_CN": "zh", "zh-CN": "zh"}.items())

PACKAGES = [
    *language_packages("libreoffice-help-{}", "libreoffice-help", "MPL-2.0",
                       r"usr/share/libreoffice/help/[^/]+/(?P<id>text/.+\.html)",
                       {"en": "en-us", "ko": "ko", "ja": "ja", "de": "de", "zh": "zh-cn"}),
    *language_packages("gimp-help-{}", "gimp-help", "GFDL-NIV-1.2+",
                       r"usr/share/gimp/2\.0/help/[^/]+/(?P<id>[^/]+\.html)",
                       {"en": "en", "ko": "ko", "ja": "ja"}),
    *language_packages("debian-reference-{}", "debian-reference", GPL2_PLUS,
                       r"usr/share/debian-reference/(?P<id>[a-z]+\d*)\.[^/]+\.html",
                       {"en": "en", "ja": "ja", "de": "de", "zh": "zh-cn"}),
    *language_packages("debian-faq{}", "debian-faq", "permission notice (copyleft)",
                       r"usr/share/doc/debian/FAQ/(?:[^/]+/)?(?P<id>[a-z-]+)\.(?:en|ko|ja|de|zh-cn)\.html",
                       {"en": "", "ko": "-ko", "ja": "-ja", "de": "-de", "zh": "-zh-cn"}),
    *language_packages("developers-reference{}", "developers-reference", GPL2_PLUS,
                       r"usr/share/developers-reference/(?:ja/|de/)?(?P<id>[^/]+\.html)",
                       {"en": "", "ja": "-ja", "de": "-de"}),
    *language_packages("aptitude-doc-{}", "aptitude-doc", GPL2_PLUS,
                       r"usr/share/doc/aptitude/html/[^/]+/(?P<id>[^/]+\.html)", {"en": "en", "ja": "ja"}),
    Package("gnome-user-docs", "gnome-user-docs", "CC-BY-SA-3.0",
            r"usr/share/help/(?P<lang>[^/]+)/(?P<id>.+\.page)", languages=LANGUAGES),
    Package("debian-handbook", "debian-handbook", "GPL-2+ or CC-BY-SA-3.0",
            r"usr/share/doc/debian-handbook/html/(?P<lang>[^/]+)/(?P<id>[^/]+\.html)", languages=LANGUAGES),
    Package("installation-guide-amd64", "installation-guide", GPL2,
            r"usr/share/doc/installation-guide-amd64/(?P<lang>[^/]+)/(?P<id>[^/]+\.html)", languages=LANGUAGES),
    # Korean is the scarcest label: the messages of the user interface are a tenth of it.
    Package("libreoffice-l10n-ko", "libreoffice-l10n", "MPL-2.0",
            r"usr/lib/libreoffice/program/resource/ko/LC_MESSAGES/(?P<id>[^/]+\.mo)", "messages", "ko"),
    Package("debian-policy", "debian-policy", GPL2_PLUS,
            r"usr/share/doc/debian-policy/policy\.html/(?P<id>[^/]+\.html)", label="en"),
    Package("python3.11-doc", "python3.11-doc", "PSF-2.0",
            r"usr/share/doc/python3\.11/html/(?P<id>(?:library|tutorial|howto|reference|whatsnew|using)/[^/]+\.html)",
            label="en"),
    *(Package(name, "manpages", "per page: Linux-man-pages-copyleft, GPL, BSD, MIT and others",
              MAN.format(folder), "man", label)
      for name, folder, label in [
          ("manpages", "-", "en"), ("manpages-dev", "-", "en"), ("manpages-de", "de", "de"),
          ("manpages-de-dev", "de", "de"), ("manpages-ja", "ja", "ja"), ("manpages-ja-dev", "ja", "ja"),
          ("manpages-zh", "zh_CN", "zh")]),
    *(Package(name, name, licence, r"(?P<id>.+\." + suffix + ")", "code", "code")
      for name, licence, suffix in [
          ("libboost1.74-dev", "BSL-1.0", "hpp"),
          ("golang-1.19-src", "BSD-3-Clause", "go"),
          ("rust-src", "MIT or Apache-2.0", "rs"),
          ("perl-modules-5.36", "GPL-1+ or Artistic", "pm"),
          ("libpython3.11-stdlib", "PSF-2.0", "py"),
          ("node-typescript", "Apache-2.0", "ts")]),
]  # fmt: skip


class Paragraphs(HTMLParser):
    """The text of every block of an HTML or Mallard page, one string a block."""

    BLOCKS = frozenset("p li dt dd td th h1 h2 h3 h4 h5 h6 title caption div section table tr ul ol dl body "
                       "desc item page info steps list note body blockquote br".split())  # fmt: skip
    # Not running text: program listings are the business of the label `code`.
    LEFT_OUT = frozenset("script style head header footer nav aside pre screen form credit".split())

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.text: list[str] = []
        self.left_out: list[str] = []

    def _end(self) -> None:
        paragraph = " ".join("".join(self.text).split())
        if paragraph:
            self.found.append(paragraph)
        self.text.clear()

    def handle_starttag(self, tag, attrs):
        if tag in self.LEFT_OUT or ("role", "navigation") in attrs:
            self.left_out.append(tag)
        elif self.left_out and tag == self.left_out[-1]:
            self.left_out.append(tag)  # the same tag inside, so that the right end tag is counted
        if tag in self.BLOCKS:
            self._end()

    def handle_endtag(self, tag):
        if self.left_out and tag == self.left_out[-1]:
            self.left_out.pop()
        if tag in self.BLOCKS:
            self._end()

    def handle_data(self, data):
        if not self.left_out:
            self.text.append(data)


def html_paragraphs(text: str) -> list[str]:
    parser = Paragraphs()
    parser.feed(text)
    parser.close()
    parser._end()
    return parser.found


ROFF_FONT = re.compile(r"\\f(?:\[[^]]*\]|\([A-Za-z]{2}|.)|\\s[-+]?\d+")
ROFF_NAMED = {"aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–", "bu": "•",
              "ha": "^", "ti": "~", "rs": "\\", "co": "©", "rg": "®", "Fo": "«", "Fc": "»", "mu": "×"}  # fmt: skip
ROFF_BREAKS = frozenset("SH SS PP P LP TP IP HP RS RE TQ br sp".split())
ROFF_TEXT = frozenset("B I R BR RB IR RI BI IB SM SB".split())


def roff_text(line: str) -> str:
    line = ROFF_FONT.sub("", line)
    line = re.sub(r"\\\((..)|\\\[(\w+)\]", lambda m: ROFF_NAMED.get(m[1] or m[2], ""), line)
    return re.sub(r"\\[&,/|^:%c]", "", line).replace("\\-", "-").replace("\\ ", " ").replace("\\e", "\\")


def roff_paragraphs(text: str) -> list[str]:
    """Running text of a man(7) page. Synopses (.nf), tables and conditionals are left out."""
    if re.search(r"^\.so |^\.Dd ", text, re.M):
        return []  # a link to another page, or mdoc, which has other macros
    found: list[str] = []
    words: list[str] = []

    def end() -> None:
        if words:
            found.append(" ".join(" ".join(words).split()))
            words.clear()

    left_out = False
    for line in text.splitlines():
        macro = re.match(r"[.']\s*(\S*)\s*(.*)", line)
        name, rest = (macro[1], macro[2]) if macro else ("", line)
        if name in ("nf", "EX", "TS"):
            end()
            left_out = True
        elif name in ("fi", "EE", "TE"):
            left_out = False
        elif left_out:
            continue
        elif not macro:
            if line.strip():
                words.append(roff_text(line))
            else:
                end()
        elif name in ROFF_BREAKS:
            end()
            if name in ("SH", "SS") and rest:
                found.append(roff_text(rest.strip('"')))
        elif name in ROFF_TEXT:
            quoted = re.findall(r'"([^"]*)"?|(\S+)', rest)
            parts = [roff_text(a or b) for a, b in quoted]
            # The macros of two letters join their arguments, those of one letter space them.
            words.append((" " if len(name) == 1 or name == "SM" else "").join(parts))
    end()
    return found


def message_paragraphs(data: bytes) -> list[str]:
    """The translated strings of a gettext catalogue (.mo), in its own order; the first is its header."""
    count, _, table = struct.unpack_from("<III", data, 8)
    places = [struct.unpack_from("<II", data, table + 8 * i) for i in range(1, count)]
    texts = [data[at : at + size].decode("utf-8") for size, at in places]
    return [" ".join(form.replace("~", "").split()) for text in texts for form in text.split("\0")]


HANGUL, KANA, HAN, LATIN = (
    re.compile(p) for p in ("[\uac00-\ud7a3]", "[\u3041-\u30ff]", "[\u4e00-\u9fff]", "[A-Za-zÀ-ÿ]")
)
# German and English share a script: which one has more of its little words decides.
ENGLISH = frozenset("the of and to is in that for it are be with not this by or if an on as you can".split())
GERMAN = frozenset("der die das und zu ist in den von ein eine mit nicht wird werden sie für auf dem oder es".split())


def is_of(label: str, paragraph: str) -> bool:
    """Whether a paragraph is in the script (or the language) of its label: translations have holes."""
    hangul, kana, han, latin = (len(p.findall(paragraph)) for p in (HANGUL, KANA, HAN, LATIN))
    letters = hangul + kana + han + latin
    if not letters:
        return False
    if label == "ko":
        return hangul >= 0.3 * letters
    if label == "ja":
        return kana > 0 and kana + han >= 0.3 * letters
    if label == "zh":
        return kana == 0 and hangul == 0 and han >= 0.3 * letters
    if latin < 0.95 * letters:
        return False
    words = re.findall(r"[a-zäöüß]+", paragraph.lower())
    english = sum(w in ENGLISH for w in words)
    german = sum(w in GERMAN for w in words)
    return german > english if label == "de" else english > german


PARAGRAPHS = {
    "html": lambda data: html_paragraphs(data.decode("utf-8")),
    "man": lambda data: roff_paragraphs(gzip.decompress(data).decode("utf-8")),
    "messages": message_paragraphs,
}


def documents_of(package: Package, root: Path, seen: dict[str, set[bytes]]):
    """(label, id, text) of a package; `seen` holds the digests of a label's earlier paragraphs."""
    pattern = re.compile(package.path)
    languages = dict(package.languages)
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        match = pattern.fullmatch(path.relative_to(root).as_posix())
        if not match:
            continue
        label = package.label or languages.get(match["lang"])
        if label is None:
            continue
        identity = f"{package.source}/{match['id']}"
        data = path.read_bytes()
        if package.kind == "code":
            digest = hashlib.md5(data).digest()
            if not SMALLEST_FILE <= len(data) <= LARGEST_FILE or digest in seen[label]:
                continue
            seen[label].add(digest)
            try:
                yield label, identity, data.decode("utf-8")
            except UnicodeDecodeError:
                pass  # a test of encodings, or an old source in Latin-1
            continue
        try:
            paragraphs = PARAGRAPHS[package.kind](data)
        except UnicodeDecodeError:
            continue  # a page in another encoding than Debian's policy asks for
        kept = []
        for paragraph in paragraphs:
            digest = hashlib.md5(paragraph.encode()).digest()
            if digest not in seen[label] and is_of(label, paragraph):
                seen[label].add(digest)
                kept.append(paragraph)
        text = "\n".join(kept)
        if len(text) >= SMALLEST_DOCUMENT:
            yield label, identity, text


def choose(documents: list[dict], limit: int) -> list[dict]:
    """At most `limit` bytes, in an order that depends on the ids alone: always the next document of
    the source that has given least, so that no single package fills the label."""
    waiting = defaultdict(list)
    for d in sorted(documents, key=lambda d: hashlib.md5(b"order " + d["id"].encode()).digest(), reverse=True):
        waiting[d["source"]].append(d)
    given = {source: 0 for source in sorted(waiting)}
    chosen, total = [], 0
    while given and total < limit:
        source = min(given, key=given.__getitem__)
        document = waiting[source].pop()
        chosen.append(document)
        size = len(document["text"].encode())
        given[source] += size
        total += size
        if not waiting[source]:
            del given[source]
    return chosen


def download(packages: list[Package], folder: Path) -> dict[str, Path]:
    """The .deb file of every package; files that are there already are not fetched again."""
    def present() -> dict[str, Path]:
        return {f.name.split("_")[0]: f for f in folder.glob("*.deb")}

    missing = [p.name for p in packages if p.name not in present()]
    if missing:
        subprocess.run(["apt-get", "download", "-q", *missing], cwd=folder, check=True)
    files = present()
    lost = [p.name for p in packages if p.name not in files]
    if lost:
        sys.exit("apt-get download did not bring: " + ", ".join(lost))
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the jsonl files")
    parser.add_argument("--packages", type=Path, help="keep the .deb files here and use those already there")
    parser.add_argument("--limit-mb", type=float, default=5.0, help="megabytes of text of a label (default %(default)s)")
    args = parser.parse_args()
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not there: this needs Debian 12 or a container of it")

    args.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict]] = defaultdict(list)
    seen: dict[str, set[bytes]] = defaultdict(set)
    table = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.packages or Path(temporary) / "deb"
        folder.mkdir(parents=True, exist_ok=True)
        files = download(PACKAGES, folder)
        for package in PACKAGES:
            root = Path(temporary) / package.name
            subprocess.run(["dpkg-deb", "-x", files[package.name], root], check=True)
            read: dict[str, int] = defaultdict(int)
            for label, identity, text in documents_of(package, root, seen):
                document = {"lang": label, "source": package.source, "id": identity, "text": text}
                found[label].append(document)
                read[label] += len(text.encode())
            shutil.rmtree(root)
            version = files[package.name].name.split("_")[1].replace("%3a", ":")
            table.append({"package": package.name, "version": version, "licence": package.licence, "bytes": read})
            print(f"{package.name} {version}: {dict(read)}", flush=True)
            if not read:
                print(f"warning: {package.name} gave no text; its layout may have changed", file=sys.stderr)

    sizes = {}
    for label in LABELS:
        chosen = choose(found[label], int(args.limit_mb * 1e6))
        with open(corpus_file(args.output, label), "w", encoding="utf-8") as f:
            for document in chosen:
                f.write(json.dumps(document, ensure_ascii=False) + "\n")
        sizes[label] = {"documents": len(chosen), "bytes": sum(len(d["text"].encode()) for d in chosen)}
        by_source: dict[str, int] = defaultdict(int)
        for d in chosen:
            by_source[d["source"]] += len(d["text"].encode())
        sizes[label]["sources"] = by_source
        print(f"{label}: {sizes[label]['documents']} documents, {sizes[label]['bytes']} bytes")
    report = json.dumps({"packages": table, "labels": sizes}, indent=1)
    (args.output / "packages.json").write_text(report + "\n")


if __name__ == "__main__":
    main()
