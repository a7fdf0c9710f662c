"""Roles as callers write them, and the operator's table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import Refusal
from common.model.roles import RoleUse, check_role, external_id, not_assumable, read_roles, session_policy
from common.settings import Settings, SettingsError

ROLE = "arn:aws:iam::123456789012:role/imports/reader"
ENTRY = {"accessKeyId": "CANARYID", "secretAccessKey": "CANARYSECRET", "buckets": ["mine"]}


@pytest.mark.parametrize(
    "role", [ROLE, "arn:aws-cn:iam::123456789012:role/x", "arn:aws-us-gov:iam::123456789012:role/a_b.c@d"]
)
def test_an_arn_of_a_role_is_taken(role: str) -> None:
    assert check_role(role) == role


@pytest.mark.parametrize(
    "role",
    ["", "reader", "arn:aws:iam::123456789012:user/x", "arn:aws:iam::12345:role/x", "arn:aws:iam::123456789012:role/",
     "arn:aws:sts::123456789012:assumed-role/x/y", ROLE + "\n", ROLE + " ", "arn:aws:iam::１23456789012:role/x", "*",
     "arn:aws:iam::123456789012:role/" + "x" * 513],
)  # fmt: skip
def test_what_is_no_arn_of_a_role_is_refused(role: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_role(role)
    assert (refused.value.code, refused.value.field) == ("invalid_role", "source.roleArn")


def test_the_table_says_which_buckets_and_projects_a_role_is_for() -> None:
    table = read_roles(json.dumps({ROLE: ENTRY, "*": {**ENTRY, "buckets": ["*"], "projects": ["acme"]}}))

    assert (table[ROLE].has_bucket("mine"), table[ROLE].has_bucket("other")) == (True, False)
    assert table[ROLE].has_project("f" * 32, "anybody")
    assert table["*"].has_bucket("any")
    assert (table["*"].has_project("f" * 32, "acme"), table["*"].has_project("f" * 32, "else")) == (True, False)
    assert read_roles("") == {}


@pytest.mark.parametrize(
    "table",
    [
        "CANARYSECRET",
        '["CANARYSECRET"]',
        {"reader": ENTRY},
        {ROLE: "CANARYSECRET"},
        {ROLE: {**ENTRY, "bucket": ["CANARYSECRET"]}},
        {ROLE: {**ENTRY, "buckets": "*"}},
        {ROLE: {**ENTRY, "projects": "CANARYSECRET"}},
        {ROLE: {**ENTRY, "accessKeyId": ""}},
        {ROLE: {"accessKeyId": "CANARYID", "secretAccessKey": "CANARYSECRET"}},
    ],
)
def test_a_table_that_is_none_ends_the_start_without_a_word_of_it(table: Any) -> None:
    text = table if isinstance(table, str) else json.dumps(table)
    given = {"DATABASE_URL": "d", "REDIS_URL": "r", "PENSTOCK_SEALING_KEYS": "k", "PENSTOCK_ROLES": text}
    with pytest.raises(SettingsError, match="PENSTOCK_ROLES") as refused:
        Settings.from_environment(given)
    assert "CANARY" not in str(refused.value)


def test_the_table_shows_no_key_of_it() -> None:
    settings = Settings(database_url="", redis_url="", sealing_keys="", roles=json.dumps({"*": ENTRY}))

    assert "CANARY" not in repr(settings) + repr(read_roles(settings.roles))


def test_each_project_has_an_external_id_that_a_refusal_names() -> None:
    first, second = external_id("a" * 32), external_id("b" * 32)

    assert first != second
    assert 2 <= len(first) <= 1224, "what STS takes"
    assert first in not_assumable(first, "AccessDenied").public
    assert "AccessDenied" not in not_assumable(first, "AccessDenied").public


@pytest.mark.parametrize("partition", ["aws", "aws-cn"])
def test_a_session_may_read_one_bucket_and_no_more(partition: str) -> None:
    role = ROLE.replace("arn:aws:", f"arn:{partition}:")
    read, decrypt = json.loads(session_policy(RoleUse("job", "project", role, "mine")))["Statement"]

    assert read["Resource"] == [f"arn:{partition}:s3:::mine", f"arn:{partition}:s3:::mine/*"]
    assert {*read["Action"], decrypt["Action"]} == {"s3:GetObject", "s3:ListBucket", "kms:Decrypt"}


def test_a_session_that_writes_may_neither_list_the_bucket_nor_read_others() -> None:
    write, keys = json.loads(session_policy(RoleUse("job", "project", ROLE, "mine", writes=True)))["Statement"]

    assert write["Resource"] == ["arn:aws:s3:::mine", "arn:aws:s3:::mine/*"]
    assert {*write["Action"]} >= {"s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject"}
    assert "s3:ListBucket" not in write["Action"]
    assert {*keys["Action"]} == {"kms:Decrypt", "kms:GenerateDataKey"}
