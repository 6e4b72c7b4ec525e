"""An adoption killed at every change of a file. ``make test`` takes some of them."""

import pytest

from tests.collection import test_adopt

pytestmark = pytest.mark.timeout(900)

faults = test_adopt.faults


def test_a_kill_at_every_change_of_a_file_loses_nothing_and_doubles_nothing(faults, tmp_path):
    test_adopt.test_a_fault_at_any_change_of_a_file_loses_nothing_and_doubles_nothing(faults, tmp_path, "kill", 1)
