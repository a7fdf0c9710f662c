"""Roles that a caller's objects are read with: how one is written, and the operator's table of them. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from common.errors import Refusal, Terminal
from common.model.imports import Credentials

_ROLE = re.compile(r"arn:(?P<partition>aws[a-z-]{0,20}):iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}", re.ASCII)
#: Stands for every role, or every bucket.
ALL = "*"


@dataclass(frozen=True, slots=True)
class Grant:
    """What the operator's table gives for a role."""

    credentials: Credentials
    buckets: frozenset[str]
    #: Names or ids of the projects that may use it; None for all.
    projects: frozenset[str] | None = None
    #: Whether exports may write with it; imports read with any.
    writes: bool = False

    def has_bucket(self, bucket: str) -> bool:
        """Return whether it may be used for this bucket."""
        return bool({bucket, ALL} & self.buckets)

    def has_project(self, *names: str) -> bool:
        """Return whether the project, by any of its names, may use it."""
        return self.projects is None or bool(self.projects & {*names})


@dataclass(frozen=True, slots=True)
class RoleUse:
    """What a job needs a role for."""

    job_id: str
    project_id: str
    role: str
    bucket: str
    #: Whether it writes to the bucket; else it reads.
    writes: bool = False


def read_roles(text: str) -> dict[str, Grant]:
    """Return the table of grants by role. Raises ValueError where the text is no such table, without a word of it."""
    try:
        return {_role(role): _grant(entry) for role, entry in json.loads(text or "{}").items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        message = "not a table of roles"
        raise ValueError(message) from None


def check_role(role: str, *, field: str = "source.roleArn") -> str:
    """Return the ARN of a role. Raises Refusal ``invalid_role``."""
    if not _ROLE.fullmatch(role):
        text = "This is not the ARN of a role. Write arn:aws:iam::123456789012:role/name."
        raise Refusal("invalid_role", text, field=field)
    return role


def external_id(project_id: str) -> str:
    """Return what a role's trust policy has to ask for, so that no other project can have us take it.

    Chosen by us and the same for all roles of a project; it need not be secret, since nobody can choose another's.
    """
    return project_id


def not_assumable(external: str, internal: str = "") -> Terminal:
    """Return the end of a job whose role we cannot take."""
    text = (
        "The role that was named could not be assumed. Its trust policy has to name this service, "
        f"with the external id {external}."
    )
    return Terminal("role_not_assumable", text, internal)


_READING = ("s3:GetObject", "s3:ListBucket")
_WRITING = (
    "s3:PutObject",
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListBucketMultipartUploads",
)


def session_policy(use: RoleUse) -> str:
    """Return the policy of a session that needs no more of the role than to read, or to write to, one bucket."""
    found = _ROLE.fullmatch(use.role)
    arn = f"arn:{found['partition'] if found else 'aws'}:s3:::{use.bucket}"
    actions = _WRITING if use.writes else _READING
    access = {"Effect": "Allow", "Action": list(actions), "Resource": [arn, f"{arn}/*"]}
    # What S3 needs where the bucket's owner encrypts with a key of their own; a multipart upload needs both.
    keys = ["kms:Decrypt", "kms:GenerateDataKey"] if use.writes else "kms:Decrypt"
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [access, {"Effect": "Allow", "Action": keys, "Resource": ALL}]}
    )


def _role(role: str) -> str:
    if role != ALL and not _ROLE.fullmatch(role):
        raise ValueError
    return role


def _grant(entry: dict[str, Any]) -> Grant:
    known = {"accessKeyId", "secretAccessKey", "buckets", "projects", "writes"}
    key_id, secret = entry["accessKeyId"], entry["secretAccessKey"]
    if set(entry) - known or not all(isinstance(text, str) and text for text in (key_id, secret)):
        raise ValueError
    projects = _names(entry["projects"]) if "projects" in entry else None
    writes = entry.get("writes", False)
    if writes is not True and writes is not False:
        raise ValueError
    return Grant(Credentials(key_id, secret), _names(entry["buckets"]), projects, writes)


def _names(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ValueError
    return frozenset(value)
