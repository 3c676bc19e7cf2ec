// A tile of weights in shared memory, decoded: for kernels that multiply it with many tokens. It lies there as the
// matrix does: tile_rows rows of tile_inner weights, or TRANSPOSED tile_inner of tile_rows.
// Who includes this has said
//   Kept, kept_fours, keep(fours)          what so many times four weights are kept as
//   F16_AS_READ                            or not: Kept is what a chunk of F16 is
//   tile_rows, tile_inner, tile_padding    sizes; the last one in Kept, 16 bytes for each of the tile's rows, which
//                                          keep those beside each other in different banks
//   type, TRANSPOSED, a                    constants and arguments of MatMul
const uint w_width = TRANSPOSED ? tile_rows : tile_inner, w_height = TRANSPOSED ? tile_inner : tile_rows;
const uint w_pitch = w_width / (4 * kept_fours) + tile_padding;    // in Kept
shared Kept w_tile[w_height * w_pitch];

// Rows first_row .. + tile_rows, numbers first_inner .. + tile_inner of the inner dimension. Of rows that are not there
// the last one: nobody reads what becomes of them. Of the inner dimension what is not there is zero. Without branches,
// around which NVIDIA's open compiler moves all sums of an invocation.
void load_weights(uint first_row, uint first_inner)
{
    const uint chunk = chunk_weights(type), stored_cols = TRANSPOSED ? a.rows : a.inner,
               stored_rows = TRANSPOSED ? a.inner : a.rows;
    const uint row0 = TRANSPOSED ? first_inner : first_row, col0 = TRANSPOSED ? first_row : first_inner;
    const bool ends_whole = !TRANSPOSED && low_bits(type) <= 8;    // a row of blocks of 32
    const uint count = w_height * (w_width / chunk), lanes = gl_WorkGroupSize.x;
    [[unroll]] for (uint n = 0; n < (count + lanes - 1) / lanes; ++n) {
        const uint i = n * lanes + gl_LocalInvocationID.x;
        if (count % lanes != 0 && i >= count) break;
        const uint r = i / (w_width / chunk), c = i % (w_width / chunk) * chunk;
        const uint row = row_at(a.weight, type, a.stride, min(row0 + r, stored_rows - 1)),
                   at = min((col0 + c) / chunk, (stored_cols - 1) / chunk);
        Chunk weights = load_chunk(a.weight, type, row, at, stored_cols);
        vec2 scale, minimum;
        row_scales(a.weight, type, row, at * chunk, stored_cols, scale, minimum);
        const bool outside = TRANSPOSED ? row0 + r >= stored_rows : col0 + c >= stored_cols;
        if (!ends_whole && outside) weights.low = uvec4(0), scale = minimum = vec2(0);
#ifdef F16_AS_READ
        if (number_of(type) == F16) {
            w_tile[r * w_pitch + c / 8] = weights.low;
            continue;
        }
#endif
        [[unroll]] for (uint j = 0; j < chunk / 4; j += kept_fours) {
            vec4 fours[kept_fours];
            [[unroll]] for (uint f = 0; f < kept_fours; ++f) {
                const uint part = 4 * (j + f) / scale_weights(type);
                fours[f] = scale[part] * chunk_part(type, weights, j + f);
                if (has_minima(type)) fours[f] -= minimum[part];
            }
            w_tile[r * w_pitch + (c / 4 + j) / kept_fours] = keep(fours);
        }
    }
}
