"""Checks that every explainer and every mitigator must pass; the tests of plugins can run them too.

A plugin's test file is three lines::

    @pytest.mark.parametrize("check", EXPLAINER_CHECKS, ids=lambda c: c.__name__)
    def test_contract(check):
        check(MyExplainer)

Each check takes an explainer class (or an object with settings) and raises AssertionError where a promise is broken;
`MITIGATOR_CHECKS` likewise take a mitigator.
"""

from xaikit.testing.case import ContractNet, contract_case, state_of
from xaikit.testing.derivatives import derivative_error, directional_derivative_error
from xaikit.testing.explainers import EXPLAINER_CHECKS
from xaikit.testing.mitigators import MITIGATOR_CHECKS, check_penalty_derivative, penalty_derivative_error

__all__ = [
    "EXPLAINER_CHECKS",
    "MITIGATOR_CHECKS",
    "ContractNet",
    "check_penalty_derivative",
    "contract_case",
    "derivative_error",
    "directional_derivative_error",
    "penalty_derivative_error",
    "state_of",
]
