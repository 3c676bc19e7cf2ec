// Rows of weights as the device holds them, and their dot product with a vector.
//
// A row starts on 16 bytes and is read in chunks, each by one invocation:
//   F32, F16, BF16   4, 8, 8 weights in a quad (uvec4)
//   Q8_0             16 weights in a quad
//   the others       32 weights, the low bits of which lie in a quad, pair or word, and the high bits in another
// First come the low bits of the whole row, then the high bits, then the scales:
//            low  high   scales
//   Q8_0     8    -      fp16 d for 32 weights
//   Q4_0     4    -      fp16 d for 32 weights
//   Q4_1     4    -      fp16 d and m for 32 weights
//   Q5_0     4    1      as Q4_0
//   Q5_1     4    1      as Q4_1
//   IQ4_NL   4    -      as Q4_0
//   MXFP4    4    -      a byte e for 32 weights, 255 where they are not numbers
//   Q2_K     2    -      a byte for 16 weights, all of the row; then fp16 d and dmin for 256 weights
//   Q3_K     2    1      for 256 weights a quad: 16 scales of six bits and fp16 d as in the file, 2 bytes of nothing
//   Q4_K     4    -      for 256 weights a quad: fp16 d and dmin, then 8 scales and minima of six bits as in the file
//   Q5_K     4    1      the same
//   Q6_K     4    2      int8 for 16 weights, all of the row; then fp16 d for 256 weights
//   IQ4_XS   4    -      for 256 weights a pair: fp16 d, then 8 scales of six bits as in the file
// Bits within a chunk, that of weight i in byte i % 4 of a word:
//   4 to a weight    word k: weights 4k.. in the low nibbles, 16 + 4k.. in the high ones
//   2 to a weight    word k: weights 16k + 4j.. in bits 2j of the bytes
//   1 to a weight    weights 4j.. in bit j of the bytes
// What a row has behind its last weight is zero.
//
// Sparse rows (SparseParts in blocks.h) lie as in the file. They differ in length, so they come in packs of 32: a pack
// begins with a word for each row, the quad of the pack that it starts with, and the stride is from pack to pack. Their
// chunks are those of their values' type, with the zeros put in.

#include "formats.h"

#define FORMAT(id, NAME, number, weights, low, high, bias, minima, table, scaled) const uint NAME = number;
WEIGHT_FORMATS(FORMAT)

// A `type` is what a kernel is told of a format: see formats.h. Of a sparse one all but `is_sparse` is its values'.
bool is_sparse(uint type) { return (type & FORMAT_SPARSE) != 0; }
uint number_of(uint type) { return type & 255; }

// Tokens that meet a weight as it is unpacked once.
layout(constant_id = 5) const uint few = 1;

// Number first + own + more of an array: `first` is the same for all of a subgroup and `more` is known to the compiler,
// so that what is left for an invocation to compute of an address, for all of its loads together, is `own`. Not for
// several tokens: GCN has no registers for the addresses of each one's x.
#ifdef INT64
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
const bool in_parts = few == 1;
uint64_t address(Quads w, uint first, uint own, uint more, uint bytes)
{
#ifdef IN_TILE    // which is near `w`: a GPU adds one number of 32 bits to an address as it loads
    return uint64_t(w) + uint64_t((first + own + more) * bytes);
#else
    return uint64_t(w) + uint64_t(first) * bytes + uint64_t(own * bytes) + uint64_t(more * bytes);
#endif
}
#else
const bool in_parts = false;
#define address(w, first, own, more, bytes) w
#endif
uvec4 quad_at(Quads w, uint first, uint own, uint more)
{
    return in_parts ? Quads(address(w, first, own, more, 16)).at[0] : w.at[first + own + more];
}
#ifdef IN_TILE
// Quad number first + own of an array, `first` being the same for the whole workgroup.
uvec4 quad_near(Quads w, uint first, uint own)
{
#ifdef INT64
    return Quads(uint64_t(w) + uint64_t(first) * 16 + uint64_t(own * 16)).at[0];
#else
    return w.at[first + own];
#endif
}
#endif
uvec2 pair_at(Quads w, uint first, uint own, uint more)
{
    return in_parts ? ConstPairs(address(w, first, own, more, 8)).at[0] : ConstPairs(w).at[first + own + more];
}
uint word_at(Quads w, uint first, uint own, uint more)
{
    return in_parts ? ConstWords(address(w, first, own, more, 4)).at[0] : ConstWords(w).at[first + own + more];
}

// The first quad of a row.
uint row_at(Quads w, uint type, uint stride, uint row)
{
    if (!is_sparse(type)) return row * stride;
    const uint pack = row / sparse_pack * stride;
    return pack + ConstWords(w).at[pack * 4 + row % sparse_pack];
}

// The columns of its row.
uint low_bits(uint type) { return type >> FORMAT_LOW & 63; }
uint high_bits(uint type) { return type >> FORMAT_HIGH & 3; }
uint bias(uint type) { return type >> FORMAT_BIAS & 63; }
bool has_minima(uint type) { return (type >> FORMAT_MINIMA & 1) != 0; }
bool has_table(uint type) { return (type >> FORMAT_TABLE & 1) != 0; }

bool is_shared(uint type) { return has_table(type) && (type & FORMAT_TABLE_SHARED) != 0; }

// The 16 int8 of such a table.
uvec4 table(uint type)
{
    return number_of(type) == MXFP4
               ? uvec4(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu)
               : uvec4(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
}
uint byte_of(uvec4 table, uint n)
{
    const uint word = n < 8 ? n < 4 ? table.x : table.y : n < 12 ? table.z : table.w;
    return word >> 8 * (n & 3) & 255;
}

// In shared memory a byte is a word, MXFP4's first, so that lanes that want different ones meet in no bank. Choosing
// among registers takes a GPU 22 to 40 instructions for a byte of a row, this 9 to 20; a software device is twice as
// fast with registers, since each lane's load costs it.
shared uint tables[32];

uint first_of_table(uint type) { return number_of(type) == MXFP4 ? 0 : 16; }

// Before the first look_up, by the whole workgroup, whose size is declared before this file is included: newer
// compilers want it so.
void share_table(uint type)
{
    if (!is_shared(type)) return;
    for (uint n = gl_LocalInvocationIndex; n < 16; n += gl_WorkGroupSize.x)
        tables[first_of_table(type) + n] = byte_of(table(type), n);
    barrier();
}

uint chunk_weights(uint type) { return low_bits(type) < 8 ? 32 : 128 / low_bits(type); }

// Weights of a chunk that have a scale of their own.
uint scale_weights(uint type) { return min(type >> FORMAT_SCALED & 63, chunk_weights(type)); }

struct Chunk {
    uvec4 low;
    uvec2 high;
};

// Number i of those that begin at a word.
uint u16_at(Quads w, uint first, uint i) { return ConstWords(w).at[first + i / 2] >> 16 * (i & 1) & 0xffff; }

// Where a sparse row's scales begin, in 16 bits, and its values, in words.
uint sparse_scales(uint n) { return n / 16 + (n + 127) / 128 + 1; }
uint sparse_values(uint type, uint n) { return (sparse_scales(n) + (number_of(type) == Q8_0 ? n / 32 : 0) + 1) / 2; }

// The chunk of a sparse row that begins with weight i, as a dense row has it.
Chunk load_sparse_chunk(Quads w, uint type, uint row, uint i, uint n)
{
    const uvec4 masks = w.at[row + i / 128];
    const uint word = i / 32 & 3, shift = i & 31;
    uint at = u16_at(w, row * 4, n / 16 + i / 128), mask = masks.x;    // the chunk's first value is number `at`
    if (word > 0) at += bitCount(masks.x), mask = masks.y;
    if (word > 1) at += bitCount(masks.y), mask = masks.z;
    if (word > 2) at += bitCount(masks.z), mask = masks.w;
    at += bitCount(mask & (1u << shift) - 1);
    mask >>= shift;
    const uint values = row * 4 + sparse_values(type, n);
    Chunk c = {uvec4(0), uvec2(0)};
    if (number_of(type) == Q8_0) {
        [[unroll]] for (uint k = 0; k < 16; ++k)
            if ((mask >> k & 1) != 0) {
                c.low[k / 4] |= (ConstWords(w).at[values + at / 4] >> 8 * (at & 3) & 255) << 8 * (k & 3);
                ++at;
            }
    } else {
        [[unroll]] for (uint k = 0; k < 8; ++k)
            if ((mask >> k & 1) != 0) {
                c.low[k / 2] |= u16_at(w, values, at) << 16 * (k & 1);
                ++at;
            }
    }
    return c;
}

// Chunk at + more (see quad_at) of a row of n weights; `row` is the row's first quad.
Chunk load_chunk(Quads w, uint type, uint row, uint at, uint more, uint n)
{
    if (is_sparse(type)) return load_sparse_chunk(w, type, row, (at + more) * chunk_weights(type), n);
    Chunk c = {uvec4(0), uvec2(0)};
    if (chunk_weights(type) == 32 && low_bits(type) == 2) c.low.xy = pair_at(w, row * 2, at, more);
    else c.low = quad_at(w, row, at, more);
    if (chunk_weights(type) < 32) return c;
    if (high_bits(type) == 1) c.high.x = word_at(w, row * 4 + n * low_bits(type) / 32, at, more);
    if (high_bits(type) == 2) c.high = pair_at(w, row * 2 + n * low_bits(type) / 64, at, more);
    return c;
}
Chunk load_chunk(Quads w, uint type, uint row, uint at, uint n) { return load_chunk(w, type, row, at, 0, n); }

float half_at(Quads w, uint first, uint i)    // number i of the fp16 that begin at a word
{
    const vec2 pair = unpackHalf2x16(word_at(w, first, i / 2, 0));
    return (i & 1) == 0 ? pair.x : pair.y;
}

uint u8_at(uint word, uint i) { return word >> 8 * i & 255; }
int s8_at(uint word, uint i) { return bitfieldExtract(int(word), int(8 * i), 8); }

// The scales of the chunk that begins with weight i of a row, one for each `scale_weights`, and its minima.
void row_scales(Quads w, uint type, uint row, uint i, uint n, out vec2 scale, out vec2 minimum)
{
    scale = vec2(1);
    minimum = vec2(0);
    const uint number = number_of(type);
    if (number == F32 || number == F16 || number == BF16) return;
    const uint first = row * 4 + n / 32 * (low_bits(type) + high_bits(type));    // the word behind the integers
    if (is_sparse(type)) {
        scale = vec2(half_at(w, row * 4, sparse_scales(n) + i / 32));
    } else if (number == Q6_K) {
        const uint word = word_at(w, first, i / 64, 0);
        scale = half_at(w, first + n / 64, i / 256) * vec2(s8_at(word, i / 16 & 3), s8_at(word, (i / 16 & 3) + 1));
    } else if (number == Q4_K || number == Q5_K) {
        const uvec4 s = quad_at(w, first / 4, i / 256, 0);
        const uint at = i / 32 & 3, scale_byte = u8_at(s.y, at), minimum_byte = u8_at(s.z, at), both = u8_at(s.w, at);
        const bool lower = (i / 32 & 7) < 4;
        const vec2 d = unpackHalf2x16(s.x);
        scale = vec2(d.x * float(lower ? scale_byte & 63 : (both & 15) | scale_byte >> 6 << 4));
        minimum = vec2(d.y * float(lower ? minimum_byte & 63 : both >> 4 | minimum_byte >> 6 << 4));
    } else if (number == Q2_K) {
        const uint both = word_at(w, first, i / 64, 0) >> 8 * (i / 16 & 3);
        const vec2 d = unpackHalf2x16(word_at(w, first + n / 64, i / 256, 0));
        scale = d.x * vec2(both & 15, both >> 8 & 15);
        minimum = d.y * vec2(both >> 4 & 15, both >> 12 & 15);
    } else if (number == Q3_K) {
        const uvec4 s = quad_at(w, first / 4, i / 256, 0);
        const uint k = i / 16 & 15;    // even, so that both scales are in the same words
        const uint low = ((k & 4) == 0 ? s.x : s.y) >> 8 * (k & 3) + k / 8 * 4, high = s.z >> 8 * (k & 3) + k / 4 * 2;
        scale = unpackHalf2x16(s.w).x * (vec2(low & 15 | (high & 3) << 4, low >> 8 & 15 | (high >> 8 & 3) << 4) - 32.0);
    } else if (number == IQ4_XS) {
        const uvec2 s = pair_at(w, first / 2, i / 256, 0);
        const uint part = i / 32 & 7;
        scale = vec2(unpackHalf2x16(s.x).x * (float(s.y >> 4 * part & 15 | (s.x >> 16 + 2 * part & 3) << 4) - 32.0));
    } else if (number == Q4_1 || number == Q5_1) {
        const vec2 both = unpackHalf2x16(word_at(w, first, i / 32, 0));
        scale = both.xx;
        minimum = -both.yy;
    } else if (number == MXFP4) {
        const uint e = u8_at(word_at(w, first, i / 128, 0), i / 32 & 3);
        // 2^(e - 128)
        scale = vec2(uintBitsToFloat(e < 2 ? 0x00200000u << e : e == 255 ? 0x7fc00000u : (e - 1) << 23));
    } else {
        scale = vec2(half_at(w, first, i / 32));
    }
}

vec4 unpack_s8(uint word)
{
    return vec4(int(word << 24) >> 24, int(word << 16) >> 24, int(word << 8) >> 24, int(word) >> 24);
}

vec4 unpack_u8(uint word) { return vec4(word & 255, word >> 8 & 255, word >> 16 & 255, word >> 24); }

// Integers 4j .. 4j + 3 of a chunk as the file has them, a byte each.
uint chunk_bytes(uint type, Chunk c, uint j)
{
    if (number_of(type) == Q8_0) return c.low[j & 3];
    uint four;
    if (low_bits(type) == 2) four = c.low[j / 4] >> 2 * (j & 3) & 0x03030303u;
    else four = (j < 4 ? c.low[j & 3] : c.low[j & 3] >> 4) & 0x0f0f0f0fu;
    if (high_bits(type) == 1) four |= (c.high.x >> j & 0x01010101u) << low_bits(type);
    if (high_bits(type) == 2) four |= (c.high[j / 4] >> 2 * (j & 3) & 0x03030303u) << low_bits(type);
    return four;
}

// The first or the last 16 weights of a chunk of 32, as the first ones of one.
Chunk chunk_half(uint type, Chunk c, uint which)
{
    if (low_bits(type) == 2) c.low.x = c.low[which];
    else c.low >>= 4 * which;
    if (high_bits(type) == 1) c.high.x >>= 4 * which;
    if (high_bits(type) == 2) c.high.x = c.high[which];
    return c;
}

// What the table has for four bytes.
uint look_up(uint type, uint four)
{
    uint found = 0;
    [[unroll]] for (uint i = 0; i < 32; i += 8) {
        const uint n = four >> i & 15;
        found |= (is_shared(type) ? tables[first_of_table(type) + n] : byte_of(table(type), n)) << i;
    }
    return found;
}

// Weights 4j .. 4j + 3 of a chunk, without scale and minimum, and from which the bias has not been taken.
vec4 chunk_biased(uint type, Chunk c, uint j)
{
    if (number_of(type) == F32) return uintBitsToFloat(c.low);
    if (number_of(type) == F16) return vec4(unpackHalf2x16(c.low[2 * j & 3]), unpackHalf2x16(c.low[2 * j + 1 & 3]));
    if (number_of(type) == BF16) {
        const uint a = c.low[2 * j & 3], b = c.low[2 * j + 1 & 3];
        return uintBitsToFloat(uvec4(a << 16, a & 0xffff0000u, b << 16, b & 0xffff0000u));
    }
    if (number_of(type) == Q8_0) return unpack_s8(c.low[j & 3]);
    if (has_table(type)) return unpack_s8(look_up(type, chunk_bytes(type, c, j)));
    return unpack_u8(chunk_bytes(type, c, j));
}

// And from which it has.
vec4 chunk_part(uint type, Chunk c, uint j) { return chunk_biased(type, c, j) - float(bias(type)); }

// Rows that a subgroup takes at once: x is then read once for all of them. A software device gains most, a large GPU
// wants more subgroups instead.
layout(constant_id = 3) const uint rows_at_once = 1;

float add_lanes(vec4 v) { return v.x + v.y + v.z + v.w; }

const uint sums_at_once = rows_at_once * few;

uint token_at(uint token, uint tokens, uint t) { return few == 1 ? token : min(token + t, tokens - 1); }

// Chunks of a row that an invocation has under way together, where the row has so many left: a GPU's memory is fast
// when much is asked of it at a time.
layout(constant_id = 6) const uint chunks_at_once = 1;
const uint parts_at_once = rows_at_once * chunks_at_once;

struct Part {              // a chunk and its scales as they come from memory
    Chunk c;
    vec2 scale, minimum;
};

Part load_part(Quads w, uint type, uint row, uint q, uint more, uint n)
{
    Part p;
    p.c = load_chunk(w, type, row, q, more, n);
    row_scales(w, type, row, (q + more) * chunk_weights(type), n, p.scale, p.minimum);
    return p;
}

struct Inputs {            // the vectors that rows meet: `few` of (tokens, n) from number `token` on
    ConstFloats x;
    Quads high, low;       // or as planes
    ConstFloats4 scale;
    uint token, tokens, n;
};

// Where the t-th of them begins, in so many numbers.
uint input_at(Inputs x, uint t, uint of) { return token_at(x.token, x.tokens, t) * (x.n / of); }

// sum += what chunk q + more of rows_at_once rows gives; those are parts[first] and on.
void add_chunk(uint type, Part parts[parts_at_once], uint first, uint q, uint more, Inputs x,
               inout float sum[sums_at_once])
{
    const uint chunk = chunk_weights(type), group = scale_weights(type);
    [[unroll]] for (uint g = 0; g < chunk / group; ++g) {
        vec4 part[sums_at_once], x_sum[few];
        [[unroll]] for (uint s = 0; s < sums_at_once; ++s) part[s] = vec4(0);
        [[unroll]] for (uint t = 0; t < few; ++t) x_sum[t] = vec4(0);
        // As many turns in each group: AMD's compiler unrolls no loop whose bounds hang on another's.
        [[unroll]] for (uint i = 0; i < group / 4; ++i) {
            const uint j = g * group / 4 + i;
            vec4 weights[rows_at_once];
            [[unroll]] for (uint r = 0; r < rows_at_once; ++r) weights[r] = chunk_part(type, parts[first + r].c, j);
            [[unroll]] for (uint t = 0; t < few; ++t) {
                const vec4 four = uintBitsToFloat(
                    quad_at(Quads(x.x), input_at(x, t, 4), q * (chunk / 4), more * (chunk / 4) + j));
                [[unroll]] for (uint r = 0; r < rows_at_once; ++r) part[r * few + t] += weights[r] * four;
                if (has_minima(type)) x_sum[t] += four;
            }
        }
        [[unroll]] for (uint r = 0; r < rows_at_once; ++r)
            [[unroll]] for (uint t = 0; t < few; ++t) {
                const uint s = r * few + t;
                sum[s] += parts[first + r].scale[g] * add_lanes(part[s]);
                if (has_minima(type)) sum[s] -= parts[first + r].minimum[g] * add_lanes(x_sum[t]);
            }
    }
}

// This invocation's share of sum_i w_ri x_ti for rows_at_once rows from number `first` on and `few` tokens
// (sum[r few + t]), a chunk in turn with the others of its subgroup. Rows behind the `last`-th are taken for it, and of
// tokens behind the last that one. With more than one token n is a multiple of 4.
void rows_dot(Quads w, uint type, uint first, uint stride, uint last, Inputs x, out float sum[sums_at_once])
{
    const uint n = x.n, chunk = chunk_weights(type), whole = n / chunk, step = gl_SubgroupSize;
    uint row[rows_at_once];
    [[unroll]] for (uint r = 0; r < rows_at_once; ++r)
        row[r] = row_at(w, type, stride, first + min(r, last));
    [[unroll]] for (uint s = 0; s < sums_at_once; ++s) sum[s] = 0;
    uint q = gl_SubgroupInvocationID;
    Part parts[parts_at_once];
    for (; q + (chunks_at_once - 1) * step < whole; q += chunks_at_once * step) {
        [[unroll]] for (uint p = 0; p < parts_at_once; ++p)
            parts[p] = load_part(w, type, row[p % rows_at_once], q, p / rows_at_once * step, n);
        [[unroll]] for (uint u = 0; u < chunks_at_once; ++u)
            add_chunk(type, parts, u * rows_at_once, q, u * step, x, sum);
    }
    if (chunks_at_once > 1)
        for (; q < whole; q += step) {
            [[unroll]] for (uint r = 0; r < rows_at_once; ++r) parts[r] = load_part(w, type, row[r], q, 0, n);
            add_chunk(type, parts, 0, q, 0, x, sum);
        }
    // What is left of a row of odd length, a weight per invocation; x ends with the row. Nothing that is not there is
    // named, even where no invocation comes: Mesa's software device (26.2) reads what is at an address that is the same
    // for all of a subgroup whether any of them is active or not.
    const uint done = whole * chunk;
    for (uint i = done + gl_SubgroupInvocationID; i < n; i += step)
        [[unroll]] for (uint r = 0; r < rows_at_once; ++r)
            [[unroll]] for (uint t = 0; t < few; ++t)
                sum[r * few + t] += chunk_part(type, load_chunk(w, type, row[r], min(whole, (n - 1) / chunk), n),
                                               (i - done) / 4)[i & 3]
                                    * x.x.at[input_at(x, t, 1) + i];
}

#ifdef INT_DOT
#extension GL_EXT_spirv_intrinsics : require
// OpSDotKHR on four packed int8; the GLSL extension for it is younger than the compilers we build with.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int sdot4(uint a, uint b, spirv_literal int format);

int dot4(uint a, uint b) { return sdot4(a, b, 0); }

// Weights 4j .. 4j + 3 of a chunk as int8, without scale and minimum. The bias b is the highest bit of q: q - b is q ^
// b, sign-extended from b's bit.
uint chunk_s8(uint type, Chunk c, uint j)
{
    const uint four = chunk_bytes(type, c, j), b = bias(type);
    if (has_table(type)) return look_up(type, four);
    if (b == 0) return four;
    const uint v = four ^ b * 0x01010101u;
    return v | (v & b * 0x01010101u) * (256 / b - 2);
}

// The same as add_chunk for formats with blocks in integers: x = scale (256 high + low). 32 * 127 * 32767 fits into 32
// bits. A bias is taken off the sum, by means of the sums of x: a multiplication for each group instead of some
// operations for each word.
void add_chunk_int(uint type, Part parts[parts_at_once], uint first, uint q, uint more, Inputs x,
                   inout float sum[sums_at_once])
{
    const uint chunk = chunk_weights(type), group = scale_weights(type);
    uint weights[rows_at_once * 8];
    [[unroll]] for (uint r = 0; r < rows_at_once; ++r)
        [[unroll]] for (uint j = 0; j < chunk / 4; ++j) {
            const uint four = chunk_bytes(type, parts[first + r].c, j);
            weights[r * 8 + j] = has_table(type) ? look_up(type, four) : four;
        }
    [[unroll]] for (uint t = 0; t < few; ++t) {
        const uint at = input_at(x, t, 16), of_chunk = chunk / 16;
        uvec4 high[2], low[2];
        [[unroll]] for (uint i = 0; i < of_chunk; ++i) {
            high[i] = quad_at(x.high, at, q * of_chunk, more * of_chunk + i);
            low[i] = quad_at(x.low, at, q * of_chunk, more * of_chunk + i);
        }
        // And the sums of the first 16 and of the others, and 1 / scale.
        const vec4 scale = uintBitsToFloat(quad_at(Quads(x.scale), at / 2, (q + more) * of_chunk / 2, 0));
        const ivec2 sums = bias(type) > 0 ? ivec2(roundEven(scale.yz * scale.w)) : ivec2(0);
        [[unroll]] for (uint g = 0; g < chunk / group; ++g) {
            const int x_sum = group < chunk ? sums[g] : sums.x + sums.y;
            [[unroll]] for (uint r = 0; r < rows_at_once; ++r) {
                int h = 0, l = 0;
                [[unroll]] for (uint i = 0; i < group / 4; ++i) {
                    const uint j = g * group / 4 + i;
                    h += dot4(weights[r * 8 + j], high[j / 4][j % 4]);
                    l += dot4(weights[r * 8 + j], low[j / 4][j % 4]);
                }
                const uint s = r * few + t;
                sum[s] += float(256 * h + l - int(bias(type)) * x_sum) * (parts[first + r].scale[g] * scale.x);
                if (has_minima(type))
                    sum[s] -= parts[first + r].minimum[g] * (group < chunk ? scale[1 + g] : scale.y + scale.z);
            }
        }
    }
}

void rows_dot_int(Quads w, uint type, uint first, uint stride, uint last, Inputs x, out float sum[sums_at_once])
{
    const uint n = x.n, whole = n / chunk_weights(type), step = gl_SubgroupSize;
    uint row[rows_at_once];
    [[unroll]] for (uint r = 0; r < rows_at_once; ++r)
        row[r] = row_at(w, type, stride, first + min(r, last));
    [[unroll]] for (uint s = 0; s < sums_at_once; ++s) sum[s] = 0;
    uint q = gl_SubgroupInvocationID;
    Part parts[parts_at_once];
    for (; q + (chunks_at_once - 1) * step < whole; q += chunks_at_once * step) {
        [[unroll]] for (uint p = 0; p < parts_at_once; ++p)
            parts[p] = load_part(w, type, row[p % rows_at_once], q, p / rows_at_once * step, n);
        [[unroll]] for (uint u = 0; u < chunks_at_once; ++u)
            add_chunk_int(type, parts, u * rows_at_once, q, u * step, x, sum);
    }
    if (chunks_at_once > 1)
        for (; q < whole; q += step) {
            [[unroll]] for (uint r = 0; r < rows_at_once; ++r) parts[r] = load_part(w, type, row[r], q, 0, n);
            add_chunk_int(type, parts, 0, q, 0, x, sum);
        }
}
#endif
