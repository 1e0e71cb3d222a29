"""The local side of the command line: the whole system on one machine, without accounts."""
