// The same as avxvnni.cpp in the encoding of AVX-512, so that the set can be tried on a processor that has VNNI there
// alone.
#include "host/kernels/avx2_set.h"

namespace hearth::host {
namespace {

struct MultiplyAndAdd {
    static __m256i add(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_epi32(sum, a, b); }
};

}    // namespace

constexpr Kernels avxvnni_of_avx512_kernels = make_kernels<Avx2Set<MultiplyAndAdd>>(Isa::avxvnni);

}    // namespace hearth::host
