"""Settings of the process under threads that overlap: each is in force as long as somebody needs it, and then gone."""

from __future__ import annotations

import contextlib
import threading
import warnings

import pytest
import torch
from torch import nn

from xaikit import EXPLAINERS
from xaikit.core.process_wide import FAST_PATH_OFF, FUSED_ATTENTION_OFF, warnings_ignored

SWITCHES = {
    "fast path": (FAST_PATH_OFF, torch.backends.mha.get_fastpath_enabled),
    "fused attention": (FUSED_ATTENTION_OFF, torch.backends.cuda.flash_sdp_enabled),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_off_as_long_as_somebody_needs_it(name):
    switch, is_on = SWITCHES[name]
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(switch)
        second.enter_context(switch)
        assert not is_on()
        first.close()
        assert not is_on()
    assert is_on()


@pytest.mark.filterwarnings("error")  # tests of other versions let deprecations pass
def test_warnings_are_heard_again_once_the_last_one_is_done():
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(warnings_ignored("dull"))
        second.enter_context(warnings_ignored("dull"))
        first.enter_context(warnings_ignored("", DeprecationWarning))
        first.close()  # in the order in which `catch_warnings` would leave a filter behind
        warnings.warn("dull, as before", UserWarning, stacklevel=1)  # an error, were it heard
        with pytest.raises(DeprecationWarning):
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    with pytest.raises(UserWarning, match="dull"):
        warnings.warn("dull, and heard", UserWarning, stacklevel=1)


def test_a_filter_of_the_user_stays():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dull")
        with warnings_ignored("dull"):
            pass
        warnings.warn("dull", UserWarning, stacklevel=1)


def test_explaining_in_threads_leaves_the_filters_as_they_were():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(2, 4)

    def work():
        for _ in range(20):
            EXPLAINERS.create("lrp_epsilon_plus").bind(net).missing_rules(x)
            EXPLAINERS.create("captum.deep_lift").bind(net).attribute(x, 0)

    work()  # libraries that are imported now set filters of their own
    before = list(warnings.filters)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
