// A tile of weights in shared memory, decoded: for kernels that multiply it with many tokens. It lies there as the
// matrix does: tile_rows rows of tile_inner weights, or TRANSPOSED tile_inner of tile_rows.
// Who includes this has said
//   Four        what four weights are kept as: halves or floats
//   tile_rows, tile_inner, tile_padding    sizes; the last one in Fours, 16 bytes for each of the tile's rows, which
//                                          keep those beside each other in different banks
//   type, TRANSPOSED, a                    constants and arguments of MatMul
const uint w_width = TRANSPOSED ? tile_rows : tile_inner, w_height = TRANSPOSED ? tile_inner : tile_rows;
const uint w_pitch = w_width / 4 + tile_padding;    // in Fours
shared Four w_tile[w_height * w_pitch];

// Rows first_row .. + tile_rows, numbers first_inner .. + tile_inner of the inner dimension; what the matrix does not
// have is zero.
void load_weights(uint first_row, uint first_inner)
{
    const uint chunk = chunk_weights(type), stored_cols = TRANSPOSED ? a.rows : a.inner,
               stored_rows = TRANSPOSED ? a.inner : a.rows;
    const uint row0 = TRANSPOSED ? first_inner : first_row, col0 = TRANSPOSED ? first_row : first_inner;
    for (uint i = gl_LocalInvocationID.x; i < w_height * (w_width / chunk); i += gl_WorkGroupSize.x) {
        const uint r = i / (w_width / chunk), c = i % (w_width / chunk) * chunk;
        const bool inside = row0 + r < stored_rows && col0 + c < stored_cols;
        Chunk weights = {uvec4(0), uvec2(0)};
        vec2 scale = vec2(0), minimum = vec2(0);
        if (inside) {
            const uint row = row_at(a.weight, type, a.stride, row0 + r);
            weights = load_chunk(a.weight, type, row, (col0 + c) / chunk, stored_cols);
            row_scales(a.weight, type, row, col0 + c, stored_cols, scale, minimum);
        }
        [[unroll]] for (uint j = 0; j < chunk / 4; ++j) {
            vec4 four = scale[4 * j / scale_weights(type)] * chunk_part(type, weights, j);
            if (has_minima(type)) four -= minimum[4 * j / scale_weights(type)];
            w_tile[r * w_pitch + c / 4 + j] = Four(four);
        }
    }
}
