"""Puts this environment's packages behind those of another one: `python behind.py DIRECTORY`.

Run by `make test-doors`. What the other environment lacks, it finds here; what it installs itself
comes first.
"""

import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    base = str(Path(sys.argv[1]).absolute())
    packages = Path(sysconfig.get_path("purelib", vars={"base": base, "platbase": base}))
    own = sysconfig.get_path("purelib")
    # `addsitedir` follows the links of editable installations, which a mere path would not.
    (packages / "behind.pth").write_text(f"import site; site.addsitedir({own!r})\n")
