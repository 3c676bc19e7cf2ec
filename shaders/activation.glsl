// Activations of feed-forward blocks, numbered as host::Activation.
float activate(uint activation, float x)
{
    return activation == 0 ? max(x, 0.0) : x / (1.0 + exp(-x));
}
