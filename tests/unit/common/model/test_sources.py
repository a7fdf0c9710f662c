"""Addresses of objects: what is read, and what is refused because it could name another host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Refusal
from common.model.sources import SourceRef, parse_s3_url


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
    assert parse_s3_url(url) == expected


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
    ],
)  # fmt: skip
def test_what_could_name_another_host_or_no_object_is_refused(url: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_s3_url(url, field="s3Path")
    assert (refused.value.code, refused.value.field) == ("invalid_source_url", "s3Path")


@pytest.mark.parametrize("region", ["", "x", "eu-west-1.evil.com/", "eu-west-1\n", "EU-WEST-1"])
def test_a_region_is_a_regions_name_or_refused(region: str) -> None:
    if region == "":
        assert parse_s3_url("s3://bucket/key", region=region).region == "us-east-1"
    else:
        with pytest.raises(Refusal):
            parse_s3_url("s3://bucket/key", region=region)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_and_never_fails(text: str) -> None:
    for url in (text, f"s3://{text}", f"https://{text}", f"https://{text}.s3.amazonaws.com/{text}"):
        try:
            ref = parse_s3_url(url)
        except Refusal:
            continue
        assert ref.bucket.replace(".", "").replace("-", "").isalnum()
        assert ref.key
