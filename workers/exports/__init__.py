"""Exports: events back out of the store, into objects of S3."""
