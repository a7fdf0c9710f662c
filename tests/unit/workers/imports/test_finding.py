"""What a reference names: order, what is left out, and where it ends. S3 is a dict here."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Terminal
from common.model.formats import Compression, Format
from common.model.sources import Source, SourceKind, SourceRef, list_keys
from workers.imports import finding
from workers.imports.finding import find_sources, says_other


class Shelf:
    """Objects by key: their content. Lists pages of three, and not in order."""

    def __init__(self, *keys: str, **content: bytes) -> None:
        self.content = {**dict.fromkeys(keys, b"{}"), **content}
        self.listed: list[str] = []

    def source(self, key: str) -> Source:
        return Source("bucket", key, "us-east-1", len(self.content[key]), '"etag"')

    def pin(self, ref: SourceRef) -> Source:
        if ref.key not in self.content:
            raise Terminal("source_not_found", "There is no such bucket or object in S3.", "404 NoSuchKey")
        return self.source(ref.key)

    def list_prefix(self, bucket: str, prefix: str, region: str) -> Iterator[list[Source]]:
        self.listed.append(prefix)
        keys = iter([key for key in self.content if key.startswith(prefix)])
        while page := [*itertools.islice(keys, 3)]:
            yield [self.source(key) for key in page]

    def read_whole(self, source: Source, *, most: int, sniff: Callable[[bytes], Compression | None]) -> bytes:
        content = self.content[source.key]
        return (gzip.decompress(content) if sniff(content) is Compression.GZIP else content)[:most]


def find(shelf: Any, key: str, kind: SourceKind, *, most: int = 100, **more: Any) -> list[str]:
    return [source.key for source in find_sources(shelf, SourceRef("bucket", key, kind=kind), most=most, **more)]


PREFIX, GLOB, MANIFEST = SourceKind.PREFIX, SourceKind.GLOB, SourceKind.MANIFEST


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0./"), min_size=1, max_size=4)))
def test_objects_are_in_the_order_of_their_keys_bytes_whatever_order_the_server_has(names: set[str]) -> None:
    keys = ["p/" + name for name in names] or ["p/only"]

    assert find(Shelf(*keys, "q"), "p/", PREFIX) == sorted(keys, key=str.encode)
    assert find(Shelf(*keys), "**", GLOB) == sorted(keys, key=str.encode)


def test_marks_of_folders_are_left_out_and_empty_objects_are_not() -> None:
    shelf = Shelf("p/a", **{"p/": b"", "p/sub/": b"", "p/empty": b"", "p/odd/": b"{}"})

    assert find(shelf, "p/", PREFIX) == ["p/a", "p/empty", "p/odd/"]


def test_a_glob_lists_by_its_beginning_and_takes_what_matches() -> None:
    shelf = Shelf("logs/a.json", "logs/b/c.json", "logs/d.csv", "logz/e.json")

    assert find(shelf, "logs/*.json", GLOB) == ["logs/a.json"]
    assert find(shelf, "logs/**/*.json", GLOB) == ["logs/a.json", "logs/b/c.json"]
    assert shelf.listed == ["logs/", "logs/"]


def test_a_declared_format_leaves_out_what_says_another_one() -> None:
    shelf = Shelf("p/a.csv", "p/b.CSV.gz", "p/c.json", "p/d.ndjson.zst", "p/endpoints-file", "p/e.txt", "p/f.parquet")

    assert find(shelf, "p/", PREFIX, declared=Format.CSV) == ["p/a.csv", "p/b.CSV.gz", "p/e.txt", "p/endpoints-file"]
    assert "p/c.json" in find(shelf, "p/", PREFIX, declared=Format.NDJSON)
    assert "p/d.ndjson.zst" not in find(shelf, "p/", PREFIX, declared=Format.JSON)
    assert len(find(shelf, "p/", PREFIX)) == 7


@pytest.mark.parametrize("kind", [SourceKind.OBJECT, MANIFEST])
def test_an_object_that_is_named_is_taken_whatever_its_name_says(kind: SourceKind) -> None:
    shelf = Shelf("a.csv", list=b"a.csv")

    assert find(shelf, "list" if kind is MANIFEST else "a.csv", kind, declared=Format.JSON) == ["a.csv"]


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("a", False),
        ("a.gz", False),
        ("dir.csv/a", False),
        ("a.json.gz", True),
        ("a.csv", False),
        (".json", False),
        ("a.b.jsonl", True),
    ],
)
def test_only_the_last_extension_of_the_last_part_says_a_format(key: str, other: bool) -> None:
    assert says_other(key, Format.CSV) is other


@pytest.mark.parametrize(
    ("key", "kind", "declared"),
    [("q/", PREFIX, None), ("p/*.xml", GLOB, None), ("p/", PREFIX, Format.CSV), ("none", MANIFEST, None)],
)
def test_where_nothing_matches_the_import_says_so(key: str, kind: SourceKind, declared: Format | None) -> None:
    with pytest.raises(Terminal, match=r"[Nn]o object|none") as refused:
        find(Shelf("p/a.json", none=b"# nothing\n\n"), key, kind, declared=declared)
    assert refused.value.code == "source_not_found"


def test_as_many_objects_as_allowed_are_taken_and_no_more() -> None:
    names = [f"p/{n}" for n in range(7)]
    shelf = Shelf(*names, list="\n".join(names).encode())
    for key, kind in (("p/", PREFIX), ("p/*", GLOB), ("list", MANIFEST)):
        assert find(shelf, key, kind, most=7) == names
        with pytest.raises(Terminal) as refused:
            find(shelf, key, kind, most=6)
        assert refused.value.code == "too_many_objects"


def test_a_bucket_without_end_is_not_listed_to_its_end() -> None:
    class Endless(Shelf):
        def list_prefix(self, *_: str) -> Iterator[list[Source]]:
            return itertools.repeat([])

    heard: list[None] = []
    with pytest.raises(Terminal) as refused:
        find(Endless(), "p/*", GLOB, most=5, advance=lambda: heard.append(None))
    assert refused.value.code == "too_many_objects"
    assert len(heard) == 5 * finding.MOST_SEEN + 1


def test_whoever_holds_the_plan_hears_of_each_answer_and_may_stop() -> None:
    shelf, heard = Shelf(*"abcdefg", list=b"a\nb"), []

    find(shelf, "", PREFIX, advance=lambda: heard.append(1))
    assert len(heard) == 3
    find(shelf, "list", MANIFEST, advance=lambda: heard.append(2))
    assert heard[3:] == [2, 2, 2]

    def stop() -> None:
        raise RuntimeError("the lease is lost")

    for key, kind in (("", PREFIX), ("list", MANIFEST)):
        with pytest.raises(RuntimeError):
            find(shelf, key, kind, advance=stop)


def test_a_list_of_keys_is_read_as_people_write_it() -> None:
    text = "\ufeff# a list\r\n  b.json \r\n\ns3://bucket/a.json\nb.json\n#c\nhttps://bucket.s3.amazonaws.com/d%20e"
    shelf = Shelf("a.json", "b.json", "d e", plain=text.encode(), packed=gzip.compress(text.encode()))

    assert find(shelf, "plain", MANIFEST) == find(shelf, "packed", MANIFEST) == ["a.json", "b.json", "d e"]


def test_a_list_in_the_request_needs_no_object() -> None:
    ref = list_keys(SourceRef("bucket", "p/", kind=PREFIX), ["b", "a"])
    shelf: Any = Shelf("p/a", "p/b")

    assert [source.key for source in find_sources(shelf, ref, most=2)] == ["p/a", "p/b"]


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"a\ns3://other/b", "invalid_manifest", "Line 2"),
        (b"# c\n\na/../b", "invalid_manifest", "Line 3"),
        (b"folder/", "invalid_manifest", "Line 1"),
        (b"a\0b", "invalid_manifest", "Line 1"),
        (b"\xff\xfea\0", "invalid_manifest", "UTF-8"),
        (b"a\nmissing.json", "source_not_found", "'missing.json'"),
    ],
)
def test_a_list_that_cannot_be_followed_says_where(content: bytes, code: str, words: str) -> None:
    with pytest.raises(Terminal) as refused:
        find(Shelf("a", list=content), "list", MANIFEST)
    assert refused.value.code == code
    assert words in refused.value.public


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_list_that_is_too_long_is_refused_unread_or_unpacked(
    compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "MOST_LIST_BYTES", 1000)
    with pytest.raises(Terminal) as refused:
        find(Shelf("a", list=compress(b"a\n" * 600)), "list", MANIFEST)
    assert refused.value.code == "invalid_manifest"


def test_a_key_that_could_lead_elsewhere_is_not_asked_for() -> None:
    with pytest.raises(Terminal) as refused:
        find(Shelf("p/a", "p/../../other/secret"), "p/", PREFIX)
    assert refused.value.code == "source_unreadable"
