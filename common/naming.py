"""Judge the names of an object's members, at any depth. Pure.

In two steps, of which the first, over as many lines at once as there are, nearly always is all: it tells that no name
may break a rule, and is wrong only on the safe side. It relies on what valid JSON is: a name is a string with a colon
behind it, and every other string has something else there. All of it takes time in proportion to the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec

from common.model.rejects import RejectCode
from common.model.rules import NameRules

_COLON = rb"[ \t\r]*+:"
#: Every string of a JSON text, one after the other; those that are names have a group.
_STRING = re.compile(rb'("(?:[^"\\]++|\\.)*+")(' + _COLON + rb")?", re.DOTALL)
#: Text in which no plain name holds a period. Goes from a period to the next quote, whatever it begins or ends; values
#: full of periods are passed over (0.15 us a line of 294 bytes with seven periods).
_NO_PERIODS = re.compile(rb'(?:[^.]*+\.[^"]*+"(?!' + _COLON + rb'))*+[^.]*+(?:\.[^"]*+)?')

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NAME = msgspec.json.Decoder(str)


class NameJudge:
    """Judges names by one set of rules. Holds no state."""

    def __init__(self, rules: NameRules) -> None:
        """Take the rules. In names that are reserved, letters are those of ASCII where case does not count."""
        self._rules = rules
        self._plain = _of_plain_names(rules)
        self._short = _of_short_names(rules.longest)
        self._reserved = _search_reserved(rules)
        # Where there is no prefix: what nothing begins with.
        prefixes = "|".join(map(re.escape, rules.reserved_prefixes)) or r"(?!)"
        self._prefixes = re.compile(prefixes, re.IGNORECASE | re.ASCII)

    def judge(self, line: bytes) -> RejectCode | None:
        """Return why the names of an object are not taken, or None. ``line`` is one that msgspec takes."""
        return self._look_into(line) if self._may_break(line) else None

    def breaks(self, lines: Sequence[bytes], data: bytes) -> bool:
        """Return whether one of the lines would not be taken. ``data`` are the same, joined by line feeds."""
        return self._may_break(data) and any(map(self.judge, lines))

    def _may_break(self, data: bytes) -> bool:
        if b"\\" in data and self._plain.fullmatch(data) is None:
            return True
        if not self._rules.periods and _NO_PERIODS.fullmatch(data) is None:
            return True
        if self._short.fullmatch(data) is None:
            return True
        return self._reserved is not None and self._reserved.search(data) is not None

    def _look_into(self, line: bytes) -> RejectCode | None:
        for name in self._odd_names(line):
            if "." in name and not self._rules.periods:
                return RejectCode.INVALID_NAME
            if len(name) > self._rules.longest:
                return RejectCode.NAME_TOO_LONG
        for name in _MEMBERS.decode(line):
            if self._prefixes.match(name):
                return RejectCode.RESERVED_PREFIX
            if name in self._rules.reserved:
                return RejectCode.RESERVED_NAME
        return None

    def _odd_names(self, line: bytes) -> Iterator[str]:
        """Yield the names, at any depth, that may be too long or hold a period."""
        for token, colon in _STRING.findall(line):
            if colon and (b"." in token or b"\\" in token or len(token) > self._rules.longest):
                yield _NAME.decode(token)


@lru_cache(maxsize=64)
def name_judge(rules: NameRules | None) -> NameJudge | None:
    """Return the judge of these rules. Kept, since a request that pushes one event needs it too."""
    return NameJudge(rules) if rules else None


def _of_plain_names(rules: NameRules) -> re.Pattern[bytes]:
    """Return the form of text in which every name is plain: none of its escapes may stand for what a rule is about.

    Nor for a quote, so that it ends at the first one behind its own. Names that are written all in ASCII have escapes
    for other letters: those are plain too, where they are no reserved name's. A string is looked at from its first
    escape on, and then as a whole.
    """
    tame = rb"u(?!00[0-7])" if "".join(rules.reserved + rules.reserved_prefixes).isascii() else rb"(?!)"
    wild = rb'\\.[^"\\]*+(?:\\.[^"\\]*+)*+"(?!%b)' % _COLON
    return re.compile(rb'(?:[^\\]*+(?:\\%b[^"\\]*+)*+(?:"|%b))*+[^\\]*+' % (tame, wild), re.DOTALL)


def _of_short_names(longest: int) -> re.Pattern[bytes]:
    """Return the form of text in which no plain name has more bytes than ``longest``.

    It leaps from quote to quote, as far as such a name may reach, and looks more closely where there is none so near.
    (0.02 us a line; to look at the length of every string took 1.9.)
    """
    leap = rb'(?:.{0,%d}"|[^"]{%d,}+"(?!%s))*+[^"]*+' % (longest, longest + 1, _COLON)
    return re.compile(leap, re.DOTALL)


def _search_reserved(rules: NameRules) -> re.Pattern[bytes] | None:
    """Return what finds a plain name that would be reserved at the top, at any depth; None if no names are.

    The search begins with a character that all of them share, if one is no letter: quotes are in every line, and it
    took 0.38 us a line to look behind each, 0.10 to look around underscores.
    """
    forms = [(f'"{name}', b'(?:%b)"') for name in rules.reserved]
    forms += [(f'"{prefix}', b'(?i:%b)[^"]*+"') for prefix in rules.reserved_prefixes]
    if not forms:
        return None
    shared = set.intersection(*({*text[1:]} for text, _ in forms))
    first = min((char for char in shared if char.lower() == char.upper()), default='"')
    found = []
    for text, form in forms:
        end = text.index(first) + 1
        before, behind = (re.escape(part.encode()) for part in (text[:end], text[end:]))
        found.append(form % (b"(?<=%b)%b" % (before, behind)))
    return re.compile(re.escape(first.encode()) + b"(?:%b)" % b"|".join(found) + _COLON)
