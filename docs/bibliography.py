"""Papers: how texts quote them, and which ones `docs/references.bib` holds."""

import pathlib
import re
import unicodedata
from collections.abc import Iterator

FILE = pathlib.Path(__file__).with_name("references.bib")

# "arXiv:1611.01232", and "arXiv:math/0403022" as numbers were until 2007.
NUMBER = r"arXiv:([a-z-]+/\d{7}|\d{4}\.\d{4,5})"
ARXIV = re.compile(NUMBER)

# A word with a capital and a small letter, such as Saxe, LeCun or Sohl-Dickstein.
NAME = r"[^\W\d_a-z][\w’'-]*[^\W\d_A-Z][\w’'-]*"

# "Newman (1986)", "Yang et al., 2019" and "Baik, Ben Arous and Péché (2005)", perhaps
# with the number behind it.
OTHERS = rf"(?: et al\.|(?:,? and |, ){NAME}(?: {NAME})?)*"
YEARS = r"(?:1[89]|20)\d\d"
QUOTED = re.compile(rf"\b({NAME}){OTHERS}(?:,? \(|, )({YEARS})\b(?:\)?, {NUMBER})?")

# The year of any, and how much may stand in front of it and behind it. Five authors are
# 80 characters; a tenth of it would cut them off, and ten times as much is slow.
CITED = re.compile(rf"(?:,? \(|, ){YEARS}\b")
LONGEST = 300
LONGEST_NUMBER = 40

# What lies between the lines of one sentence: signs of comments, quotation marks of
# strings in a row.
BREAK = re.compile(r' *"?\n\s*(?:#\s*|[rf]?")?')

ENTRY = re.compile(r"^@\w+\{(\w+),$(.*?)^\}$", re.MULTILINE | re.DOTALL)
YEAR = re.compile(r"^  year = \{(\d+)\},$", re.MULTILINE)

# Letters that are no letter with an accent.
LETTERS = str.maketrans({"ł": "l", "ß": "ss", "’": "", "'": "", "-": ""})


def entries() -> dict[str, str]:
    """List the texts of the entries of the file by their keys, as "he2015"."""
    return dict(ENTRY.findall(FILE.read_text(encoding="utf-8")))


def year(entry: str) -> str:
    """Return the year of an entry."""
    (found,) = YEAR.findall(entry)
    return found


def key(author: str, year: str) -> str:
    """Make the key of a paper of the first author and the year."""
    plain = unicodedata.normalize("NFKD", author.lower().translate(LETTERS))
    return plain.encode("ascii", "ignore").decode() + year


def quoted(text: str) -> Iterator[tuple[str, str]]:
    """List what a page or a program quotes by year: the key, and the number or ""."""
    joined = BREAK.sub(" ", text)
    end = 0
    # Names are sought in front of years alone: there are a hundred times more words
    # with a capital.
    for cited in CITED.finditer(joined):
        start = max(end, cited.start() - LONGEST)
        found = QUOTED.search(joined, start, cited.end() + LONGEST_NUMBER)
        if found is not None:
            author, year, number = found.groups(default="")
            end = found.end()
            yield key(author, year), number
