"""Samples of the seed documents on Connect's bulk import and its exports, word for word."""

from __future__ import annotations

#: The body of the document's request.
REQUEST = """{
    "collection": "purchases",
    "s3Path": "s3://mybucket/purchases.json",
    "s3AccessKeyId": "YOUR_ACCESS_KEY_ID",
    "s3SecretAccessKey": "YOUR_SECRET_ACCESS_KEY"
}"""

#: The document's sample of the request, for a shell.
SCRIPT = rf"""curl -X POST \
  -H "X-Project-Id: YOUR_PROJECT_ID" \
  -H "X-API-Key: YOUR_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{REQUEST}' \
  https://api.getconnect.io/event-import
"""

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

#: From here on the document on exports: the query of a small one ..
QUERY = """{
	"filter": {
		"product": "apple"
	},
	"timeframe": "today"
}"""

#: .. and its answer.
RESULTS = """{
  "results": [
    {
      "id": "9eb91561-1964-468a-b6bf-c16034b6757c",
      "timestamp": "2015-07-28T00:00:30.295Z",
      "name": "test"
    },
    {
      "id": "28c86f2e-4ad8-423a-85ea-b09a5ab9549d",
      "timestamp": "2015-07-28T00:00:52.549Z",
      "name": "test"
    }
  ]
}"""

#: The body of a request for an export to S3.
EXPORT_REQUEST = """{
"query": {
"timeframe": "today"
},
"s3Path": "https://my-bucket.s3.amazonaws.com/exports/",
"s3AccessKeyId": "NOT_TELLING",
"s3SecretAccessKey": "NOT_TELLING"
}"""

#: The document's monitor reply.
EXPORT_REPLY = """{
    "filename": "55b80dd4eb6742481c62c05e.json",
    "collection": "testing",
    "status": "Pending",
    "created": "2015-07-28T23:18:44.698Z",
    "started": null,
    "finished": null,
    "error": null,
    "percentDone": 0,
    "transferredBytes": 0,
    "totalBytes": 0
}"""
