"""The Reuters-21578 newswires: the set that Keras calls ``reuters``, from the official archive."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from pathlib import Path

import numpy as np

from msnlib.data.readers import Arrays, DataError, words_of

_FILES = [f"reut2-{number:03d}.sgm" for number in range(22)]
_DOCUMENTS = 21_578
_LEAST = 15  # documents a topic must have
_DOCUMENT = re.compile(r"<REUTERS\b.*?</REUTERS>", re.DOTALL)
_FIRST_TOPIC = re.compile(r"<TOPICS><D>(.*?)</D>")
_TEXT = re.compile(r"<TEXT[^>]*>(.*?)</TEXT>", re.DOTALL)
_TAG = re.compile(r"</?[A-Z]+[^>]*>")


def reuters(root: Path) -> Arrays:
    """Newswires: x (N,) of strings, words in lower case between spaces; y the topic's number in alphabetical order.

    Of the 21,578 documents those that have a topic; the first one is the label. Topics of fewer than 15 documents are
    left out. That gives the 11,228 documents in 46 classes that Keras delivers. A text is everything between the
    document's ``TEXT`` tags: title, place and date, body.

    Source: Lewis (1997), Reuters-21578, Distribution 1.0; for research only.
    """
    topics, texts = [], []
    for document in _documents(root / "reuters21578"):
        topic, text = _FIRST_TOPIC.search(document), _TEXT.search(document)
        if topic and text:
            topics.append(topic[1])
            texts.append(words_of(unescape(_TAG.sub(" ", text[1]))))
    count = Counter(topics)
    classes = sorted(topic for topic, found in count.items() if found >= _LEAST)
    kept = [(text, classes.index(topic)) for text, topic in zip(texts, topics, strict=True) if topic in classes]
    return np.array([text for text, _ in kept], dtype=object), np.array([label for _, label in kept])


def _documents(folder: Path) -> list[str]:
    """The documents of the archive, in its order."""
    absent = [name for name in _FILES if not (folder / name).is_file()]
    if absent:
        raise DataError(
            f"{folder}: {len(absent)} of 22 files not found, the first {absent[0]}: unpack reuters21578.tar.gz "
            "(https://archive.ics.uci.edu/dataset/137) there, or set MSNLIB_DATA to the folder that holds "
            "reuters21578/; it is not downloaded"
        )
    try:
        found = [d for name in _FILES for d in _DOCUMENT.findall((folder / name).read_text(encoding="latin-1"))]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    if len(found) != _DOCUMENTS:
        raise DataError(f"{folder}: damaged: found {len(found):,} documents, expected {_DOCUMENTS:,}; unpack it again")
    return found
