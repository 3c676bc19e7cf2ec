// Activations of feed-forward blocks, numbered as host::Activation.
const uint silu = 1, drelu = 2;

float activate(uint activation, float floor, float x) { return activation == silu ? x / (1.0 + exp(-x)) : x <= floor ? 0.0 : x; }
float activate_up(uint activation, float x) { return activation == drelu && x <= 0 ? 0.0 : x; }
