#include "kernels/runtime/float64/float64_ops.h"

#include <algorithm>
#include <cmath>

#include "kernels/runtime/float64/products.h"
#include "kernels/runtime/float64/transform.h"

namespace spikefold {
namespace {

constexpr int64_t kRowGrain = 8;
constexpr int64_t kOutputs = 64;  // of a linear that are computed at once
constexpr int64_t kQueries = 32;  // rows of a head that attend at once

const Float64Buffer& Wide(const Buffer& x) { return static_cast<const Float64Buffer&>(x); }
Float64Buffer& Wide(Buffer& x) { return static_cast<Float64Buffer&>(x); }
Float64Activation& Wide(Activation& x) { return static_cast<Float64Activation&>(x); }

void Norm(const double* x, int64_t k, const std::vector<float>& gain, float eps, double* y) {
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += x[i] * x[i];
  const double factor = 1 / std::sqrt(sum / static_cast<double>(k) + static_cast<double>(eps));
  for (int64_t i = 0; i < k; ++i) y[i] = x[i] * factor * static_cast<double>(gain[static_cast<size_t>(i)]);
}

// The rotation whose float32 copy the kernels take.
Transform WideRotation(const RowRotation& rows) {
  Rotation rotation;
  rotation.factors = rows.factors;
  for (const float scale : rows.scale) rotation.signs.push_back(scale < 0 ? -1 : 1);
  return Transform::Rotate(rotation);
}

double Activate(GateActivation activation, double g) {
  if (activation == GateActivation::kSilu) return g / (1 + std::exp(-g));
  const double u = 0.79788456080286535588 * (g + 0.044715 * g * g * g);  // sqrt(2/pi)
  return g / (1 + std::exp(-2 * u));                                     // 1 + tanh(u), without cancellation
}

// Keys and values of one sequence.
struct Float64Rows : KvCache::DeviceRows {
  int64_t capacity = 0, width = 0;
  std::vector<std::vector<double>> k, v;  // by layer: keys [width, capacity], values [capacity, width]

  explicit Float64Rows(const KvCache& cache, int64_t row_width)
      : capacity(cache.capacity()), width(row_width) {
    const size_t size = static_cast<size_t>(capacity * width);
    k.assign(static_cast<size_t>(cache.num_layers()), std::vector<double>(size));
    v = k;
    for (int layer = 0; layer < cache.num_layers(); ++layer) {
      const size_t at = static_cast<size_t>(layer);
      for (int64_t i = 0; i < cache.length() * width; ++i) {
        Key(at, i / width, i % width) = static_cast<double>(cache.k(layer)[i]);
        v[at][static_cast<size_t>(i)] = static_cast<double>(cache.v(layer)[i]);
      }
    }
  }
  double& Key(size_t layer, int64_t position, int64_t channel) {
    return k[layer][static_cast<size_t>(channel * capacity + position)];
  }
};

}  // namespace

std::unique_ptr<Ops> MakeFloat64Ops(ThreadPool* pool) { return std::make_unique<Float64Ops>(pool); }

absl::Status Float64Ops::PackF32(const Tensor& w, LinearWeights& out) {
  out.kind = LinearWeights::Kind::kF32;
  out.n = w.dim(0);
  out.k = w.dim(1);
  out.group = 0;
  out.packed = w.Clone();
  return absl::OkStatus();
}

absl::Status Float64Ops::PackCodes(const CodeMatrix&, const ActivationFormat&, LinearWeights&) {
  return absl::UnimplementedError("float64: runs float models; a quantized one runs on the CPU or on CUDA");
}

std::unique_ptr<Buffer> Float64Ops::NewBuffer(int64_t width) {
  return std::make_unique<Float64Buffer>(width);
}

std::unique_ptr<Activation> Float64Ops::NewActivation(int64_t width) {
  return std::make_unique<Float64Activation>(width);
}

absl::Status Float64Ops::Reserve(Buffer& buffer, int64_t rows) {
  Wide(buffer).Reserve(rows);
  return absl::OkStatus();
}

absl::Status Float64Ops::Reserve(Activation& buffer, int64_t rows) {
  Wide(buffer).buffer.Reserve(rows);
  return absl::OkStatus();
}

absl::Status Float64Ops::ReadFrom(const Buffer& buffer, int64_t first, int64_t rows, float* host) {
  const double* x = Wide(buffer).data() + first * buffer.width();
  for (int64_t i = 0; i < rows * buffer.width(); ++i) host[i] = static_cast<float>(x[i]);
  return absl::OkStatus();
}

absl::Status Float64Ops::Write(const float* host, int64_t rows, Buffer& buffer) {
  std::copy_n(host, rows * buffer.width(), Wide(buffer).data());
  return absl::OkStatus();
}

absl::Status Float64Ops::SetRows(const float* rows, Activation& x) { return Write(rows, x.rows, x.floats()); }

void Float64Ops::Finish(int64_t rows, const ActivationForm& form, Float64Activation& out) {
  out.form = &form;
  out.rows = rows;
  const int64_t k = out.buffer.width();
  if (form.rotation != nullptr) {
    const Transform rotation = WideRotation(*form.rotation);
    pool_.ParallelFor(rows, kRowGrain, [&](int64_t begin, int64_t end) {
      rotation.ApplyRows(out.buffer.data() + begin * k, end - begin, k);
    });
  }
  if (form.shift == nullptr) return;
  for (int64_t i = 0; i < rows * k; ++i) {
    out.buffer.data()[i] -= static_cast<double>((*form.shift)[static_cast<size_t>(i % k)]);
  }
}

absl::Status Float64Ops::Embed(const LinearWeights& table, const ActivationForm&,
                               absl::Span<const int32_t> tokens, float scale, Buffer& out) {
  const float* w = table.packed.as<float>().data();
  double* y = Wide(out).data();
  for (const int32_t token : tokens) {
    for (const float* row = w + token * table.k; row < w + (token + 1) * table.k; ++row) {
      *y++ = static_cast<double>(*row) * static_cast<double>(scale);
    }
  }
  return absl::OkStatus();
}

absl::Status Float64Ops::AddNorm(const AddNormArgs& a) {
  const int64_t d = a.residual->width();
  pool_.ParallelFor(a.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      double* h = Wide(*a.residual).data() + row * d;
      if (a.branch != nullptr) {
        double* b = Wide(*a.branch).data() + row * d;
        if (a.branch_gain != nullptr) Norm(b, d, *a.branch_gain, a.eps, b);
        for (int64_t i = 0; i < d; ++i) h[i] += b[i];
      }
      if (a.gain != nullptr) Norm(h, d, *a.gain, a.eps, Wide(*a.out).buffer.data() + row * d);
    }
  });
  if (a.gain != nullptr) Finish(a.rows, *a.form, Wide(*a.out));
  return absl::OkStatus();
}

void Float64Ops::Linear(const double* x, int64_t rows, const LinearWeights& w, double* y) {
  const float* weights = w.packed.as<float>().data();
  std::vector<double> columns(static_cast<size_t>(rows * w.k));  // x^T: products want rows side by side
  for (int64_t i = 0; i < rows * w.k; ++i) {
    columns[static_cast<size_t>(i % w.k * rows + i / w.k)] = x[i];
  }
  pool_.ParallelFor(w.n, kOutputs, [&](int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    const std::vector<double> wide(weights + begin * w.k, weights + end * w.k);
    std::vector<double> out(static_cast<size_t>(count * rows));
    Products({.x = wide.data(),
              .b = columns.data(),
              .y = out.data(),
              .step = 1,
              .ldx = w.k,
              .ldb = rows,
              .ldy = rows,
              .depth = w.k},
             count, rows);
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t n = begin; n < end; ++n) {
        const double bias = w.bias.empty() ? 0 : static_cast<double>(w.bias[static_cast<size_t>(n)]);
        y[m * w.n + n] = out[static_cast<size_t>((n - begin) * rows + m)] + bias;
      }
    }
  });
}

absl::Status Float64Ops::Linears(const Activation& x, absl::Span<const LinearWeights* const> w,
                                 absl::Span<Buffer* const> y) {
  for (size_t i = 0; i < w.size(); ++i) Linear(Wide(x.floats()).data(), x.rows, *w[i], Wide(*y[i]).data());
  return absl::OkStatus();
}

absl::Status Float64Ops::HeadNormRope(const HeadNormRopeArgs& a) {
  const int64_t d = a.head_dim, half = d / 2;
  std::vector<int64_t> positions;  // of the rows
  for (const SequenceRows& s : a.sequences) {
    for (int64_t i = 0; i < s.rows; ++i) positions.push_back(s.first + i);
  }
  const auto turn = [&](double* rows, int64_t heads, const std::vector<float>* gain) {
    pool_.ParallelFor(a.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * heads; i < end * heads; ++i) {
        double* x = rows + i * d;
        if (gain != nullptr) Norm(x, d, *gain, a.eps, x);
        const int64_t position = positions[static_cast<size_t>(i / heads)];
        const float *cos = a.rope->cos(position), *sin = a.rope->sin(position);
        for (int64_t c = 0; c < half; ++c) {
          const double real = x[c], imaginary = x[c + half], cosine = static_cast<double>(cos[c]),
                       sine = static_cast<double>(sin[c]);
          x[c] = real * cosine - imaginary * sine;
          x[c + half] = imaginary * cosine + real * sine;
        }
      }
    });
    if (a.rotation != nullptr) WideRotation(*a.rotation).ApplyRows(rows, a.rows * heads, d);
  };
  turn(Wide(*a.q).data(), a.num_heads, a.q_gain);
  turn(Wide(*a.k).data(), a.num_kv_heads, a.k_gain);
  return absl::OkStatus();
}

absl::Status Float64Ops::Attention(const AttentionArgs& a) {
  for (const SequenceRows& sequence : a.sequences) {
    if (sequence.cache->pages() != nullptr || a.column_mass != nullptr || a.hidden_position >= 0) {
      return absl::UnimplementedError(
          "float64: attends to all positions of a float cache, unwatched; use the CPU");
    }
    Attend(a, sequence);
  }
  Finish(a.rows, *a.form, Wide(*a.out));
  return absl::OkStatus();
}

void Float64Ops::Attend(const AttentionArgs& a, const SequenceRows& s) {
  const int64_t d = a.head_dim, q_width = a.num_heads * d, kv_width = a.num_kv_heads * d;
  if (s.cache->device() == nullptr) s.cache->set_device(std::make_unique<Float64Rows>(*s.cache, kv_width));
  auto& past = static_cast<Float64Rows&>(*s.cache->device());
  const size_t layer = static_cast<size_t>(a.layer);
  const double* const k = Wide(*a.k).data() + s.begin * kv_width;
  std::copy_n(Wide(*a.v).data() + s.begin * kv_width, s.rows * kv_width,
              past.v[layer].data() + s.first * kv_width);
  for (int64_t i = 0; i < s.rows * kv_width; ++i) {
    past.Key(layer, s.first + i / kv_width, i % kv_width) = k[i];
  }
  const int64_t blocks = (s.rows + kQueries - 1) / kQueries;
  pool_.ParallelFor(a.num_heads * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task % a.num_heads, from = task / a.num_heads * kQueries;
      const int64_t count = std::min(kQueries, s.rows - from), positions = s.first + from + count;
      const int64_t at = (s.begin + from) * q_width + head * d,
                    kv = head / (a.num_heads / a.num_kv_heads) * d;
      std::vector<double> weights(static_cast<size_t>(count * positions));
      Products({.x = Wide(*a.q).data() + at,
                .b = past.k[layer].data() + kv * past.capacity,
                .y = weights.data(),
                .step = 1,
                .ldx = q_width,
                .ldb = past.capacity,
                .ldy = positions,
                .depth = d},
               count, positions);
      for (int64_t i = 0; i < count; ++i) {
        double* row = weights.data() + i * positions;
        const int64_t last = s.first + from + i,
                      first = a.window > 0 ? std::max<int64_t>(0, last + 1 - a.window) : 0;
        const double top = *std::max_element(row + first, row + last + 1);
        double sum = 0;
        for (int64_t j = 0; j < positions; ++j) {
          const bool seen = j >= first && j <= last;
          row[j] = seen ? std::exp((row[j] - top) * static_cast<double>(a.scale)) : 0;
          sum += row[j];
        }
        for (int64_t j = first; j <= last; ++j) row[j] /= sum;
      }
      Products({.x = weights.data(),
                .b = past.v[layer].data() + kv,
                .y = Wide(*a.out).buffer.data() + at,
                .step = 1,
                .ldx = positions,
                .ldb = kv_width,
                .ldy = q_width,
                .depth = positions},
               count, d);
    }
  });
}

absl::Status Float64Ops::GatedMul(GateActivation activation, int64_t rows, const Buffer& gate,
                                  const Buffer& up, const ActivationForm& form, Activation& out) {
  const int64_t k = gate.width();
  const double *g = Wide(gate).data(), *u = Wide(up).data();
  double* y = Wide(out).buffer.data();
  pool_.ParallelFor(rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * k; i < end * k; ++i) y[i] = Activate(activation, g[i]) * u[i];
  });
  Finish(rows, form, Wide(out));
  return absl::OkStatus();
}

absl::Status Float64Ops::Head(const LinearWeights& w, const ActivationForm&, int64_t rows,
                              const float* hidden, float* logits) {
  const std::vector<double> x(hidden, hidden + rows * w.k);
  std::vector<double> y(static_cast<size_t>(rows * w.n));
  Linear(x.data(), rows, w, y.data());
  std::copy(y.begin(), y.end(), logits);
  return absl::OkStatus();
}

absl::Status Float64Ops::ReadCache(KvCache& cache) {
  if (cache.device() == nullptr) return absl::OkStatus();
  auto& rows = static_cast<Float64Rows&>(*cache.device());
  for (int layer = 0; layer < cache.num_layers(); ++layer) {
    const size_t at = static_cast<size_t>(layer);
    for (int64_t i = 0; i < cache.length() * rows.width; ++i) {
      cache.k(layer)[i] = static_cast<float>(rows.Key(at, i / rows.width, i % rows.width));
      cache.v(layer)[i] = static_cast<float>(rows.v[at][static_cast<size_t>(i)]);
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold
