"""The exit codes of the command line, as docs/command_line.md lists them."""

CLEAN = 0

# A flag of --fail-on is raised, a cell of a sweep failed, or a known answer is not met.
RAISED = 1

USAGE = 2

# A flag of --fail-on is raised by no network, and some of them were not judged by it.
UNJUDGED = 3

# sysexits.h calls it EX_SOFTWARE. Python's own code for a traceback is 1, which would
# say that a flag is raised.
CRASHED = 70

# What a shell says of a program that a signal ended, SIGINT and SIGPIPE: 128 + its
# number.
INTERRUPTED = 130
PIPE_CLOSED = 141
