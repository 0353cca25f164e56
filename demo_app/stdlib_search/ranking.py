"""Rank definitions by the words of a query: stemming, synonyms, and an inverted index."""

import math
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from demo_app.stdlib_search.entries import Entry, Hit

MIN_COVERAGE = 0.45  # share of the query's words, weighted by rarity, that a hit must match
MIN_SCORE = 6.0  # questions that the library does not cover have hits below this score
MAX_RARITY = 6.0  # so that a word that occurs once does not outweigh all others

_WELL_KNOWN_NAMES = """abc argparse array ast asyncio base64 bisect builtins calendar collections
    concurrent.futures configparser contextlib copy csv dataclasses datetime decimal difflib enum
    fnmatch fractions functools getpass glob graphlib gzip hashlib heapq hmac html inspect io
    ipaddress itertools json logging math multiprocessing operator os os.path pathlib pickle
    platform pprint queue random re secrets shelve shlex shutil signal socket sqlite3 statistics
    string struct subprocess sys tarfile tempfile textwrap threading time timeit tomllib traceback
    types typing unittest urllib.parse urllib.request uuid venv warnings weakref zipfile zlib
    zoneinfo"""
_USEFUL_PACKAGE_NAMES = "asyncio concurrent http json logging multiprocessing sqlite3 urllib"
_UNLIKELY_PACKAGE_NAMES = """asynchat asyncore crypt imp importlib ntpath nturl2path optparse pdb
    pydoc tkinter turtle unittest xmlrpc"""
_STOP_WORDS = """a about all an and anything are as at be between by can class could difference do
    does each every everything explain for from function get has have how i if in into is it its
    library me method module my need of on or please python s several should show so some something
    standard stdlib tell that the their there this to use used using want way what when where which
    why with without work works you your"""
_SAME_MEANING = """directory dir folder
    argument arg argv option
    large largest big biggest greatest nlargest maximum max
    small smallest least nsmallest minimum min
    temporary temp tmp
    item element entry
    remove delete unlink rmtree erase
    run execute spawn launch
    create make mk
    concurrent parallel
    configuration config
    cache memoize lru
    url uri
    parse parser
    command cmd
    encode serialize dump
    compress zip
    average mean
    wait sleep pause
    string str text
    integer int
    dictionary dict mapping
    format fmt
    id identifier
    secret password token
    pattern regular expression regex regexp re
    asynchronous async asyncio"""

_WELL_KNOWN = frozenset(_WELL_KNOWN_NAMES.split())
_USEFUL_PACKAGES = frozenset(_USEFUL_PACKAGE_NAMES.split())
_UNLIKELY_PACKAGES = frozenset(_UNLIKELY_PACKAGE_NAMES.split())
_STOP = frozenset(_STOP_WORDS.split())


def _words(text: str) -> list[str]:
    """Split text and identifiers into lower-case stems: `TemporaryDirectory` gives two."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [_stem(word) for word in re.findall(r"[a-z]+|[0-9]+", split.lower())]


@lru_cache(1 << 16)  # the sources have about 20,000 different words
def _stem(word: str) -> str:
    """Return the stem of a lower-case word, or the stem that stands for its synonyms."""
    stem = _cut(word)
    return _SYNONYMS.get(stem, stem)


def _cut(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    for suffix in ("ing", "ed"):
        if len(word) > len(suffix) + 2 and word.endswith(suffix):
            word = word[: -len(suffix)]
            word = word[:-1] if word[-1] == word[-2] and word[-1] not in "lsz" else word
            break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


_GROUPS = [[_cut(word) for word in line.split()] for line in _SAME_MEANING.splitlines()]
_SYNONYMS = {word: group[0] for group in _GROUPS for word in group}


def _query_words(query: str) -> dict[str, None]:
    words = re.findall(r"[A-Za-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", query))
    kept = [word for word in words if word.lower() not in _STOP]
    return dict.fromkeys(_stem(word.lower()) for word in kept or words)


# The weight of a word by the place where it occurs.
_IN_NAME, _IN_MODULE, _IN_SUMMARY, _IN_PARAMETERS, _IN_DOC = 3.0, 2.2, 1.8, 1.0, 0.6


class Index:
    """An inverted index over all definitions; immutable once it is built."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._hits: list[Hit] = []
        self._names: dict[str, list[int]] = defaultdict(list)
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, entry in enumerate(entries):
            hit = entry.hit
            self._hits.append(hit)
            for word, weight in _weights(entry).items():
                self._postings[word].append((number, weight))
            package = hit.module.partition(".")[0]
            names = {hit.name, f"{hit.module}.{hit.name}", f"{package}.{hit.name}"}
            for name in names:
                self._names[name.lower()].append(number)

    def search(self, query: str, limit: int) -> list[Hit]:
        """Return the best hits; see `tools.search`."""
        scores = self._by_words(query)
        for number in self._by_name(query):
            scores[number] = scores.get(number, 1.0) + 100 * _prior(self._hits[number])
        best = sorted(scores, key=lambda number: (-scores[number], number))[:limit]
        return [replace(self._hits[number], score=round(scores[number], 2)) for number in best]

    def _by_words(self, query: str) -> dict[int, float]:
        words = {word: self._rarity(word) for word in _query_words(query)}
        total_rarity = sum(words.values())
        sums: dict[int, float] = defaultdict(float)
        coverage: dict[int, float] = defaultdict(float)
        for word, rarity in words.items():
            for number, weight in self._postings.get(word, ()):
                sums[number] += rarity * weight
                coverage[number] += rarity / total_rarity
        scores = {
            number: total * coverage[number] ** 2 * self._boost(number, words)
            for number, total in sums.items()
            if coverage[number] >= MIN_COVERAGE
        }
        return {number: score for number, score in scores.items() if score >= MIN_SCORE}

    def _boost(self, number: int, words: Container[str]) -> float:
        """Return a factor that prefers exact names: `dataclass` before `is_dataclass`."""
        hit = self._hits[number]
        name = _words(hit.name)
        return _prior(hit) * (1.4 if len(name) == 1 and name[0] in words else 1.0)

    def _by_name(self, query: str) -> Iterator[int]:
        """Find definitions that the query names as code: dotted, snake case or camel case."""
        for word in re.findall(r"[A-Za-z_][\w.]*\w", query):
            if "." in word or "_" in word or re.search(r"[a-z][A-Z]", word):
                yield from self._names.get(word.lower(), ())

    def _rarity(self, word: str) -> float:
        rarity = math.log(1 + len(self._hits) / (1 + len(self._postings.get(word, ()))))
        return min(rarity, MAX_RARITY)


def _weights(entry: Entry) -> dict[str, float]:
    """Return the weight of each word of a definition, summed over the places where it occurs."""
    hit = entry.hit
    name = [] if hit.kind == "module" else _words(hit.name)
    parameters = [word for name in entry.parameters for word in _words(name)]
    places = (
        (_IN_NAME / (1 + 0.15 * len(name)), name),
        (_IN_MODULE, _words(hit.module)),
        (_IN_SUMMARY, _words(hit.summary)),
        (_IN_PARAMETERS, parameters),
        (_IN_DOC, _words(entry.doc[:2000])),
    )
    weights: dict[str, float] = defaultdict(float)
    for worth, words in places:
        brevity = 1 / (1 + 0.03 * len(words))  # a word counts more in a short text
        for word in set(words):
            weights[word] += worth * brevity
    return weights


def _prior(hit: Hit) -> float:
    """Return how likely users want a definition, regardless of the query."""
    package = hit.module.partition(".")[0]
    prior = 1.2 if package in _USEFUL_PACKAGES else 0.6 if package in _UNLIKELY_PACKAGES else 1.0
    prior = 1.5 if hit.module in _WELL_KNOWN else prior
    private = any(part.startswith("_") for part in f"{hit.module}.{hit.name}".split("."))
    prior *= 0.35 if private else 1.0
    prior *= {"method": 0.75, "module": 0.9}.get(hit.kind, 1.0)
    return prior * (1.0 if hit.summary else 0.6)
