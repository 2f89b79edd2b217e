"""The network's towers and fine part as ONNX graphs: f16 initialisers, cast to f32, no torch exporter
between.

Four graphs, run by service/scorer.py: `item`, `user`, `query`, `fine`. Each is built node by node from named
arrays, so that the fine graph can be folded: of its first layer only items @ (W_i + W_p · (u + q)) is
computed per candidate, and the same arrays give the same bytes. Reads a state dict; knows nothing of
training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Arrays = Mapping[str, npt.NDArray[Any]]

OPSET = 17
IR_VERSION = 8  # what onnxruntime 1.19 reads

_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64


class _Graph:
    """Nodes and initialisers of one graph in the making."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def weight(self, name: str, array: npt.NDArray[Any]) -> str:
        """An initialiser stored as f16 and cast to f32; returns the name of the f32 value."""
        half = np.ascontiguousarray(array.astype(np.float16))
        self.initialisers.append(numpy_helper.from_array(half, f"{name}.f16"))
        self.nodes.append(helper.make_node("Cast", [f"{name}.f16"], [name], to=_FLOAT))
        return name

    def constant(self, name: str, values: Sequence[int]) -> str:
        self.initialisers.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def linear(self, arrays: Arrays, name: str, x: str, output: str) -> str:
        """output = x @ W.T + b with torch's layout of `name`.weight."""
        weight = self.weight(f"{name}.weight", arrays[f"{name}.weight"].T)
        if f"{name}.bias" not in arrays:
            return self.node("MatMul", [x, weight], output)
        bias = self.weight(f"{name}.bias", arrays[f"{name}.bias"])
        return self.node("Gemm", [x, weight, bias], output)

    def two_layers(self, arrays: Arrays, name: str, x: str, output: str) -> str:
        wide = self.linear(arrays, f"{name}_1", x, f"{name}.wide")
        return self.linear(arrays, f"{name}_2", self.node("Relu", [wide], f"{name}.relu"), output)

    def build(self, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]) -> bytes:
        """Serialise; a leading `*` in an input's shape means int64."""

        def info(name: str, shape: Sequence[Any]) -> onnx.ValueInfoProto:
            kind = _INT if shape[0] == "*" else _FLOAT
            return helper.make_tensor_value_info(name, kind, [s for s in shape if s != "*"])

        graph = helper.make_graph(
            self.nodes,
            self.name,
            [info(*item) for item in inputs.items()],
            [info(*item) for item in outputs.items()],
            self.initialisers,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="repl-ranker",
        )
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def item_graph(arrays: Arrays) -> bytes:
    """keys f32[n, dim], words f32[n, dim] (summed bags) → tower f32[n, dim], coarse f32[n, c], bias f32[n,
    1].
    """
    dim, coarse = arrays["item_2.weight"].shape[0], arrays["coarse_item.weight"].shape[0]
    g = _Graph("item")
    x = g.node("Concat", ["keys", "words"], "x", axis=1)
    tower = g.two_layers(arrays, "item", x, "tower")
    g.linear(arrays, "coarse_item", tower, "coarse")
    g.linear(arrays, "coarse_bias", tower, "bias")
    shapes = {"tower": ["n", dim], "coarse": ["n", coarse], "bias": ["n", 1]}
    return g.build({"keys": ["n", dim], "words": ["n", dim]}, shapes)


def query_graph(arrays: Arrays) -> bytes:
    """words f32[1, dim] → tower f32[1, dim], coarse f32[1, c]."""
    dim, coarse = arrays["query_2.weight"].shape[0], arrays["coarse_query.weight"].shape[0]
    g = _Graph("query")
    tower = g.two_layers(arrays, "query", "words", "tower")
    g.linear(arrays, "coarse_query", tower, "coarse")
    return g.build({"words": [1, dim]}, {"tower": [1, dim], "coarse": [1, coarse]})


def _gates(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """torch's gate order (input, forget, cell, output) to ONNX's (input, output, forget, cell)."""
    i, f, c, o = np.split(array, 4, axis=0)
    return np.concatenate([i, o, f, c], axis=0)


def user_graph(arrays: Arrays) -> bytes:
    """own f32[1, dim], towers f32[s, dim], kinds, gaps, ages i64[s] (start step first) → tower, coarse of
    one user.
    """
    dim, coarse = arrays["user_2.weight"].shape[0], arrays["coarse_user.weight"].shape[0]
    g = _Graph("user")
    kinds = g.node("Gather", [g.weight("kinds.weight", arrays["kinds.weight"]), "kinds"], "kind")
    gaps = g.node("Gather", [g.weight("gaps.weight", arrays["gaps.weight"]), "gaps"], "gap")
    steps = g.node("Add", [g.node("Add", ["towers", kinds], "towers+kind"), gaps], "steps")
    one = g.constant("one", [1])
    steps = g.node("Unsqueeze", [steps, one], "steps3")  # (s, 1, dim)
    w = g.weight("lstm.w", _gates(arrays["lstm.weight_ih_l0"])[None])
    r = g.weight("lstm.r", _gates(arrays["lstm.weight_hh_l0"])[None])
    biases = [_gates(arrays[f"lstm.bias_{part}_l0"]) for part in ("ih", "hh")]
    b = g.weight("lstm.b", np.concatenate(biases)[None])
    g.nodes.append(helper.make_node("LSTM", [steps, w, r, b], ["", "last3"], hidden_size=dim))
    last = g.node("Squeeze", ["last3", g.constant("zero", [0])], "last")  # (1, dim)
    logits = g.node(
        "Add",
        [
            g.node("Gather", [g.weight("pool_kind", arrays["pool_kind"]), "kinds"], "by_kind"),
            g.node("Gather", [g.weight("pool_age", arrays["pool_age"]), "ages"], "by_age"),
        ],
        "pool.logits",
    )
    share = g.node("Softmax", [logits], "share", axis=0)
    share = g.node("Unsqueeze", [share, "zero"], "share2")  # (1, s)
    pool = g.node("MatMul", [share, "towers"], "pool")
    tower = g.two_layers(arrays, "user", g.node("Concat", ["own", pool, last], "x", axis=1), "tower")
    g.linear(arrays, "coarse_user", tower, "coarse")
    steps_shape = {"towers": ["s", dim], "kinds": ["*", "s"], "gaps": ["*", "s"], "ages": ["*", "s"]}
    return g.build({"own": [1, dim], **steps_shape}, {"tower": [1, dim], "coarse": [1, coarse]})


def fine_graph(arrays: Arrays) -> bytes:
    """user, query f32[1, dim], items f32[n, dim] → hidden f32[n, hidden].

    First layer on [u, q, i, (u + q) · i], folded: items @ (W_i + W_p · (u + q)) + (W_u u + W_q q + b).
    """
    hidden, dim = arrays["fine_2.weight"].shape[0], arrays["item_2.weight"].shape[0]
    w_u, w_q, w_i, w_p = np.split(arrays["fine_1.weight"].T, 4, axis=0)  # each (dim, wide)
    g = _Graph("fine")
    both = g.node("Add", ["user", "query"], "u+q")
    column = g.node("Transpose", [both], "u+q.T", perm=[1, 0])  # (dim, 1)
    product = g.node("Mul", [column, g.weight("w_p", w_p)], "w_p.scaled")
    matrix = g.node("Add", [g.weight("w_i", w_i), product], "matrix")  # (dim, wide)
    bias = g.weight("fine_1.bias", arrays["fine_1.bias"])
    row = g.node("Gemm", ["user", g.weight("w_u", w_u), bias], "row_u")
    row = g.node("Add", [g.node("MatMul", ["query", g.weight("w_q", w_q)], "row_q"), row], "row")  # (1, wide)
    squeezed = g.node("Squeeze", [row, g.constant("zero", [0])], "row1")
    wide = g.node("Relu", [g.node("Gemm", ["items", matrix, squeezed], "fine.wide")], "fine.relu")
    g.node("Relu", [g.linear(arrays, "fine_2", wide, "fine.out")], "hidden")
    inputs = {"user": [1, dim], "query": [1, dim], "items": ["n", dim]}
    return g.build(inputs, {"hidden": ["n", hidden]})


def graphs(arrays: Arrays) -> dict[str, bytes]:
    """All four graphs by name, from a state dict as numpy arrays."""
    return {
        "item": item_graph(arrays),
        "user": user_graph(arrays),
        "query": query_graph(arrays),
        "fine": fine_graph(arrays),
    }
