"""Samples of the seed document on Connect's bulk import, word for word."""

from __future__ import annotations

#: The body of the document's request.
REQUEST = """{
    "collection": "purchases",
    "s3Path": "s3://mybucket/purchases.json",
    "s3AccessKeyId": "YOUR_ACCESS_KEY_ID",
    "s3SecretAccessKey": "YOUR_SECRET_ACCESS_KEY"
}"""

#: The document's monitor reply.
REPLY = """{
    "collection": "purchases",
    "status": "running",
    "created": "2015-04-01T00:32:45.000Z",
    "started": "2015-04-01T00:33:03.000Z",
    "finished": null,
    "importedEvents": 5130985,
    "duplicateEvents": 0,
    "percentComplete": 42.43,
    "insertRate": "15096/s",
    "error": null,
    "eventErrors": [
        { "index": 9951, "error": "The JSON specified was not valid." },
        { "index": 45930, "error": "The JSON specified was not valid." }
    ]
}"""

#: The document's file.
FILE = b"""{ "product": "12 red roses", "quantity": 5, "price": 25.00 }
{ "product": "White bouquet", "quantity": 2, "price": 48.40 }
"""
