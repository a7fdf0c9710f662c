"""The road of an import: plan, load (framing, decoding), settle."""
