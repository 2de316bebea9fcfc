"""What all tests share."""

import hypothesis
import pytest

pytest.register_assert_rewrite("tests.stores")

# A busy machine is slow, not wrong.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")
