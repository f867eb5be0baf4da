"""The command ``rfx``, also ``python -m rfx``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line on ``sys.argv`` and return the exit status."""
    from rfx.cli import main as run  # here, so that importing this module stays free

    return run()


if __name__ == "__main__":
    sys.exit(main())
