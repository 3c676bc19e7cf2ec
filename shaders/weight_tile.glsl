// A tile of weights in shared memory, decoded: for kernels that multiply it with many tokens. It lies there as the
// matrix does: tile_rows rows of tile_inner weights, or TRANSPOSED tile_inner of tile_rows.
// Who includes this has said
//   Kept, kept_fours, keep(fours)          what so many times four weights are kept as
//   F16_AS_READ                            or not: Kept is what a chunk of F16 is
//   tile_rows, tile_inner, tile_padding    sizes; the last one in Kept, 16 bytes for each of the tile's rows, which
//                                          keep those beside each other in different banks
//   type, TRANSPOSED, a                    constants and arguments of MatMul
//   IN_TILE                                before row.glsl

const uint w_width = TRANSPOSED ? tile_rows : tile_inner, w_height = TRANSPOSED ? tile_inner : tile_rows;
const uint w_pitch = w_width / (4 * kept_fours) + tile_padding;    // in Kept
shared Kept w_tile[w_height * w_pitch];

// Rows first_row .. + tile_rows, numbers first_inner .. + tile_inner of the inner dimension. Of rows that are not there
// the last one: nobody reads what becomes of them. Of the inner dimension what is not there is zero. Without branches,
// around which NVIDIA's open compiler moves all sums of an invocation.
void load_weights(uint first_row, uint first_inner)
{
    // A chunk, or in a tile as narrow as half of one, that half.
    const uint chunk = chunk_weights(type), kept = min(chunk, w_width), of_chunk = chunk / kept,
               stored_cols = TRANSPOSED ? a.rows : a.inner, stored_rows = TRANSPOSED ? a.inner : a.rows;
    const uint row0 = TRANSPOSED ? first_inner : first_row, first = (TRANSPOSED ? first_row : first_inner) / kept;
#ifdef INT64    // the matrix from this row on (a sparse one's from a whole pack on), so that the tile is near
    const uint pack = is_sparse(type) ? sparse_pack : 1, origin = row0 / pack * pack;
    Quads w = Quads(uint64_t(a.weight) + uint64_t(origin / pack * a.stride) * 16);
#else
    const uint origin = 0;
    Quads w = a.weight;
#endif
    const bool ends_whole = !TRANSPOSED && low_bits(type) <= 8;    // a row of blocks of 32
    // An invocation's chunks are one below the other.
    const uint width = w_width / kept, c = gl_LocalInvocationID.x % width, r0 = gl_LocalInvocationID.x / width,
               step = gl_WorkGroupSize.x / width;
    const uint at = (first + c) / of_chunk, last = (stored_cols - 1) / chunk, last_row = stored_rows - 1 - origin;
    [[unroll]] for (uint n = 0; n < (w_height + step - 1) / step; ++n) {
        const uint r = r0 + n * step;
        if (w_height % step != 0 && r >= w_height) break;
        const uint row = is_sparse(type) ? row_at(w, type, a.stride, min(row0 - origin + r, last_row))
                                         : min((row0 - origin + r0) * a.stride + n * (step * a.stride),
                                               last_row * a.stride);
        Chunk weights = load_chunk(w, type, row, min(at, last), stored_cols);
        vec2 scale, minimum;
        row_scales(w, type, row, min(at, last) * chunk, stored_cols, scale, minimum);
        if (of_chunk > 1) {
            const uint which = first % 2;
            weights = chunk_half(type, weights, which);
            if (scale_weights(type) <= kept && which == 1) scale.x = scale.y, minimum.x = minimum.y;
        }
        const bool outside = at > last || TRANSPOSED && row0 + r >= stored_rows;
        if (!ends_whole && outside) {
            if (low_bits(type) > 8) weights.low = uvec4(0);
            else scale = minimum = vec2(0);
        }
        const uint to = r * w_pitch + c * (kept / 4 / kept_fours);
#ifdef F16_AS_READ
        if (number_of(type) == F16) {
            w_tile[to] = weights.low;
            continue;
        }
#endif
        [[unroll]] for (uint j = 0; j < kept / 4; j += kept_fours) {
            vec4 fours[kept_fours];
            [[unroll]] for (uint f = 0; f < kept_fours; ++f) {
                const uint part = 4 * (j + f) / scale_weights(type);
                fours[f] = scale[part] * chunk_part(type, weights, j + f);
                if (has_minima(type)) fours[f] -= minimum[part];
            }
            w_tile[to + j / kept_fours] = keep(fours);
        }
    }
}
