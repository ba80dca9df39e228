"""``python -m claudeproxy``: the commands beside twistd's."""

import sys

from claudeproxy.service.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout, sys.stderr))
