// The GPU's table of contents: every kernel with its formula and its arguments.
// Compiles as GLSL and as C++ (shared.h). The structs are push constants, at most 128 bytes. Buffers are device
// addresses; (a, b) after a name is its shape, the last index contiguous. A row of weights starts on 16 bytes; `stride`
// counts uvec4 from row to row (see row.glsl).
//
// A command buffer is recorded once for a number of tokens at most; how many there are this time, of which sequences,
// and where they stand, is in the Step that every kernel with a `step` reads. A token is a row of the batch.
#ifndef HEARTH_KERNELS_H
#define HEARTH_KERNELS_H

#include "shared.h"

HEARTH_GPU_BEGIN

const uint page_positions = 256;       // of a page of the KV cache

struct Row {               // a token of the batch
    uint position;         // in its sequence
    uint sees;             // it sees the positions before this one
    uint pages;            // where in Step::pages its sequence's begin: page i there has positions 256 i and on
};

#ifndef __cplusplus
layout(buffer_reference, scalar, buffer_reference_align = 4) readonly buffer Rows { Row at[]; };
#endif

struct Step {              // written by the host before each submit
    uint tokens;           // in this batch
    uint tiles;            // of Attend
    uint head_first;       // first of the wanted tokens whose logits are computed
    uint head_tokens;      // how many, from there on
    Rows row;              // (tokens)
    Words pages;           // numbers of pages of the KV cache
    Pairs tile;            // (tiles): first token and number of those of one sequence that a workgroup of Attend has
    Words wanted;          // tokens whose logits are wanted
    Words broken;          // in host memory: 0 becomes 1 where a Join meets a token whose r is not finite, or has
                           // squares beyond the range of floats
};

#ifndef __cplusplus
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer Steps { Step at; };
#endif

// Sizes that the host needs to know of a kernel's workgroup.
const uint matmul_tile = 64;       // rows and tokens
const uint ffn_down_chunks = 32;   // of a row of down (see row.glsl)
const uint rope_most_elements = 256;   // of a head
const uint join_most_blocks = 1024;    // blocks of 32 of a vector whose planes a join can write
const uint route_most_experts = 1024;
const uint slot_neurons = 32;          // of a group, and so of one expert
const uint sparse_pack = 32;           // sparse rows that lie together (row.glsl)
const uint no_token = 0xffffffffu;     // of Best

// What a join hands to the host (Join::publish).
const uint publish_nothing = 0;
const uint publish_norm = 1;
const uint publish_residual = 2;

// How a Join normalises.
const uint join_rms = 0;
const uint join_layer_norm = 1;
const uint join_post_norm = 2;

struct Planes {            // x as the sum of two planes, of integers (Quantise) or of halves (Halve)
    Words high, low;       // integers: (n) int8, four to a word; x_i = scale[i / 32] (256 high_i + low_i)
                           // halves: (rows, pitch) fp16, two to a word, where pitch is the width of a row up to a
                           // multiple of 32, with zeros behind its end; x_ti = scale[t] (high_ti + low_ti)
    Floats scale;          // integers: (n / 32, 4): scale, the sums of the first and the last 16 x of the block,
                           //   1 / scale
                           // halves: (rows), powers of two
};

struct Join {              // s = gain (sum_p parts_p + cold);  r = base + s;  y = weight r / sqrt(mean(r^2) + eps)
                           // join_layer_norm: r = base + s + addend;
                           //   y = weight (r - mean(r)) / sqrt(mean((r - mean(r))^2) + eps) + bias
                           // join_post_norm: r = base + post s / sqrt(mean(s^2) + eps),
                           //   the norm being of s without the gain
                           // One workgroup per token.
    Steps step;
    Floats base;           // (tokens, n)
    Floats parts;          // (part_count, part_stride): token t at t n
    Floats cold;           // (tokens, n), the host's share; read if has_cold
    Floats weight;         // (n); join_layer_norm (3, n): weight, bias, addend; join_post_norm (2, n): weight, post
    Floats residual;       // (tokens, n): r; may be base
    Floats y;              // (tokens, n)
    Floats published;      // (tokens, n) in host memory
    Planes planes;         // of y, if `writes_planes`
    uint n, part_count, part_stride;
    uint has_cold;
    uint publish;          // publish_nothing, publish_norm or publish_residual
    uint head;             // 1: only the wanted tokens of step.head_*, y counted from the first of them
    uint writes_planes;
    uint form;             // join_rms, join_layer_norm or join_post_norm
    float eps, gain;
};

struct Quantise {          // planes of x in integers, with scale = max |x| of the block / 32512
    Floats x;              // (n)
    Planes planes;
    uint n;
};

struct Halve {             // planes of x in halves, with scale = 2^(e - 13), 2^e <= max |x| of the row < 2^(e + 1)
                           // One workgroup per row.
    Floats x;              // (rows, width)
    Planes planes;
    uint width;
};

struct MatVec {            // y_tr = sum_i w_ri x_ti.  A subgroup per row, or per few rows; a workgroup per few tokens.
    Steps step;
    Quads weight;          // (rows, cols)
    Floats x;              // (tokens, cols)
    Planes planes;         // of x, for the integer variant
    Floats y;              // (tokens, rows)
    uint rows, cols, stride;
    uint relu;             // 1: negative y_r become 0
};

struct MatMul {            // y_tr = sum_i w_ri x_ti, or with TRANSPOSED y_tr = sum_i w_ir x_ti.
                           // A tile of rows and tokens per workgroup: GpuKernels::tile_of.
    Steps step;
    Quads weight;          // (rows, inner), TRANSPOSED: (inner, rows)
    Floats x;              // (tokens, x_stride)
    Planes planes;         // of x: in integers, all tokens as one vector, where x_stride is a multiple of 32; or in
                           // halves, for cooperative matrices
    Floats y;              // (tokens, y_stride)
    uint rows, inner, stride, x_stride, y_stride;
    uint head;             // 1: as many tokens as step.head_tokens, else step.tokens
    uint add;              // 1: added to the y that is there
};

struct Rope {              // q, k, v += bias;  each head of q, k: norm_i x_i / sqrt(mean(x^2) + eps);
                           // q, k rotated by (cos, sin);  k, v appended to the cache, in fp16 or q8_0.
                           // One workgroup per head and token.
    Steps step;
    Floats q;              // (tokens, heads, head_dim), in place
    Floats k, v;           // (tokens, kv_heads, head_dim)
    Floats bias;           // (heads + 2 kv_heads, head_dim): q's, k's, v's; read if has_bias
    Floats norms;          // (2, head_dim): q's and k's; read if has_norms
    Floats angles;         // (tokens, rope_dim / 2, 2): cos and sin for each pair, computed by the host in double
    Words k_cache, v_cache;    // (pages, kv_heads, page_positions, head_dim) fp16, two to a word. In q8_0: int8, four
                               // to a word, and behind them all as many rows of (head_dim / 64 rounded up) words, each
                               // the scales of two blocks of 32 in fp16
    Words counters;        // of Attend, which become 0
    uint heads, kv_heads, head_dim, rope_dim, pages;
    uint k_q8, v_q8;
    uint counter_count;
    uint has_bias, has_norms;
    uint halves;           // 0: pair i is (2i, 2i + 1), else (i, i + rope_dim / 2)
    float eps;
};

struct Attend {            // y_th = sum_p softmax_p(cap(scale q_th . k_p)) v_p over the p that t sees, and no further
                           // back than `window` if that is not 0;  cap(s) = softcap tanh(s / softcap), or s if softcap
                           // is 0.  A tile of tokens and of heads that share keys per workgroup. With one token a tile,
                           // `splits` workgroups share the positions: the last one to end adds up their parts.
    Steps step;
    Floats q;              // (tokens, heads, head_dim)
    Words k_cache, v_cache;    // as of Rope; their types, head_dim and the tile are specialization constants
    Floats y;              // (tokens, heads, head_dim)
    Floats parts;          // (tiles, heads / heads of a tile, splits, heads of a tile, 2 + head_dim): largest score,
                           // sum, and y not yet divided by it
    Words counters;        // (tiles, heads / heads of a tile): splits that are done
    Planes planes;         // of y, if `writes_planes`; head_dim is then a multiple of 32
    uint heads, kv_heads, pages, writes_planes, splits, window;
    float scale, softcap;
};

struct Route {             // weight_te = softmax of score_te over the `used` experts of the highest scores, or over all
                           // of them if not `normalise`; 0 for those that are not used.  One workgroup per token.
    Steps step;
    Floats score, weight;  // (tokens, experts)
    Floats published;      // (tokens, experts) in host memory: weight
    Words slot_expert;     // (slots): whose neurons are in a slot
    Pairs chosen;          // (tokens, places): slots of the experts with a weight, in order, and its bits; then as many
                           // as fit with weight 0
    uint experts, used, normalise;
    uint slots, places;    // 0 places: no list
};

struct FfnUp {             // h_tn = act(gate_n . x_t + bias_n) act_up(up_n . x_t) (see activation.glsl).
                           // A subgroup per neuron, or per few; a workgroup per few tokens.
    Steps step;
    Quads gate, up;        // (neurons, cols); up is read, and a factor, if has_up
    Quads bias;            // (neurons), each the first word of a quad; read if has_bias
    Floats x;              // (tokens, cols)
    Planes planes;         // of x, for the integer variant
    Floats h;              // (tokens, neurons)
    Pairs chosen;          // of Route, read if has_experts: neuron n is row n % 32 of slot chosen_(n / 32), and its
                           // weight is one more factor
    uint neurons, cols, gate_stride, up_stride;
    float cut;             // h_tn = 0 where |act(gate_n . x_t + bias_n)| <= cut, and where this is so for all of the
                           // workgroup's tokens up_n is not read; less than 0: nowhere
    float floor;           // of relu
    uint has_up, has_bias, has_experts;
};

struct FfnDown {           // parts_st = sum over n of slice s of h_tn down_n;  neurons whose h is zero are not read
    Steps step;
    Quads down;            // (neurons, cols)
    Floats h;              // (tokens, neurons)
    Floats parts;          // (slices, part_stride): token t at t cols
    Words fired;           // (tokens, words) in host memory: bit n % 32 of word n / 32: h_tn is not zero
    Pairs chosen;          // as of FfnUp
    uint neurons, cols, stride, slices, part_stride, has_experts, words;
};

struct PredictSign {       // bit n of t: x_t and row n of the gate have different signs in no more than `differing`
                           // columns; signs are sign bits
    Steps step;
    Floats x;              // (tokens, cols)
    Quads signs;           // quad q of neuron n at q neurons + n: its columns 128 q and on, a bit each; bits behind
                           // the last column are 0
    Words mask;            // (tokens, words) in host memory
    uint neurons, cols, differing, words;
};

struct Threshold {         // bit n of t: score_tn >= threshold, or NaN
    Steps step;
    Floats score;          // (tokens, neurons)
    Words mask;            // (tokens, words) in host memory
    uint neurons, words;
    float threshold;
};

struct Best {              // token_t = the i of the largest scale logit_ti, the first of equals; no_token if any is not
                           // finite.  Twice: first each workgroup finds that of its logits, then one workgroup that of
                           // theirs; of the wanted tokens of step.head_*.
    Steps step;
    Floats logits;         // (tokens, n)
    Pairs parts;           // (tokens, part_count), of the workgroups: an integer that grows with the largest, and its i
    Words token;           // (tokens) in host memory
    uint n, part_count;
    uint last;             // 0: parts are written, else read
    float scale;
};

struct Glu {               // h_tn = act(h_tn + bias_n) act_up(u_tn) weight_t(n's expert), in place
    Steps step;
    Floats h, u;           // (tokens, n); u is read, and a factor, if has_up
    Quads bias;            // as of FfnUp
    Floats weight;         // (tokens, experts); 0 experts: no factor
    Words slot_expert;     // (n / 32), as of Route
    uint n, experts;
    float floor;           // of relu
    uint has_up, has_bias;
};

HEARTH_GPU_END
#endif
