"""Names, kinds and arguments of torch's operations, for methods that follow a forward pass operation by operation.

A method such as LRP or contextual decomposition meets torch in a `__torch_function__(function, types, args, kwargs)`.
It asks here what that call is, and adds only its own mathematics, one rule for each kind:

* `operation_name(function)`: one name for `torch.add`, `Tensor.add_`, `+=` and `torch.ops.aten.add.Tensor`;
* `kind_of(function)`: its `Kind` (linear, product, elementwise, ...), or None; then `why_none(function)` may say why;
* `positional(function, args, kwargs)`: the call with `other=`, `mat2=`, `input=` in their positions, so that a rule can
  be a plain Python function of its operands; `by_name` gives all arguments by name, with torch's defaults;
* `computed(function, args, kwargs)`: `x.relu_()` and `F.relu(x, inplace=True)` as `relu(x)`, and that the result is to
  be written into x; `base_of(x)`: the tensor whose memory x shares;
* `WRITTEN_OUT[name](function, *args, **kwargs)`: fused operations (attention, recurrent nets, lerp, ...) computed by
  plain ones: run it where those find their rules;
* `calling_module()`: where in the model this runs, for messages;
* `public_operations()`, `coverage()`: what torch has, and what this table does not know. A new release of torch is a
  line in `kinds.py`.
"""

from xaikit.torch_ops.arguments import by_name, positional
from xaikit.torch_ops.in_place import base_of, computed, out_of_place, writes
from xaikit.torch_ops.kinds import KINDS, WHY_NONE, Kind, kind_of, names_of, why_none
from xaikit.torch_ops.listing import coverage, public_operations
from xaikit.torch_ops.location import calling_module, described, innermost_module, inside_function
from xaikit.torch_ops.names import canonical, operation_name, plain_name
from xaikit.torch_ops.written_out import WRITTEN_OUT, with_statistics

__all__ = [
    "KINDS", "WHY_NONE", "WRITTEN_OUT", "Kind", "base_of", "by_name", "calling_module", "canonical", "computed",
    "coverage", "described", "innermost_module", "inside_function", "kind_of", "names_of", "operation_name",
    "out_of_place", "plain_name", "positional", "public_operations", "why_none", "with_statistics", "writes",
]  # fmt: skip
