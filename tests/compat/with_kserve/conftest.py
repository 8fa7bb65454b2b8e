"""KServe's clients must have this process for themselves.

They and tritonclient both register the protocol's messages in protobuf's default pool, and the
second one fails: so `make compat` runs this folder in a process of its own.
"""

import sys

import pytest

if "tritonclient.grpc" in sys.modules:
    pytest.exit("run tests/compat/with_kserve apart from the other folders, see the Makefile", 2)
