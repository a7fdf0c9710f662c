"""Where a body is spooled tells that it was one."""

from __future__ import annotations

from common.model.ids import new_id
from common.model.sources import SourceRef
from common.model.uploads import is_spooled, spooled


def test_a_source_is_a_body_of_its_own_import_and_of_no_other() -> None:
    ours, other = new_id(), new_id()

    assert is_spooled(spooled("spool", ours), ours)
    assert is_spooled(spooled("renamed", ours, region="eu-west-1"), ours)
    assert not is_spooled(spooled("spool", other), ours), "a caller who knew of another's body could have it read"
    assert not is_spooled(SourceRef("spool", "uploads"), ours)
