"""What the door and the engine agree on: the vocabulary, the ledger, the live view, the objects, the dispatch."""
