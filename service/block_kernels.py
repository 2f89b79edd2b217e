"""One block of the coarse scan as vector instructions: 64 int8 products at once, in registers. It loops over nothing.

Written as LLVM's vectors of 64 lanes, which it maps to what the processor has (AVX2, AVX-512, NEON): numba's own
vectoriser keeps the sums in memory and takes three times as long. Integer sums are exact, and the float operations are
those of the formula, one by one: a score has the same bits everywhere.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

BLOCK, DIM = 64, 32
"""Items side by side in a block, and numbers of each."""

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


def _splat(builder: Any, value: Any) -> Any:
    lanes = ir.VectorType(value.type, BLOCK)
    one = builder.insert_element(ir.Constant(lanes, ir.Undefined), value, ir.Constant(_I32, 0))
    places = ir.Constant(ir.VectorType(_I32, BLOCK), [0] * BLOCK)
    return builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), places)


def _lanes(builder: Any, data: Any, at: Any, kind: Any, align: int) -> Any:
    """64 values of `data` from place `at`."""
    place = builder.bitcast(builder.gep(data, [at]), ir.VectorType(kind, BLOCK).as_pointer())
    found = builder.load(place)
    found.align = align
    return found


def _dot(builder: Any, block: Any, query: Any) -> Any:
    """Σ query[j] · block[j, lane] as i32: two products of ± 127 fit into 16 bits."""
    wide = ir.VectorType(_I16, BLOCK)
    total = ir.Constant(ir.VectorType(_I32, BLOCK), [0] * BLOCK)

    def product(j: int) -> Any:
        left = builder.sext(builder.load(builder.gep(query, [ir.Constant(_I64, j)])), _I16)
        right = builder.sext(_lanes(builder, block, ir.Constant(_I64, BLOCK * j), _I8, 1), wide)
        return builder.mul(_splat(builder, left), right)

    for j in range(0, DIM, 2):
        two = builder.add(product(j), product(j + 1))
        total = builder.add(total, builder.sext(two, total.type))
    return total


def _block_hits_of(
    context: Any, blocks: Any, b: Any, query: Any, query_scale: Any, scale: Any, bias: Any, least: Any, out: Any
) -> Any:
    """Scores of block b, and which of them reach `least`: bit i of the u64 is out[i] ≥ least.

    blocks i8[n, DIM, 64], query i8[DIM], query_scale f32, scale and bias f32[64 n], least f32, out f32[64];
    out[i] = Σ query · blocks[b, :, i] · (scale[64 b + i] · query_scale) + bias[64 b + i]. Nothing checks the sizes.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def data(k: int) -> Any:
            return context.make_array(signature.args[k])(context, builder, args[k]).data

        first = builder.mul(args[1], ir.Constant(_I64, BLOCK))
        block = builder.gep(data(0), [builder.mul(first, ir.Constant(_I64, DIM))])
        total = builder.sitofp(_dot(builder, block, data(2)), ir.VectorType(_F32, BLOCK))
        factor = builder.fmul(_lanes(builder, data(4), first, _F32, 4), _splat(builder, args[3]))
        score = builder.fadd(builder.fmul(total, factor), _lanes(builder, data(5), first, _F32, 4))
        builder.store(score, builder.bitcast(data(7), score.type.as_pointer())).align = 4
        return builder.bitcast(builder.fcmp_ordered(">=", score, _splat(builder, args[6])), _I64)

    given = (blocks, types.int64, query, query_scale, scale, bias, least, out)
    return types.uint64(*given), codegen


def _first_bit_of(context: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set; 64 where none is."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


block_hits: Any = intrinsic(_block_hits_of)
first_bit: Any = intrinsic(_first_bit_of)
