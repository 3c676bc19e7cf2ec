// Activations of feed-forward blocks, numbered as host::Activation.
const uint silu = 1, drelu = 2, gelu = 3, gelu_tanh = 4, quick_gelu = 5;

// erf to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26
float erf(float x)
{
    const float t = 1 / (1 + 0.3275911 * abs(x));
    const float y = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return sign(x) * (1 - y * exp(-x * x));
}

float activate(uint activation, float floor, float x)
{
    if (activation == silu) return x / (1.0 + exp(-x));
    if (activation == gelu) return 0.5 * x * (1.0 + erf(x * 0.70710678));
    if (activation == gelu_tanh) return x / (1.0 + exp(-1.5957691 * (x + 0.044715 * x * x * x)));
    if (activation == quick_gelu) return x / (1.0 + exp(-1.702 * x));
    return x <= floor ? 0.0 : x;
}

float activate_up(uint activation, float x) { return activation == drelu && x <= 0 ? 0.0 : x; }
