// GELU and its derivative: x Phi(x) with the normal distribution function Phi, or, in the quick
// form, x s(1.702 x) with the logistic function s.
#pragma once
#include "include/view.cuh"

DEVICE float phi(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }
DEVICE float gelu_of(float x, bool quick) { return quick ? x * sigmoid(1.702f * x) : x * phi(x); }
DEVICE float gelu_slope(float x, bool quick) {
    float s = sigmoid(1.702f * x);
    return quick ? s + 1.702f * x * s * (1.0f - s) : phi(x) + x * 0.3989423f * expf(-0.5f * x * x);
}
