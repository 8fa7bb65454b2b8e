"""``python -m ensembled_client.load``: the same as the command ``ensembled-load``."""

import sys

from ensembled_client.load.cli import main

if __name__ == "__main__":
    sys.exit(main())
