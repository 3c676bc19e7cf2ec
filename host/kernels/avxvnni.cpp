// AVX2 with AVX-VNNI, which most desktops since 2021 have and AVX-512 not: what adds up products of words at once.
#include "host/kernels/avx2_set.h"

namespace hearth::host {

Kernels avxvnni_kernels() { return with_products_of<Avx2Set<DotProduct>>(avx2_kernels, Isa::avxvnni); }

}    // namespace hearth::host
