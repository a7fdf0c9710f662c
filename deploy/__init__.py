"""How Penstock is put on a machine: the local stack, and the settings of the servers it runs under."""
