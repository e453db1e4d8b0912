import pytest
from ser_head_attention import Attention

from ser_plugins.testing import check_head


@pytest.mark.parametrize("layer", [1, 5])
def test_attention_keeps_the_contract(layer):
    check_head(Attention, {"layer": layer})
