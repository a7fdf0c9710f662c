"""The wire of Amazon Pinpoint: so far, who signed a request, and when."""
