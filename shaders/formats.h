// The formats of rows of weights: one table for the file, the host and the device. What a block's bytes mean is in
// blocks.h, how the device has a row in row.glsl; CONTRIBUTING.md says how to add one.
//
//   id, NAME    C++'s WeightType::id and BlockNAME; NAME is also GLSL's, and GGUF's
//   number      of the type in a file
//   weights     of a block
//   low, high   bits of a weight on the device, which keeps the low ones and the others apart
//   bias        what is subtracted from the integer of these bits: their highest bit, or 0
//   minima      1: w = scale q - minimum
//   table       1: the integer is a place in a table of 16 values
//   scaled      weights that share a scale
#ifndef HEARTH_FORMATS_H
#define HEARTH_FORMATS_H

//         id      NAME   number weights low high bias minima table scaled
#define WEIGHT_FORMATS(FORMAT) \
    FORMAT(f32,    F32,        0,     1, 32,   0,   0,     0,    0,     32) \
    FORMAT(f16,    F16,        1,     1, 16,   0,   0,     0,    0,     32) \
    FORMAT(bf16,   BF16,      30,     1, 16,   0,   0,     0,    0,     32) \
    FORMAT(q8_0,   Q8_0,       8,    32,  8,   0,   0,     0,    0,     32) \
    FORMAT(q4_0,   Q4_0,       2,    32,  4,   0,   8,     0,    0,     32) \
    FORMAT(q4_1,   Q4_1,       3,    32,  4,   0,   0,     1,    0,     32) \
    FORMAT(q5_0,   Q5_0,       6,    32,  4,   1,  16,     0,    0,     32) \
    FORMAT(q5_1,   Q5_1,       7,    32,  4,   1,   0,     1,    0,     32) \
    FORMAT(iq4_nl, IQ4_NL,    20,    32,  4,   0,   0,     0,    1,     32) \
    FORMAT(mxfp4,  MXFP4,     39,    32,  4,   0,   0,     0,    1,     32) \
    FORMAT(q2_k,   Q2_K,      10,   256,  2,   0,   0,     1,    0,     16) \
    FORMAT(q3_k,   Q3_K,      11,   256,  2,   1,   4,     0,    0,     16) \
    FORMAT(q4_k,   Q4_K,      12,   256,  4,   0,   0,     1,    0,     32) \
    FORMAT(q5_k,   Q5_K,      13,   256,  4,   1,   0,     1,    0,     32) \
    FORMAT(q6_k,   Q6_K,      14,   256,  4,   2,  32,     0,    0,     16) \
    FORMAT(iq4_xs, IQ4_XS,    23,   256,  4,   0,   0,     0,    1,     32)

// A kernel is told a row of this table in one specialization constant: the number, whether the rows are sparse, and the
// other columns from these bits on. They cost nothing there; comparing a number with all rows took compilers long.
#define FORMAT_SPARSE 256u
#define FORMAT_LOW 9
#define FORMAT_HIGH 15
#define FORMAT_BIAS 17
#define FORMAT_MINIMA 23
#define FORMAT_TABLE 24
#define FORMAT_SCALED 25
// And where such a table lies: in shared memory, or else in registers.
#define FORMAT_TABLE_SHARED 0x80000000u

#endif
