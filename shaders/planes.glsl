// A vector in 16-bit fixed point, x = scale (256 high + low), as two planes of int8, four numbers to a word. With each
// block of 32 stand its scale, the sums of its first and its last 16 numbers, which formats with a minimum or a bias
// need, and 1 / scale. The sums are less than 2^20, so that times 1 / scale they are the integers again, once rounded.

const float fixed_max = 32512.0;    // 127 * 256: both planes fit into int8

// The larger of `largest` and |x|. As bits: floats of one sign compare as they do, and NaN, which max may leave out, is
// larger than all of them. A block with one gets it as its scale.
float most(float largest, float x)
{
    return uintBitsToFloat(max(floatBitsToUint(largest), floatBitsToUint(x) & 0x7fffffffu));
}

vec4 fixed_scale(float largest, ivec2 sums)
{
    const float scale = largest / fixed_max;
    return vec4(scale, scale * vec2(sums), largest > 0 ? fixed_max / largest : 0);
}

// The sum of four numbers, and their words; `largest`: of |x| in the block.
int fixed_words(vec4 x, float largest, out uint high, out uint low)
{
    const float inverse = largest > 0 ? fixed_max / largest : 0;
    high = low = 0;
    int sum = 0;
    [[unroll]] for (uint j = 0; j < 4; ++j) {
        const int q = int(roundEven(x[j] * inverse));
        sum += q;
        const int l = (q << 24) >> 24;    // the low byte, signed
        high |= (uint((q - l) >> 8) & 255) << 8 * j;
        low |= (uint(l) & 255) << 8 * j;
    }
    return sum;
}
