"""What the lines of a chunk come to. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from common.model.chunks import Counts
from common.model.events import Event
from common.model.mapping import OnDuplicate
from common.model.rejects import Reject
from common.ruling import Known


@dataclass(slots=True)
class Lines:
    """What a chunk's lines came to, before the store has its say."""

    on_duplicate: OnDuplicate
    lines: int = 0
    blank: int = 0
    #: One event of each id: the first, or the last where the mapping replaces.
    kept: dict[bytes, Event] = field(default_factory=dict)
    #: Of ids with more than one line: how many there were besides the one that is kept.
    repeats_of: Counter[bytes] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)
    #: Lines of text that the lines took up.
    text_lines: int = 0
    #: What they may name, and what they named that was not registered.
    known: Known = field(default_factory=Known)

    def add(self, found: list[Event]) -> None:
        """Keep one event of each id and count the others. To be called in the order of the lines."""
        replaces = self.on_duplicate is OnDuplicate.REPLACE
        for event in found:
            if self.kept.setdefault(event.event_id, event) is not event:
                self.repeats_of[event.event_id] += 1
                if replaces:
                    self.kept[event.event_id] = event

    def counts(self, fresh: int, replaced: int) -> Counts:
        """Return the chunk's receipt, given how many of the kept events the store did not have, and how many took
        the place of an earlier import's.
        """
        return Counts(
            lines=self.lines,
            imported=fresh,
            replaced=replaced,
            duplicates=len(self.kept) - fresh - replaced + sum(self.repeats_of.values()),
            rejected=len(self.rejects),
            blank=self.blank,
        )
