// Buffer and Activation: values between ops, in a backend's own memory.
#pragma once

#include <cstdint>

#include "kernels/runtime/weights.h"

namespace spikefold {

// [rows, width], contiguous, float32 (the float64 backend's: float64). Made by Ops::NewBuffer; grows through
// Ops::Reserve.
class Buffer {
 public:
  virtual ~Buffer() = default;
  int64_t width() const { return width_; }
  int64_t capacity() const { return capacity_; }  // rows
  // nullptr if the host cannot address it: use Ops::Read and Ops::Write.
  virtual float* host() = 0;
  virtual const float* host() const = 0;

 protected:
  int64_t width_ = 0, capacity_ = 0;
};

// The input of a site, in the form its linears ask for: float rows, or int8 rows with one scale a row, the
// kept and super columns in bf16 precision, and the list of spike rows that are computed in float. Made by
// Ops::NewActivation, filled by the ops that produce a site's input.
class Activation {
 public:
  virtual ~Activation() = default;
  const ActivationForm* form = nullptr;  // of the last fill
  int64_t rows = 0;                      // of the last fill
  // Set before a fill: floats() must hold the float rows the form was made from, for taps and interventions.
  // A fused backend may skip them otherwise, and Ops::SetRows() always.
  bool keep_floats = false;
  virtual Buffer& floats() = 0;
  virtual const Buffer& floats() const = 0;
};

}  // namespace spikefold
