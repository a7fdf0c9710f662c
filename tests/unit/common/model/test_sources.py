"""Addresses of objects: what is read, and what is refused because it could name another host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Refusal
from common.model.sources import SourceKind, SourceRef, key_fault, list_keys, parse_s3_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://mybucket/purchases.json", SourceRef("mybucket", "purchases.json")),
        ("s3://my.bucket-1/a/b/c%20d?x#y", SourceRef("my.bucket-1", "a/b/c%20d?x#y")),
        ("s3://mybucket/ünicode/日本", SourceRef("mybucket", "ünicode/日本")),
        ("https://mybucket.s3.amazonaws.com/a/b", SourceRef("mybucket", "a/b")),
        ("https://mybucket.s3.eu-west-1.amazonaws.com/a%20b", SourceRef("mybucket", "a b", "eu-west-1")),
        ("https://mybucket.s3-us-west-2.amazonaws.com/a", SourceRef("mybucket", "a", "us-west-2")),
        ("https://s3.us-gov-west-1.amazonaws.com/mybucket/a", SourceRef("mybucket", "a", "us-gov-west-1")),
        ("https://s3.amazonaws.com/mybucket/a", SourceRef("mybucket", "a")),
        ("HTTPS://S3.amazonaws.com/mybucket/A", SourceRef("mybucket", "A")),
    ],
)
def test_every_spelling_of_an_object_is_read(url: str, expected: SourceRef) -> None:
    assert parse_s3_url(url, kind=SourceKind.OBJECT) == expected


@pytest.mark.parametrize(
    ("url", "kind", "key"),
    [
        ("s3://bucket/a", SourceKind.OBJECT, "a"),
        ("s3://bucket", SourceKind.PREFIX, ""),
        ("s3://bucket/", SourceKind.PREFIX, ""),
        ("s3://bucket/a/b/", SourceKind.PREFIX, "a/b/"),
        ("s3://bucket/a*", SourceKind.GLOB, "a*"),
        ("s3://bucket/**/x?.json", SourceKind.GLOB, "**/x?.json"),
        ("s3://bucket/a-*/", SourceKind.GLOB, "a-*/"),
        ("https://bucket.s3.amazonaws.com", SourceKind.PREFIX, ""),
        ("https://bucket.s3.eu-west-1.amazonaws.com/a%20b/", SourceKind.PREFIX, "a b/"),
        ("https://s3.eu-west-1.amazonaws.com/bucket/a/*.json", SourceKind.GLOB, "a/*.json"),
        ("https://s3.amazonaws.com/bucket", SourceKind.PREFIX, ""),
        ("https://bucket.s3.amazonaws.com/what%3F", SourceKind.OBJECT, "what?"),
        ("https://bucket.s3.amazonaws.com/a%2Ab", SourceKind.OBJECT, "a*b"),
        ("https://bucket.s3.amazonaws.com/a%2fb", SourceKind.OBJECT, "a/b"),
    ],
)
def test_the_form_of_an_address_says_what_it_names(url: str, kind: SourceKind, key: str) -> None:
    ref = parse_s3_url(url)

    assert (ref.bucket, ref.kind, ref.key) == ("bucket", kind, key)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("s3://bucket/a*b?", SourceKind.OBJECT),
        ("s3://bucket/logs/2024-", SourceKind.PREFIX),
        ("s3://bucket/keys.txt", SourceKind.MANIFEST),
        ("s3://bucket/plain", SourceKind.GLOB),
    ],
)
def test_a_declared_kind_wins_over_the_form(url: str, kind: SourceKind) -> None:
    assert parse_s3_url(url, kind=kind) == SourceRef("bucket", url.removeprefix("s3://bucket/"), kind=kind)


@pytest.mark.parametrize("kind", [SourceKind.OBJECT, SourceKind.MANIFEST])
@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://bucket/dir/", "https://bucket.s3.amazonaws.com/"])
def test_where_an_object_is_wanted_a_folder_is_refused(url: str, kind: SourceKind) -> None:
    with pytest.raises(Refusal, match="it names no object"):
        parse_s3_url(url, kind=kind)


def test_a_list_of_keys_is_in_order_and_each_once_beneath_its_prefix() -> None:
    names = ["b", "a/c", "b", "s3://bucket/else/where", "x*y?", "\U0001f600", "\uffee", "Z"]
    ref = list_keys(parse_s3_url("s3://bucket/in/"), names)

    assert ref.kind is SourceKind.MANIFEST
    assert ref.keys == ("else/where", "in/Z", "in/a/c", "in/b", "in/x*y?", "in/\uffee", "in/\U0001f600")
    assert [*ref.keys] == sorted(ref.keys, key=str.encode)
    assert list_keys(parse_s3_url("s3://bucket"), ["a"]).keys == ("a",)


@pytest.mark.parametrize("name", ["s3://other/key", "../up", "a/./b", "", "a/", "a\nb", "x" * 1025, "s3://bucket/../a"])
def test_a_list_with_an_entry_that_is_no_key_of_its_bucket_names_the_entry(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        list_keys(parse_s3_url("s3://bucket"), ["fine", name])
    assert (refused.value.code, refused.value.field) == ("invalid_source_url", "source.keys.1")


def test_beside_a_list_of_keys_the_address_is_a_bucket_or_a_folder() -> None:
    with pytest.raises(Refusal) as refused:
        list_keys(parse_s3_url("s3://bucket/key", kind=SourceKind.PREFIX), ["a"])
    assert refused.value.field == "source.url"


def test_a_key_that_a_listing_shows_is_asked_for_unless_it_could_lead_elsewhere() -> None:
    assert [key_fault(key) for key in ("a\nb", "a b+c%20&<>", "...", "a..b", "/a", "日本")] == [None] * 6
    assert all(key_fault(key) for key in ("a/../b", "..", "./a", "a/.", "a\0b", "é" * 513))


@pytest.mark.parametrize(
    "url",
    [
        "", "s3", "s3:", "s3://", "s3:///key", "s3://bucket", "s3://bucket/", "s3://bucket/dir/", "bucket/key",
        "http://bucket.s3.amazonaws.com/key", "ftp://bucket/key", "file:///etc/passwd",
        "https://example.com/key", "https://bucket.s3.amazonaws.com.example.com/key",
        "https://bucket.s3.amazonaws.com@example.com/key", "https://example.com#.s3.amazonaws.com/key",
        "https://bucket.s3.amazonaws.com:8080/key", "https://user:pw@bucket.s3.amazonaws.com/key",
        "https://bucket.s3.amazonaws.com/key?versionId=1", "https://bucket.s3.amazonaws.com/key#x",
        "https://169.254.169.254/latest", "https://localhost/key", "https://[::1]/key", "https://[bad/key",
        "s3://127.0.0.1/key", "s3://Bucket/key", "s3://bu_cket/key", "s3://bucket@host/key", "s3://bucket:80/key",
        "s3://bucket#x/key", "s3://bucket?x/key", "s3://../key", "s3://a..b/key", "s3://ab/key", "s3://-abc/key",
        "s3://bucket/k\ney", "s3://bucket/k\0y", "https://bucket.s3.amazonaws.com/k%0ay",
        "s3:bucket/key", "s3:/bucket/key", "s3:xxbucket/key", "s3:\\\\bucket/key", "S3:..bucket/key", " s3://bucket/key",
        "s3://bucket--x-s3/key", "s3://bucket/" + "x" * 1025, "s3://arn:aws:s3:eu-west-1:1:accesspoint/p/key", "s3://bucket%2f/key",
        "https://%62ucket.s3.amazonaws.com.evil/key", "s3://" + "b" * 64 + "/key", "s3://bucket/\ud800",
        "https://bucket.s3.amazonaws.com:443/key", "https://10.0.0.1/bucket/key", "https://0x7f000001/k", "https://2130706433/k",
        "https://127.0.0.1.s3.amazonaws.com/key", "s3://169.254.169.254/latest", "s3://./key", "s3://.../key",
        "https://s3.amazonaws.com/../key", "https://s3.amazonaws.com/bucket%2fkey", "https://s3.amazonaws.com/bucket%2f..%2fx/key",
        "s3://bucket/a/../../other/key", "s3://bucket/..", "https://bucket.s3.amazonaws.com/%2e%2e/other/key",
        "https://bucket%2f@evil.example/key", "https://bucket.s3.amazonaws.com%2f.evil.example/key",
        "https://evil.example/.s3.amazonaws.com/key", "https://bucket.s3.amazonaws.com.evil.example/key",
        "https://evil.example?.s3.amazonaws.com/key", "https://evil.example\\.s3.amazonaws.com/key",
        "https://bucket.s3.amazonaws.com./key", "https://.s3.amazonaws.com/key", "https://s3.evil.example/bucket/key",
        "https://point-123456789012.s3-accesspoint.eu-west-1.amazonaws.com/key", "s3://point-abcdefgh-s3alias/key",
        "https://arn:aws:s3:eu-west-1:123456789012:accesspoint/p/key", "s3://arn:aws:s3-outposts:x/key", "s3://lambda--ol-s3/key",
        "https://bucket.s3-website-eu-west-1.amazonaws.com/key", "https://bucket.s3-accelerate.amazonaws.com/key",
        "https://bucket\uff0es3.amazonaws.com/key", "https://buc\u212aet.s3.amazonaws.com/key", "s3://b\u00fccket/key",
        "s3://buc\u2044ket/key", "https://bucket.s3.eu-west-\uff11.amazonaws.com/key", "s3://bucket/k\ty", "s3://bu\tcket/key",
        "https://bucket.s3.amazonaws.com/%ff", "https://bucket.s3.amazonaws.com/k%00y", "https://bucket.s3.amazonaws.com/k%7fy",
    ],
)  # fmt: skip
def test_what_could_name_another_host_or_no_object_is_refused(url: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_s3_url(url, kind=SourceKind.OBJECT, field="s3Path")
    assert (refused.value.code, refused.value.field) == ("invalid_source_url", "s3Path")


@pytest.mark.parametrize("region", ["", "x", "eu-west-1.evil.com/", "eu-west-1\n", "EU-WEST-1", "eu-west-\uff11"])
def test_a_region_is_a_regions_name_or_refused(region: str) -> None:
    if region == "":
        assert parse_s3_url("s3://bucket/key", region=region).region == "us-east-1"
    else:
        with pytest.raises(Refusal):
            parse_s3_url("s3://bucket/key", region=region)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_and_never_fails(text: str) -> None:
    for url in (text, f"s3://{text}", f"https://{text}", f"https://{text}.s3.amazonaws.com/{text}"):
        for kind in (None, *SourceKind):
            try:
                ref = parse_s3_url(url, kind=kind)
            except Refusal:
                continue
            assert ref.bucket.replace(".", "").replace("-", "").isalnum()
            assert ref.bucket.isascii()
            assert ref.key or ref.kind in (SourceKind.PREFIX, SourceKind.OBJECT_OR_PREFIX, SourceKind.GLOB)
            assert ref.kind is (kind or ref.kind)
