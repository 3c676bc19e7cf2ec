// AVX2 with AVX-VNNI, which most desktops since 2021 have and AVX-512 not.
#include "host/kernels/avx2_set.h"

namespace hearth::host {
namespace {

struct MultiplyAndAdd {
    static __m256i add(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
};

}    // namespace

constexpr Kernels avxvnni_kernels = make_kernels<Avx2Set<MultiplyAndAdd>>(Isa::avxvnni);

}    // namespace hearth::host
