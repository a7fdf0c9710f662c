"""What a reference names: one object, or all that a prefix, a glob or a list of keys stands for, pinned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from common.errors import Refusal, Terminal
from common.model.formats import Format
from common.model.globs import Glob
from common.model.sources import Source, SourceKind, SourceRef, key_fault, listed_key
from common.objects import Objects
from workers.imports.sniffing import sniff_compression

#: Bytes of a list of keys, decompressed or not.
MOST_LIST_BYTES = 16 * 1024 * 1024
#: Keys that are looked through for each one that may be found: by default a thousand pages in all.
MOST_SEEN = 100
#: Objects that are asked for side by side. At 20 ms each, 10,000 in a row would take 200 s.
_HEADS = 8

#: What a key's extension says of the object, once that of a compression is taken off. ``.json`` may be either.
_SAYS: dict[str, set[Format]] = {
    ".csv": {Format.CSV},
    ".json": {Format.JSON, Format.NDJSON},
    ".ndjson": {Format.NDJSON},
    ".jsonl": {Format.NDJSON},
    ".jsonlines": {Format.NDJSON},
    ".ldjson": {Format.NDJSON},
    **{other: set() for other in (".tsv", ".parquet", ".avro", ".orc", ".xml", ".xls", ".xlsx")},
}
_COMPRESSED = {".gz", ".gzip", ".zst", ".zstd", ".bz2", ".bzip2"}


def find_sources(
    objects: Objects,
    ref: SourceRef,
    *,
    most: int,
    declared: Format | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Source]:
    """Return the objects that the reference names, in the order of their keys' bytes, each once.

    Of a prefix and a glob those are left out that are no more than a folder's mark, and where a format is
    ``declared`` those whose extension says another one. An object that is named is taken whatever its name says.
    ``advance`` is called after each answer of S3 to a prefix, glob or manifest, and may raise.

    Raises Terminal ``source_not_found`` where nothing matches, ``too_many_objects`` where more than ``most`` do,
    ``invalid_manifest``, and what reading raises; Transient. Blocks on S3.
    """
    if ref.kind is SourceKind.OBJECT:
        return [objects.pin(ref)]
    if ref.kind is SourceKind.OBJECT_OR_PREFIX and (named := _pin_named(objects, ref)):
        return [named]
    if ref.kind is SourceKind.MANIFEST:
        keys = sorted(set(ref.keys or _read_list(objects, ref, most=most)))
        _check_count(len(keys), most)
        advance()
        return list(_pin_all(objects, ref, keys, advance))
    found = {source.key: source for source in _matching(objects, ref, most, declared, advance)}
    return [found[key] for key in sorted(found)]  # by code point, which is the order of UTF-8's bytes


def _pin_named(objects: Objects, ref: SourceRef) -> Source | None:
    """Return the object of the reference's own key, if it names one that is there."""
    if not ref.key or ref.key.endswith("/"):
        return None
    try:
        return objects.pin(ref)
    except Terminal as error:
        if error.code != "source_not_found":
            raise
    return None


def says_other(key: str, declared: Format) -> bool:
    """Return whether the key's extension says another format than the declared one. One that says none does not."""
    path = PurePosixPath(key.lower())
    suffix = PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix
    return declared not in _SAYS.get(suffix, {declared})


def _matching(
    objects: Objects, ref: SourceRef, most: int, declared: Format | None, advance: Callable[[], None]
) -> Iterator[Source]:
    glob = Glob(ref.key) if ref.kind is SourceKind.GLOB else None
    seen = matching = found = 0
    for page in objects.list_prefix(ref.bucket, glob.prefix if glob else ref.key, ref.region):
        advance()
        for source in page:
            if (source.size == 0 and source.key.endswith("/")) or (glob and not glob.matches(source.key)):
                continue
            matching += 1
            if declared is None or not says_other(source.key, declared):
                found += 1
                yield _checked(source)
        _check_count(found, most)
        seen += max(len(page), 1)
        if seen > most * MOST_SEEN:
            raise _too_many(f"more than {most * MOST_SEEN} objects would have to be looked through")
    if not found:
        raise _nothing(ref, matching, declared)


def _checked(source: Source) -> Source:
    if fault := key_fault(source.key):
        raise Terminal("source_unreadable", f"The object {_shown(source.key)} cannot be read: {fault}.")
    return source


def _pin_all(objects: Objects, ref: SourceRef, keys: Iterable[str], advance: Callable[[], None]) -> Iterator[Source]:
    def pin(key: str) -> Source:
        try:
            return objects.pin(SourceRef(ref.bucket, key, ref.region))
        except Terminal as error:
            text = f"The list of keys names {_shown(key)}. {error.public}"
            raise Terminal(error.code, text, str(error)) from error

    with ThreadPoolExecutor(_HEADS) as pool:
        for source in pool.map(pin, keys):
            advance()
            yield source


def _read_list(objects: Objects, ref: SourceRef, *, most: int) -> Iterator[str]:
    """Yield the keys of a list: text in UTF-8, one a line, ``#`` and blank lines left out, compressed or not."""
    manifest = objects.pin(ref)
    if manifest.size > MOST_LIST_BYTES:
        raise _too_long()
    content = objects.read_whole(manifest, most=MOST_LIST_BYTES + 1, sniff=sniff_compression)
    if len(content) > MOST_LIST_BYTES:
        raise _too_long()
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise Terminal("invalid_manifest", "The list of keys is not text in UTF-8.") from None
    bucket, count = SourceRef(ref.bucket, "", ref.region), 0
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith("#"):
            yield _key_of(line, number, bucket)
            count += 1
            _check_count(count, most)
    if not count:
        raise Terminal("source_not_found", "The list of keys names no object.")


def _key_of(line: str, number: int, bucket: SourceRef) -> str:
    try:
        return listed_key(line, bucket, field="")
    except Refusal as refused:
        raise Terminal("invalid_manifest", f"Line {number} of the list of keys: {refused.public}") from None


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise _too_many(f"more than {most} objects match")


def _too_many(what: str) -> Terminal:
    return Terminal("too_many_objects", f"The source is too large for one import: {what}. Import it in parts.")


def _too_long() -> Terminal:
    text = f"The list of keys is longer than {MOST_LIST_BYTES // 2**20} MiB."
    return Terminal("invalid_manifest", text)


def _nothing(ref: SourceRef, matching: int, declared: Format | None) -> Terminal:
    what = "matches the pattern" if ref.kind is SourceKind.GLOB else "begins with the prefix"
    text = f"No object of the bucket {what} {_shown(ref.key)}."
    if matching and declared:
        text = f"Of {matching} objects none {what} {_shown(ref.key)} and is {declared.value} by its name."
    return Terminal("source_not_found", text)


def _shown(key: str) -> str:
    """Return a key as a sentence may hold it: no control characters, and not more than is needed to know it again."""
    return repr(key if len(key) <= 200 else f"{key[:200]}...")
