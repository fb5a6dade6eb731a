"""Everything that there is to observe, on this machine: `make observe`, or `python -m imagegen_server.observe`."""
