// Four numbers of a block of 32 in 16-bit fixed point, x = scale (256 high + low), as a word of each of the two planes of int8.

const float fixed_max = 32512.0;    // 127 * 256: both planes fit into int8

float fixed_scale(float largest) { return largest / fixed_max; }

// `largest`: of |x| in the block
void fixed_words(vec4 x, float largest, out uint high, out uint low)
{
    const float inverse = largest > 0 ? fixed_max / largest : 0;
    high = low = 0;
    [[unroll]] for (uint j = 0; j < 4; ++j) {
        const int q = int(roundEven(x[j] * inverse));
        const int l = (q << 24) >> 24;    // the low byte, signed
        high |= (uint((q - l) >> 8) & 255) << 8 * j;
        low |= (uint(l) & 255) << 8 * j;
    }
}
