"""Postgres, the truth. Only here is SQL; every function takes the transaction as its first argument."""
