// The same as avxvnni.cpp in the encoding of AVX-512, so that the set can be tried on a processor that has VNNI there
// alone.
#include "host/kernels/avx2_set.h"

namespace hearth::host {

Kernels avxvnni_of_avx512_kernels() { return with_products_of<Avx2Set<DotProduct>>(avx2_kernels, Isa::avxvnni); }

}    // namespace hearth::host
