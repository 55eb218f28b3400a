"""What people and operators see: the command line, its displays, logs and metrics, the report and the demo.

Here belong words and pictures. Nothing imports this package.
"""

import sys

from deepprofile.app.extras import missing_extra

__all__ = ["main"]


def main() -> None:
    """Entry point of the command line; says which extra to install where a package is missing."""
    try:
        from deepprofile.app.cli import main as run
    except ModuleNotFoundError as error:
        said = missing_extra(error)
        if said is None:
            raise
        sys.stderr.write(f"deepprofile: {said}\n")
        sys.exit(2)
    run()
