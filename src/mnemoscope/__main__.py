"""`python -m mnemoscope`, and the command `mnemoscope`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; errors made for the user become one line on stderr and exit status 2."""
    # torch's threads otherwise spin while they wait: with one other busy process on the machine that made a run on
    # two cores nine times slower, with none it made no difference. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
