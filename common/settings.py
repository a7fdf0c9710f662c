"""Every setting of the service: name, default and meaning. Read from the environment once, at start.

The names of the three servers are the customary ones; all others begin with ``PENSTOCK_`` and are the field's name
in capitals. A value that cannot be read ends the process at once, naming the variable.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from common.model.roles import read_roles

MIB = 1024 * 1024

#: Fields whose variable has a customary name of its own.
_CUSTOMARY = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL", "s3_endpoint_url": "S3_ENDPOINT_URL"}


class SettingsError(SystemExit):
    """A setting is missing or cannot be read; the text names the variable and what it takes.

    A process that catches it nowhere ends with the text alone on standard error.
    """


def setting(
    doc: str,
    default: Any = dataclasses.MISSING,
    *,
    secret: bool = False,
    least: float = 1,
    takes: Callable[[str], object] = bool,
) -> Any:
    """Declare a setting with the sentence that documents it.

    Of a number: the least it may be. Of a text: what has to be true of it; may raise ValueError where it is not.
    """
    metadata = {"doc": doc, "least": least, "takes": takes, "secret": secret}
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


def matches(pattern: str) -> Callable[[str], object]:
    """Return what is true of a text that has the form of the pattern from end to end."""
    return re.compile(pattern, re.ASCII).fullmatch


def read_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the networks named in a comma-separated list; an address is a network of one. Raises ValueError."""
    return tuple(ip_network(name.strip()) for name in text.split(",") if name.strip())


def is_role_table(text: str) -> bool:
    """Return True for a table of roles. Raises ValueError."""
    read_roles(text)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process."""

    database_url: str = setting("Postgres, as a libpq URL.", secret=True)
    redis_url: str = setting("Redis or Valkey 6.2 or newer: queue, progress, routes of duplicates.", secret=True)
    s3_endpoint_url: str = setting("The S3 endpoint; empty for Amazon's own. Callers never choose it.", "")
    sealing_keys: str = setting(
        "Keys that seal S3 keys and master keys: base64 of 32 bytes each, comma-separated; the first seals, all open.",
        secret=True,
    )
    base_url: str = setting(
        "How callers reach the service; the start of every Location and link, such as https://events.example.com/in.",
        "",
        takes=matches(r"https?://[^\s/?#@]+(/[^\s?#]*)?"),
    )
    proxies: str = setting(
        "Proxies whose X-Forwarded-For, -Proto and -Host are believed: addresses or networks, comma-separated.",
        "",
        takes=read_networks,
    )

    import_limit: int = setting("Active imports that a project may have, unless its row says otherwise.", 15)
    endpoint_import_limit: int = setting(
        "Active imports of endpoints that a project may have, among all of its own.", 2
    )
    endpoint_import_bytes: int = setting("Bytes of all objects above which an import of endpoints fails.", 1024 * MIB)
    export_limit: int = setting("Active exports that a project may have.", 5)
    max_rejects: int = setting(
        "Rejected lines above which an import fails, unless its request allows fewer.", 1_000_000, least=0
    )
    max_line_bytes: int = setting("Length above which a line is rejected.", MIB)
    # Nobody means to send more: one worker, at 40 MB/s, needs 8 hours for it.
    max_decoded_bytes: int = setting(
        "Bytes that a compressed object may hold once decompressed; beyond them its import fails.", MIB * MIB
    )
    # JSON lines have 4 to 30; one line over and over had 294 by gzip (which ends at 1032) and 10,800 by Zstandard.
    max_ratio: int = setting(
        "How many times its size a compressed object may grow to, looked at after the first 64 MiB.", 1000
    )
    register_unknown: int = setting(
        "1: a UUID that a line or a path names and nobody registered is registered by that; 0: it is unknown.",
        0,
        least=0,
    )
    auth_failures: int = setting(
        "Requests a minute that an address may send with a wrong key, a tenth of it with one key's id; 0: no limit.",
        100,
        least=0,
    )
    secret_days: int = setting("Days after which a caller's S3 credentials are deleted in any case.", 7)

    chunk_bytes: int = setting("Size of a chunk: the unit of work, retry and commit.", 8 * MIB)
    window: int = setting("Chunks of one import that are in the queue or in work at a time.", 8)
    chunk_attempts: int = setting("Attempts after which a chunk that never ends well fails its import.", 25)
    lease_seconds: float = setting("How long a worker holds a chunk without showing progress.", 30.0, least=0.1)
    lease_ceiling_seconds: float = setting(
        "How long it may hold one in all; two minutes later its task is ended.", 600.0, least=0.1
    )
    walk_ceiling_seconds: float = setting(
        "The same of a chunk that only a walker takes, since it goes through a whole object.", 86_400.0, least=0.1
    )
    export_ceiling_seconds: float = setting(
        "How long an exporter may be at one attempt at an export; two minutes later its task is ended.",
        86_400.0,
        least=0.1,
    )
    sweep_seconds: float = setting("Pause between two rounds of the sweep.", 2.0, least=0.01)
    resend_seconds: float = setting("Age from which a message that led to nothing is sent again.", 5.0, least=0.1)
    watchdog_seconds: float = setting(
        "How long a worker with a free process may start nothing while work waits; then it ends, to be started anew.",
        60.0,
        least=0.1,
    )
    stop_seconds: float = setting(
        "How long a worker that is told to stop lets chunks under way finish; then it gives them back.", 10.0, least=0
    )
    resend_queue_bound: int = setting(
        "Messages that may wait beyond those for work that is due; with more of them nothing is sent again.", 64
    )

    seen_ids: int = setting("Ids that the routes of duplicates keep in Redis in all; about 72 bytes each.", 5_000_000)
    seen_seconds: int = setting("Seconds after its last use that a collection's routes are forgotten.", 86_400)
    database_timeout_seconds: float = setting(
        "How long the web process waits for an answer of Postgres; then its caller is asked to come again.",
        20.0,
        least=0.1,
    )
    redis_timeout_seconds: float = setting(
        "How long an answer of Redis is waited for; it only speeds things up.", 2.0, least=0.01
    )

    s3_addressing: str = setting("path, virtual or auto; path is what most servers other than Amazon's need.", "auto")
    s3_checksums: str = setting("when_required or when_supported: extra checksums of the S3 client.", "when_required")
    s3_timeout_seconds: float = setting("How long a byte of S3 is waited for.", 10.0, least=0.1)
    s3_access_key_id: str = setting("The service's own key to S3, for its own buckets only.", "", secret=True)
    s3_secret_access_key: str = setting("The secret of that key.", "", secret=True)
    own_buckets: str = setting(
        "Buckets that callers may read with the service's own key: comma-separated, or * for all of its S3.", ""
    )
    own_export_buckets: str = setting(
        "Buckets that callers may export to with the service's own key: comma-separated, or * for all of its S3.", ""
    )
    max_objects: int = setting("Objects that an import may take in; 10,000 at the most.", 10_000)
    roles: str = setting(
        "What opens callers' roles, before STS is asked: JSON, by ARN or * an object of accessKeyId, secretAccessKey, "
        'buckets (a list, ["*"] for all), writes (true where exports may use it) and, if not for all, projects (a list '
        "of names or ids).",
        "",
        secret=True,
        takes=is_role_table,
    )
    sts_endpoint_url: str = setting(
        "The STS that lends keys for callers' roles, such as https://sts.eu-west-1.amazonaws.com; empty for none.",
        "",
        takes=matches(r"https?://[^\s/?#@]+/?"),
    )
    sts_access_key_id: str = setting("The service's own key to STS.", "", secret=True)
    sts_secret_access_key: str = setting("The secret of that key.", "", secret=True)
    spool_bucket: str = setting(
        "The service's own bucket, without versions of objects, for bodies sent to it; empty: it takes none.", ""
    )
    spool_region: str = setting("The region of that bucket.", "us-east-1", takes=matches("[a-z0-9-]{1,32}"))
    # Amazon's own limit for an object in one request; at 100 Mbit/s such a body takes seven minutes, and it has to come
    # again from its beginning if the connection breaks.
    max_body_bytes: int = setting("Size above which a body sent to the service is refused.", 5 * 1024 * MIB)
    upload_limit: int = setting(
        "Bodies that a web process reads at a time; each has one of its 16 threads and up to 16 MiB of memory.", 8
    )
    upload_seconds: float = setting(
        "How long a body may make no progress before its import fails; its sender has half of it for each 64 KiB.",
        60.0,
        least=0.1,
    )

    log_level: str = setting("debug, info, warning or error.", "info", takes=matches("debug|info|warning|error"))
    log_format: str = setting(
        "json, text or auto: text where standard error is a terminal, JSON elsewhere.",
        "auto",
        takes=matches("json|text|auto"),
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings. Raises SettingsError at the first one that is missing or unreadable."""
        return cls(**{field.name: read_setting(field.name, environment) for field in dataclasses.fields(cls)})

    def may_read_own(self, bucket: str) -> bool:
        """Return whether the bucket may be read with the service's own key, for a caller who sends none."""
        return self._is_among(bucket, self.own_buckets)

    def may_write_own(self, bucket: str) -> bool:
        """Return whether exports may be written there with the service's own key, for a caller who sends none."""
        return self._is_among(bucket, self.own_export_buckets)

    def _is_among(self, bucket: str, named: str) -> bool:
        if bucket == self.spool_bucket:
            return False  # all projects' bodies are in it
        return bool({bucket, "*"} & set(map(str.strip, named.split(","))))


def read_setting(field_name: str, environment: Mapping[str, str] | None = None) -> Any:
    """Read one setting, for a program that needs no others. Raises SettingsError."""
    environment = os.environ if environment is None else environment
    (field,) = (field for field in dataclasses.fields(Settings) if field.name == field_name)
    name = variable(field_name)
    if text := environment.get(name):
        return _read(name, text, str(field.type), field.metadata)
    if field.default is dataclasses.MISSING:
        message = f"{name} is not set. {field.metadata['doc']}"
        raise SettingsError(message)
    return field.default


def variable(field_name: str) -> str:
    """Return the environment variable of a field."""
    return _CUSTOMARY.get(field_name, f"PENSTOCK_{field_name.upper()}")


def _read(name: str, text: str, kind: str, metadata: Mapping[str, Any]) -> Any:
    try:
        value: Any = {"int": int, "float": float, "str": str}[kind](text)
    except ValueError:
        message = f"{name} takes a number, not {text[:40]!r}"
        raise SettingsError(message) from None
    least = metadata["least"]
    if kind != "str" and not least <= value < 2**62:
        message = f"{name} takes a number from {least} on, not {text[:40]}"
        raise SettingsError(message)
    if kind == "str" and not _is_taken(text, metadata["takes"]):
        shown = "what it is" if metadata["secret"] else repr(text[:80])
        message = f"{name} cannot be {shown}. {metadata['doc']}"
        raise SettingsError(message)
    return value


def _is_taken(text: str, takes: Callable[[str], object]) -> bool:
    try:
        return bool(takes(text))
    except ValueError:
        return False
