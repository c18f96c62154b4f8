"""No text of the project uses a word that makes a reader translate; files of released migrations keep theirs."""

import re

import pytest

from tests.unit.test_docs import ROOT, texts

INSTEAD = {
    "whoever": "name the person or the part of the system",
    "anew": "again, or a verb with re-",
    "aside": "without, in addition to",
    "beside": "next to, during, with",
    "mend": "correct, repair",
    "mends": "corrects, repairs",
    "mended": "corrected, repaired",
    "for good": "permanently",
    "thereof": "of it",
    "whosoever": "any",
    "the one sentence": "say what the text is",
    "not one unit": "no unit",
}
FOUND = re.compile(rf"(?<![\w/-])({'|'.join(INSTEAD)})(?![\w/-])", re.IGNORECASE)
RELEASED = {line.split()[1] for line in (ROOT / "sql/released.txt").read_text().splitlines()}


def of_style(path, text):
    name = str(path.relative_to(ROOT))
    if name in RELEASED or name.startswith("sql/vendor/") or path.name == "test_language.py":
        return []
    lines = text.splitlines()
    return [
        f"{name}:{number}: {word!r}: {INSTEAD[word.lower()]}"
        for number, line in enumerate(lines, 1)
        for word in FOUND.findall(line)
    ]


def test_no_text_has_a_word_that_a_reader_must_translate():
    found = [line for path, text in texts() for line in of_style(path, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("word", INSTEAD)
def test_the_search_finds_each_word_in_a_text(word):
    assert of_style(ROOT / "README.md", f"A gate is loaded {word} twice.")
