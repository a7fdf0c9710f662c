"""Samples of the seed document on event imports, and of the vendor's description of the calls."""

from __future__ import annotations

#: The artifact of the document's sample, and its file, word for word.
PACKAGE = "970493a1-4ca0-4a4d-a085-fdce578e5a08"
FILE = b"""\
{"$package":"970493a1-4ca0-4a4d-a085-fdce578e5a08","$remote_address":"152.241.796.177","$time":"2024-06-04T00:00:00Z","$unique_id":"c20b1271-fb3f-abfa-df12-ef3cda4b2aa0"}
{"$package":"970493a1-4ca0-4a4d-a085-fdce578e5a08","$remote_address":"600.188.717.651","$time":"2024-06-01T00:00:00Z","$unique_id":"9053a19a-15a9-3695-bd37-b055a45949c1"}
{"$package":"970493a1-4ca0-4a4d-a085-fdce578e5a08","$remote_address":"665.921.984.205","$time":"2024-06-25T00:00:00Z","$unique_id":"09b5b69a-0af0-8002-2c2b-39df3d5685a4"}
"""

#: The document's script; a backslash is missing behind its address, which is mended here.
SCRIPT = r"""#!/usr/bin/env bash

curl -v \
  -H "Authorization: Bearer {token}" \
  -H "Content-Type: application/json" \
  -X POST https://api.scarf.sh/v2/{owner}/import \
  --data-binary @events.ndjson
"""

#: From here on the description: an import that was just started, an event each of the two sorts of log entries ..
STARTED = """{
    "id": "5b0c9e9e-6a7e-4f0e-9d8e-111111111111",
    "owner": "acme",
    "status": "importing",
    "events_total": 0,
    "events_successfully_imported": 0,
    "events_failed_to_import": 0,
    "error_log_sample": [],
    "warning_log_sample": [],
    "created_at": "2024-06-30T10:00:00.000000Z",
    "updated_at": "2024-06-30T10:00:00.000000Z"
}"""

#: .. of a file whose one line is none ..
BAD_LINE = """{
    "type": "failed-to-decode",
    "class": "error",
    "line": 1,
    "human_friendly_message": "Not a valid JSON object"
}"""

#: .. and what too many imports at a time are told, in which clients look for these words.
TOO_MANY = "too many active imports"
