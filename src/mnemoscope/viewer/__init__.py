"""The sequence explorer over whole tables: a server on this machine's loopback address, for `mnemoscope view`."""
