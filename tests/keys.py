"""Filtered keys as their makers make them, and as others alter them: by block, on no mode of the library's."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

#: The one that the tests of Connect's .NET client have.
MASTER = "2fMSlDSOGtMWH50wffnCscgGMcJGMQ0s"


def filtered_key(said: Any, *, master: str = MASTER) -> str:
    """Return the filtered key of a document, with a random IV."""
    return encrypted(json.dumps(said).encode(), master=master)


def strict_key(said: Any, *, master: str = MASTER) -> str:
    """Return the same, of a document or of its text, with the IV that strict master keys ask for."""
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return encrypted(text, master=master, iv=hmac.new(master.encode(), text, hashlib.sha256).digest()[:16])


def encrypted(text: bytes, *, master: str = MASTER, iv: bytes | None = None, pad: bool = True) -> str:
    """Return a text, padded or as it is, as HEX(iv)-HEX(ciphertext)."""
    missing = 16 - len(text) % 16
    padded = text + bytes([missing]) * missing if pad else text
    encryptor = Cipher(AES256(master.encode()), ECB()).encryptor()
    blocks = [iv or os.urandom(16)]
    for at in range(0, len(padded), 16):
        blocks.append(encryptor.update(_xor(padded[at : at + 16], blocks[-1])))
    return f"{blocks[0].hex()}-{b''.join(blocks[1:]).hex()}".upper()


def altered(key: str, text: bytes) -> Iterator[str]:
    """Yield keys that somebody makes of one whose text they know, without the master key."""
    iv, ciphertext = map(bytes.fromhex, key.split("-"))
    chain = [iv, *(ciphertext[at : at + 16] for at in range(0, len(ciphertext), 16))]
    heads = [
        b'{"filters":null',
        b'{"canQuery":true',
        b'{"filters":{}',
        b"{",
        b'{"',
        *(b'{"canQuery'[: n + 2] for n in range(9)),
    ]
    for at in range(len(chain) - 2):
        # What the block at + 1 says can be chosen by what stands before it; the rest stays.
        known, rest = text[at * 16 : at * 16 + 16], chain[at + 1 :]
        for head in heads:
            blank = head[:1] + b" " * (16 - len(head)) + head[1:]
            yield f"{_xor(_xor(known, chain[at]), blank).hex()}-{b''.join(rest).hex()}"


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
