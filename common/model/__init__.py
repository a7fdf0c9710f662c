"""The vocabulary: frozen dataclasses, enums and pure rules. Standard library only."""
