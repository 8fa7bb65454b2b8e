"""The load tester from a checkout: ``python clients/load_test.py URL MODEL``, see ``--help``.

The same as the command ``ensembled-load`` of an installed client.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ensembled_client.load.cli import main  # noqa: E402  (the path comes first)

if __name__ == "__main__":
    sys.exit(main())
