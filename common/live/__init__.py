"""Redis, fast and forgettable: whatever is here can be emptied at any moment and costs nothing but speed (P4)."""
