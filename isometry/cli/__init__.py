"""The command line: `isometry audit` and its sisters. One file a command."""

from isometry.cli._main import main as main
