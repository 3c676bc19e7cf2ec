#include "engine/model/quantisations.h"

#include "engine/model/weights.h"

#include <algorithm>

namespace hearth {

bool every_layer(const Config&, uint32_t) { return true; }
bool first_two(const Config&, uint32_t l) { return l < 2; }
bool first_four(const Config&, uint32_t l) { return l < 4; }
bool first_sixteenth(const Config& c, uint32_t l) { return l < c.layers / 16; }
bool first_eighth(const Config& c, uint32_t l) { return l < c.layers / 8; }

bool ends_and_thirds(const Config& c, uint32_t l)
{
    return first_eighth(c, l) || l >= 7 * c.layers / 8 || (l - c.layers / 8) % 3 == 2;
}

bool shared_keys(const Config& c, uint32_t) { return c.heads >= 4 * c.kv_heads; }
bool eight_experts(const Config& c, uint32_t) { return c.experts == 8; }

const Quantisation* find_quantisation(std::string_view name)
{
    const Quantisation* found = std::ranges::find(quantisations, name, &Quantisation::name);
    return found == std::end(quantisations) ? nullptr : found;
}

}    // namespace hearth
