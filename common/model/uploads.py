"""A body that is sent to us: it is spooled to a bucket of our own, and from then on is an object like any other."""

from __future__ import annotations

from dataclasses import dataclass

from common.model.sources import DEFAULT_REGION, SourceRef

#: Stands in a spec for the body that comes with it; the desk puts the place in its stead where it will be spooled.
BODY = SourceRef("", "")


@dataclass(frozen=True, slots=True)
class Upload:
    """What is left in the spool bucket of an import that has ended."""

    import_id: str
    bucket: str
    key: str
    #: Of the multipart upload; None where nobody lived to write it down.
    upload_id: str | None
    #: Whether the body came to its end, so that it is an object and no longer parts.
    done: bool
    #: Whether nobody can be adding to it any more.
    old: bool


def spooled(bucket: str, import_id: str, *, region: str = DEFAULT_REGION) -> SourceRef:
    """Return where an import's body is spooled."""
    return SourceRef(bucket, f"uploads/{import_id}", region)


def is_spooled(ref: SourceRef, import_id: str) -> bool:
    """Return whether the import's source is a body that was sent to us.

    The key tells: it holds the import's id, which nobody knew when the source was asked for.
    """
    return ref.key == spooled("", import_id).key
