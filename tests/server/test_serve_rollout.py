"""Roll-outs in the whole server: who answers, what is compared, and how they end."""

import numpy as np
import pytest

pytestmark = pytest.mark.process

X = np.array([[0.0, 5.0], [1.0, 7.0]], np.float32)
