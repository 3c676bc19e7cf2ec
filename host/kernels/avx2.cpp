#include "host/kernels/avx2_set.h"

namespace hearth::host {
namespace {

struct MultiplyThenAdd {
    static __m256i add(__m256i sum, __m256i a, __m256i b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
};

}    // namespace

constexpr Kernels avx2_kernels = make_kernels<Avx2Set<MultiplyThenAdd>>(Isa::avx2);

}    // namespace hearth::host
