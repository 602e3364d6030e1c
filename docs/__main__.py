"""The site: `python -m docs build` makes it, `python -m docs serve` shows it.

The pages go to build/docs/html, which git ignores. Without `--execute` the code in the
pages is shown and not run.
"""

import argparse
import functools
import http.server
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
BUILD = ROOT / "build" / "docs"

# Text that refers to a picture or a number would puzzle a reader without it.
NOT_RUN = (
    "Built without running the code: outputs and pictures are missing. "
    "python -m docs build --execute has them."
)


def sphinx(builder: str, *options: str) -> int:
    """Run Sphinx, in which a warning is an error, and return its exit code.

    All pages are read anew (-E): docstrings change without their page, and of a page
    that is not read no warning is seen.
    """
    command = [sys.executable, "-m", "sphinx", "-b", builder, "-q", "-E", "-W"]
    command.append("--keep-going")
    folders = ["-d", str(BUILD / "doctrees"), str(ROOT / "docs"), str(BUILD / builder)]
    return subprocess.run([*command, *options, *folders], check=False).returncode


def build(is_executed: bool) -> int:
    """Build the pages, with the output of their code if it is executed."""
    # Sphinx leaves the page of a source that is gone where it was.
    shutil.rmtree(BUILD / "html", ignore_errors=True)
    options = ["-D", f"html_theme_options.announcement={NOT_RUN}"]
    if is_executed:
        options = ["-D", "nb_execution_mode=force"]
    code = sphinx("html", *options)
    if code == 0:
        print(f"built: {BUILD / 'html' / 'index.html'}")
    return code


def serve(port: int) -> int:
    """Serve what was built, to this machine alone."""
    folder = BUILD / "html"
    if not folder.exists():
        print("nothing is built: python -m docs build")
        return 1
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def main() -> int:
    """Run the command that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build the site")
    building.add_argument("--execute", action="store_true", help="run the code in it")
    serving = commands.add_parser("serve", help="serve the site that was built")
    serving.add_argument("--port", type=int, default=8000)
    commands.add_parser("links", help="try the links to other sites")
    chosen = parser.parse_args()
    if chosen.command == "build":
        return build(chosen.execute)
    if chosen.command == "serve":
        return serve(chosen.port)
    return sphinx("linkcheck")


if __name__ == "__main__":
    raise SystemExit(main())
