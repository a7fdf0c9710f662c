"""What a line has to keep to beyond being JSON, and what it is given: a door's own rules, in words the engine knows.

They belong to a request and not to its collection: another door into the same collection has its own. All of them are
about the members at the top of an object, which are looked up exactly, but for what is said of names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NameRules:
    """What the names of members may be."""

    #: Characters of a name, at any depth.
    longest: int
    #: Whether a name may hold a period, at any depth.
    periods: bool
    #: Names that no member at the top may have.
    reserved: tuple[str, ...] = ()
    #: What no name at the top may begin with, in letters of any case.
    reserved_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """A member that names a thing which the project has to know: one that it has registered."""

    #: Of what kind the thing is. Things of two kinds may have the same id.
    kind: str
    #: In order of preference: the first whose member is present and not null counts.
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one door. Without any: what the engine asks of every line, and no more."""

    #: Whether a file of the declared format is read line by line whatever it looks like. Otherwise one that looks like
    #: something else is refused as a whole, before anything is loaded.
    any_shape: bool = False
    #: Bytes of a line.
    longest: int | None = None
    names: NameRules | None = None
    #: Members that a line must have, each by one of its names, and not null. One that it is given counts.
    required: tuple[tuple[str, ...], ...] = ()
    #: A line must have one of them at least (one that it is given counts), and each that it has must be registered.
    references: tuple[Reference, ...] = ()
    #: Members, a name and a string, that a line gets at its end where it has none of that name, or null; nor, where
    #: that is a reference's name, of its others.
    adds: tuple[tuple[str, str], ...] = ()
    #: A member that a line gets at its end where it has none, or null: a UUID that is made of the import and the line's
    #: place, and so the same whoever loads it. Then that is the line's id.
    names_id: str | None = None
    #: An id that is an integer is the same as its digits in quotes.
    digits_are_text: bool = False


NO_RULES = Rules()
