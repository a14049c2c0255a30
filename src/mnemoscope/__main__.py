"""`python -m mnemoscope`, and the command `mnemoscope`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; errors made for the user become one line on stderr and exit status 2."""
    from cyclopts import CycloptsError

    from mnemoscope.cli import app
    from mnemoscope.errors import MnemoscopeError

    try:
        app(sys.argv[1:], print_error=False, exit_on_error=False)
    except (MnemoscopeError, CycloptsError) as error:
        sys.stderr.write(f"mnemoscope: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("mnemoscope: interrupted; what is scored is kept, the same command goes on from there\n")
        sys.exit(130)
    except BrokenPipeError:  # `mnemoscope status DIR | head` is no error
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
