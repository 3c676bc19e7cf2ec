// A tile of weights in shared memory, decoded: for kernels that multiply it with many tokens.
// Who includes this has said
//   Tile        what a weight is kept as
//   tile_rows, tile_inner, pitch    sizes, and how far it is from row to row
//   type, TRANSPOSED, a             constants and arguments of MatMul
shared Tile w_tile[tile_rows * pitch];

// Rows first_row .. + tile_rows, numbers first_inner .. + tile_inner of the inner dimension; what the matrix does not
// have is zero.
void load_weights(uint first_row, uint first_inner)
{
    // The tile's stored rows: tile_rows of tile_inner weights, TRANSPOSED tile_inner of tile_rows.
    const uint chunk = chunk_weights(type), stored_cols = TRANSPOSED ? a.rows : a.inner,
               stored_rows = TRANSPOSED ? a.inner : a.rows;
    const uint width = TRANSPOSED ? tile_rows : tile_inner, height = TRANSPOSED ? tile_inner : tile_rows;
    const uint row0 = TRANSPOSED ? first_inner : first_row, col0 = TRANSPOSED ? first_row : first_inner;
    for (uint i = gl_LocalInvocationID.x; i < height * (width / chunk); i += gl_WorkGroupSize.x) {
        const uint r = i / (width / chunk), c = i % (width / chunk) * chunk;
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
            [[unroll]] for (uint k = 0; k < 4; ++k) {
                const uint at = c + 4 * j + k;
                w_tile[TRANSPOSED ? at * pitch + r : r * pitch + at] = Tile(four[k]);
            }
        }
    }
}
