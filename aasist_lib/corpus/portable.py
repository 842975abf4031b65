"""Rewrites ONNX networks so that onnxruntime computes the same bytes on every processor.

onnxruntime selects kernels by processor, with no setting for that. Two operators of the synthesisers differ: Softmax
(another order of summation with AVX-512) and MatMulInteger with full 8-bit weights (saturates without VNNI).
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def portable(model: bytes) -> bytes:
    """Replace Softmax and 8-bit MatMulInteger in an ONNX file of opset 13 or later."""
    network = onnx.load_from_string(model)
    opset = next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    weights = {weight.name: weight for weight in network.graph.initializer}
    nodes = []
    for node in network.graph.node:
        if node.op_type == "Softmax":
            nodes += _softmax(node, opset)
        elif node.op_type == "MatMulInteger" and _takes_8_bits(weights.get(node.input[1])):
            nodes += _products(node)
        else:
            nodes.append(node)
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    return network.SerializeToString()


def _takes_8_bits(weight: TensorProto | None) -> bool:
    """Whether weights use more than 7 bits; with 7 (`reduce_range`) no pair of products saturates."""
    if weight is None:
        return True
    values = numpy_helper.to_array(weight).astype(int)
    return bool(values.max() - values.min() > 128)


def _softmax(node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    given, name = node.input[0], node.output[0]
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), -1)
    axes = helper.make_node("Constant", [], [f"{name}/axes"], value=numpy_helper.from_array(np.array([axis])))
    top = (
        helper.make_node("ReduceMax", [given, f"{name}/axes"], [f"{name}/max"])
        if opset >= 18
        else helper.make_node("ReduceMax", [given], [f"{name}/max"], axes=[axis])
    )
    return [
        axes,
        top,
        helper.make_node("Sub", [given, f"{name}/max"], [f"{name}/below"]),
        helper.make_node("Exp", [f"{name}/below"], [f"{name}/exp"]),
        helper.make_node("ReduceSum", [f"{name}/exp", f"{name}/axes"], [f"{name}/sum"]),
        helper.make_node("Div", [f"{name}/exp", f"{name}/sum"], [name]),
    ]


def _products(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Multiply in float32, which is exact for sums of up to about 500 products of 8-bit numbers."""
    name, nodes, factors = node.output[0], [], []
    for place, side in enumerate("ab"):
        factor = f"{name}/{side}"
        nodes.append(helper.make_node("Cast", [node.input[place]], [factor], to=TensorProto.FLOAT))
        if len(node.input) > place + 2 and node.input[place + 2]:
            zero = f"{factor}_zero"
            nodes.append(helper.make_node("Cast", [node.input[place + 2]], [zero], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Sub", [factor, zero], [f"{factor}_centred"]))
            factor = f"{factor}_centred"
        factors.append(factor)
    product = f"{name}/float"
    nodes.append(helper.make_node("MatMul", factors, [product]))
    return [*nodes, helper.make_node("Cast", [product], [name], to=TensorProto.INT32)]
