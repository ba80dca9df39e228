"""``python -m claudeproxy``: the commands beside twistd's."""

import os
import sys

from claudeproxy.service.commands import FAILED, main


def _run() -> int:
    try:
        status = main(sys.argv[1:], sys.stdout, sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough, such as ``head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


if __name__ == "__main__":
    sys.exit(_run())
