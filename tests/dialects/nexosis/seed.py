"""Samples of the seed document on imports from S3, word for word, and answers of the service in recorded shapes."""

from __future__ import annotations

#: The body of the document's request.
REQUEST = """{
  "dataSetName": "Location-A",
  "bucket": "nexosis-sample-data",
  "path": "LocationA.csv",
  "region": "us-east-1",
  "columns": {}
}"""

#: The document's answer to it. Beside ``data`` recorded answers have a link ``self``, before it.
STARTED = """{
  "importId": "015d1d17-2a45-4f61-aa97-f21cc4fd656c",
  "type": "s3",
  "status": "requested",
  "dataSetName": "Location-A",
  "parameters": {
    "bucket": "nexosis-sample-data",
    "path": "LocationA.csv",
    "region": "us-east-1"
  },
  "requestedDate": "2017-07-07T12:47:23.682205+00:00",
  "statusHistory": [
    {
      "date": "2017-07-07T12:47:23.682205+00:00",
      "status": "requested"
    }
  ],
  "messages": [],
  "columns": {},
  "links": [
    {
      "rel": "data",
      "href": "https://ml.nexosis.com.com/v1/data/Location-A"
    }
  ]
}"""

#: The document's file of JSON.
FILE = b"""[
  {
    "col1": "value11",
    "col2": "value21"
  },
  {
    "col1": "value12",
    "col2": "value22"
  }
]"""

#: The document's answer once the import has completed.
COMPLETED = """{
  "importId": "015d1d17-2a45-4f61-aa97-f21cc4fd656c",
  "type": "s3",
  "status": "completed",
  "dataSetName": "Location-A",
  "parameters": {
    "bucket": "nexosis-sample-data",
    "path": "LocationA.csv",
    "region": "us-east-1"
  },
  "requestedDate": "2017-07-07T12:47:23.682205+00:00",
  "statusHistory": [
    {
      "date": "2017-07-07T12:47:23.682205+00:00",
      "status": "requested"
    },
    {
      "date": "2017-07-07T12:47:24.8153474+00:00",
      "status": "started"
    },
    {
      "date": "2017-07-07T12:47:27.5910919+00:00",
      "status": "completed"
    }
  ],
  "messages": [],
  "columns": {},
  "links": [
    {
      "rel": "data",
      "href": "https://ml.nexosis.com/v1/data/Location-A"
    }
  ]
}"""

#: The document's list. Its null for columns is ``{}`` in recorded answers.
LISTED = """{
  "items": [
    {
      "importId": "015d1836-ab9e-4839-be01-6dda3d710d06",
      "type": "s3",
      "status": "completed",
      "dataSetName": "s3-import-locationa",
      "parameters": {
        "bucket": "nexosis-sample-data",
        "path": "LocationA.csv",
        "region": "us-east-1"
      },
      "requestedDate": "2017-07-06T14:03:42.326925+00:00",
      "statusHistory": [
        {
          "date": "2017-07-06T14:03:42.326925+00:00",
          "status": "requested"
        },
        {
          "date": "2017-07-06T14:03:43.3510578+00:00",
          "status": "started"
        },
        {
          "date": "2017-07-06T14:03:46.5554317+00:00",
          "status": "completed"
        }
      ],
      "messages": [],
      "columns": null,
      "links": [
        {
          "rel": "data",
          "href": "https://ml.nexosis.com.com/v1/data/s3-import-locationa"
        }
      ]
    }
  ]
}"""

#: From here on what was recorded: what stands behind the items of a list ..
PAGE_MEMBERS = ["pageNumber", "totalPages", "pageSize", "totalCount", "links"]
#: .. the members of a dataset, before its rows ..
TABLE_MEMBERS = ["dataSetName", "dataSetSize", "isTimeSeries", "columns"]
#: .. what a stranger is told ..
STRANGER = {
    "statusCode": 401,
    "message": "Access denied due to invalid subscription key. Make sure to provide a valid key for an active "
    "subscription.",
}
#: .. and the sentences of failed imports.
FORBIDDEN = "Response status code does not indicate success: 403 (Forbidden)."
MISSING = "Response status code does not indicate success: 404 (The specified resource does not exist.)."
SHAPELESS = "Couldn't determine the type of content (json / csv) for the Import job"
KEY_CHANGED = (
    "Column 'key' was supplied with invalid metadata. Column 'key' is specified as the key for the dataset, and so its "
    "data type cannot be changed."
)
