"""What wins inside a chunk, and the receipt that comes of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.model.chunks import Counts
from common.model.events import Event
from common.model.mapping import OnDuplicate
from workers.imports.lines import Lines


@given(st.lists(st.lists(st.binary(min_size=1, max_size=1), max_size=5)), st.sampled_from(OnDuplicate))
def test_of_each_id_one_line_is_kept_and_the_others_are_counted(blocks: list[list[bytes]], rule: OnDuplicate) -> None:
    lines, offset, seen = Lines(rule), 0, list[Event]()
    for block in blocks:
        found = [Event(id_, True, offset + n, 0, False, b"{}") for n, id_ in enumerate(block)]
        lines.add(found)
        lines.lines += len(found)
        offset += len(found)
        seen += found
    wins = {event.event_id: event for event in (seen if rule is OnDuplicate.REPLACE else seen[::-1])}

    assert lines.kept == wins
    assert lines.repeats_of.total() == len(seen) - len(wins)
    for fresh in range(len(wins) + 1):
        replaced = len(wins) - fresh
        assert lines.counts(fresh, replaced) == Counts(len(seen), fresh, replaced, len(seen) - len(wins))
    assert lines.counts(0, 0).duplicates == len(seen)
