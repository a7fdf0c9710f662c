"""The engine: plans, loads and settles. No HTTP and no dialect's name."""
