"""Seals what is secret and has to be known: callers' S3 credentials, projects' master keys, the secrets of key pairs.

Only who has the sealing key, and names whose they are, can open them. AES-256-GCM of the cryptography library. The id
of the import, of the project or of the pair is bound in as associated data, so that a row's secret moved to another
does not open. A fresh random nonce a seal. A new key first opens everywhere, and then moves to the front.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import Terminal
from common.model.imports import Credentials
from common.settings import SettingsError

_NONCE_BYTES = 12


class Sealer:
    """Seals with the first key, opens with any."""

    def __init__(self, keys: str) -> None:
        """Take comma-separated base64 keys of 32 bytes, the one to seal with first. Raises SettingsError."""
        decoded = [_decode(key) for key in keys.split(",") if key.strip()]
        if not decoded:
            message = "PENSTOCK_SEALING_KEYS holds no key"
            raise SettingsError(message)
        self._ciphers = [AESGCM(key) for key in decoded]
        self._fingerprint_keys = [_fingerprint_key(key) for key in decoded]

    def seal(self, job_id: str, credentials: Credentials) -> bytes:
        """Return the credentials as bytes that only ``open`` with the same id can read."""
        text = json.dumps([credentials.access_key_id, credentials.secret_access_key, credentials.session_token])
        return self._seal(job_id, text)

    def open(self, job_id: str, sealed: bytes) -> Credentials:
        """Return the credentials. Raises Terminal where no key of ours opens them."""
        text = self._open(job_id, sealed)
        if text is not None:
            return Credentials(*json.loads(text))
        raise Terminal(
            "credentials_unreadable",
            "The S3 credentials of this job can no longer be read; start it again with fresh ones.",
            "no sealing key opens the secret: was a key taken away before its jobs had ended?",
        )

    def seal_master_key(self, project_id: str, key: str) -> bytes:
        """Return a project's master key as bytes that only ``open_master_key`` with the same id can read."""
        return self._seal(_master_of(project_id), key)

    def open_master_key(self, project_id: str, sealed: bytes) -> str | None:
        """Return the master key; None where no key of ours opens it."""
        return self._open(_master_of(project_id), sealed)

    def reseal_master_key(self, project_id: str, sealed: bytes) -> bytes | None:
        """Return the master key sealed with the first key; None where no key of ours opens it."""
        return self._reseal(_master_of(project_id), sealed)

    def seal_secret(self, access_key_id: str, secret: str) -> bytes:
        """Return the secret of a key pair as bytes that only ``open_secret`` with the same id can read."""
        return self._seal(_secret_of(access_key_id), secret)

    def open_secret(self, access_key_id: str, sealed: bytes) -> str | None:
        """Return the secret; None where no key of ours opens it."""
        return self._open(_secret_of(access_key_id), sealed)

    def reseal_secret(self, access_key_id: str, sealed: bytes) -> bytes | None:
        """Return the secret sealed with the first key; None where no key of ours opens it."""
        return self._reseal(_secret_of(access_key_id), sealed)

    def _seal(self, owner: str, text: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, text.encode(), owner.encode())

    def _open(self, owner: str, sealed: bytes) -> str | None:
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode()).decode()
            except (InvalidTag, ValueError):  # the latter of one too short to be sealed
                continue
        return None

    def _reseal(self, owner: str, sealed: bytes) -> bytes | None:
        text = self._open(owner, sealed)
        return None if text is None else self._seal(owner, text)

    def fingerprint(self, request: str) -> bytes:
        """Return 32 bytes that stand for a request, and tell nobody without our key what it was."""
        return _fingerprint(self._fingerprint_keys[0], request)

    def has_fingerprint(self, request: str, fingerprint: bytes) -> bool:
        """Return whether the fingerprint is the request's, by any of our keys: they may have been rotated since."""
        return any(hmac.compare_digest(_fingerprint(key, request), fingerprint) for key in self._fingerprint_keys)


def _master_of(project_id: str) -> str:
    """Return what is bound in: no job's id, whatever the project's."""
    return f"master key of {project_id}"


def _secret_of(access_key_id: str) -> str:
    return f"secret of {access_key_id}"


def _fingerprint_key(key: bytes) -> bytes:
    """Derive a key: one that encrypts is used for nothing else."""
    return HKDF(SHA256(), length=32, salt=None, info=b"penstock fingerprint").derive(key)


def _fingerprint(key: bytes, request: str) -> bytes:
    return hmac.digest(key, request.encode(), "sha256")


def _decode(key: str) -> bytes:
    try:
        raw = base64.b64decode(key.strip().replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 32:
        message = "PENSTOCK_SEALING_KEYS takes base64 of 32 bytes each, comma-separated"
        raise SettingsError(message)
    return raw
