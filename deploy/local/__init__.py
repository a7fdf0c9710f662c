"""
The local stack: real servers and the whole service, on one machine, for as long as one process lives.

``servers`` starts Postgres, Redis and S3; ``service`` starts Penstock on them; ``up`` and ``demo`` are the
commands.
"""
