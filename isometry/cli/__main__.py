"""`python -m isometry.cli` is `isometry`."""

from isometry.cli import main

if __name__ == "__main__":
    main()
