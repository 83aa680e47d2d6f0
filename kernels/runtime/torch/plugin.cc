// The plugin's edge: C functions around Model, where every exception ends as a text.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <cmath>
#include <cstring>
#include <exception>
#include <memory>

#include "kernels/runtime/torch/aten_model.h"

using spikefold::torch_plugin::Model;
using spikefold::torch_plugin::Parameter;
using spikefold::torch_plugin::Turn;

struct SfTorchModel {
  explicit SfTorchModel(const SfTorchGraph& graph) : model(graph) {}
  Model model;
};

namespace {

template <typename Work>
int32_t Guarded(SfTorchError* error, const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::exception& e) {
    std::strncpy(error->text, e.what(), sizeof error->text - 1);
  } catch (...) {
    std::strncpy(error->text, "an unknown exception", sizeof error->text - 1);
  }
  error->text[sizeof error->text - 1] = '\0';
  return 1;
}

// libtorch_cuda registers its kernels when it is loaded; nothing of it is called by name, so a machine
// without a GPU need not have it.
bool LoadCuda() {
  static const bool loaded = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr;
  return loaded;
}

int32_t CudaDevices() {
  try {
    return LoadCuda() && at::hasCUDA() ? 1 : 0;
  } catch (...) {
    return 0;
  }
}

int32_t Create(const SfTorchGraph* graph, SfTorchModel** out, SfTorchError* error) {
  return Guarded(error, [&] {
    if (std::strcmp(graph->device, "cuda") == 0) LoadCuda();
    at::set_num_threads(graph->num_threads);
    *out = new SfTorchModel(*graph);
  });
}
void Destroy(SfTorchModel* model) { delete model; }

int32_t SetLinear(SfTorchModel* m, int32_t node, const SfTorchLinear* linear, SfTorchError* error) {
  return Guarded(error, [&] { m->model.SetLinear(node, *linear); });
}
int32_t SetGain(SfTorchModel* m, int32_t node, const float* gain, int64_t size, SfTorchError* error) {
  return Guarded(error, [&] { m->model.SetGain(node, gain, size); });
}
int32_t SetPrefix(SfTorchModel* m, int32_t layer, int64_t positions, const float* k, const float* v,
                  SfTorchError* error) {
  return Guarded(error, [&] { m->model.SetPrefix(layer, positions, k, v); });
}

int32_t Logits(SfTorchModel* m, const SfTorchWindow* window, float* logits, SfTorchError* error) {
  return Guarded(error, [&] {
    const at::NoGradGuard guard;
    const at::Tensor y = m->model.Logits(*window).to(at::kCPU).contiguous();
    std::memcpy(logits, y.const_data_ptr<float>(), static_cast<size_t>(y.numel()) * sizeof(float));
  });
}
int32_t Divergence(SfTorchModel* m, const SfTorchWindow* window, const float* target, double* mean,
                   SfTorchError* error) {
  return Guarded(error, [&] {
    const at::NoGradGuard guard;
    *mean = m->model.Divergence(*window, target).item<double>();
  });
}

int32_t Learn(SfTorchModel* m, int32_t node, int32_t which, float unit, SfTorchError* error) {
  return Guarded(error, [&] { m->model.Learn(node, which, unit); });
}
int32_t Accumulate(SfTorchModel* m, const SfTorchWindow* window, const float* target, double count,
                   double* mean, SfTorchError* error) {
  return Guarded(error, [&] {
    const at::Tensor loss = m->model.Divergence(*window, target);
    *mean = loss.item<double>();
    (loss / count).backward();
  });
}

// Kingma, Ba, 1412.6980, with its correction of the first steps.
int32_t AdamStep(SfTorchModel* m, double rate, double beta1, double beta2, int32_t* finite,
                 SfTorchError* error) {
  return Guarded(error, [&] {
    const at::NoGradGuard guard;
    at::Tensor all;  // asked for once: on a GPU each answer waits for all that was begun
    for (Parameter* p : m->model.learnt()) {
      if (!p->t.grad().defined()) continue;
      const at::Tensor one = p->t.grad().isfinite().all();
      all = all.defined() ? all.logical_and(one) : one;
    }
    *finite = !all.defined() || all.item<bool>() ? 1 : 0;
    if (*finite != 0) ++m->model.steps;
    const double step = static_cast<double>(m->model.steps);
    for (Parameter* p : m->model.learnt()) {
      const at::Tensor gradient = p->t.grad();
      if (!gradient.defined()) continue;
      if (*finite != 0) {
        p->first_moment.mul_(beta1).add_(gradient, 1 - beta1);
        p->second_moment.mul_(beta2).addcmul_(gradient, gradient, 1 - beta2);
        const at::Tensor spread = (p->second_moment / (1 - std::pow(beta2, step))).sqrt_().add_(1e-8);
        p->t.addcdiv_(p->first_moment, spread, -rate / (1 - std::pow(beta1, step)));
      }
      p->t.mutable_grad().reset();
    }
  });
}

// J. Li, L. Fuxin, S. Todorovic, 2002.01113, whose Cayley SGD with momentum this is, but for the map, which
// is solved exactly, and the length, which is measured as Adam measures it, one for a whole matrix. The
// systems are small for small models (order 4096: about 0.2 TFLOP a step): the processor solves them, so that
// no GPU library beyond the products' is needed.
void Step(Turn& turn, double rate, double beta1, double beta2, double step) {
  const at::Tensor towards = turn.q.detach().t().matmul(turn.q.grad());
  const at::Tensor skew = (towards - towards.t()).mul(0.5).to(at::kCPU);
  const double order = static_cast<double>(skew.size(0));
  if (!turn.momentum.defined()) turn.momentum = at::zeros_like(skew);
  turn.momentum.mul_(beta1).add_(skew, 1 - beta1);
  turn.square = beta2 * turn.square + (1 - beta2) * skew.square().sum().item<double>() / order;
  const double length = std::sqrt(turn.square / (1 - std::pow(beta2, step)));
  if (!(length > 0)) return;  // nothing depends on it
  const at::Tensor half = turn.momentum * (-0.5 * rate / (length * (1 - std::pow(beta1, step))));
  const at::Tensor one = at::eye(skew.size(0), skew.options());
  const at::Tensor map = at::linalg_solve(one - half, one + half);
  turn.q.copy_(turn.q.matmul(map.to(turn.q.device())));
}

int32_t CayleyStep(SfTorchModel* m, double rate, double beta1, double beta2, int32_t* finite,
                   SfTorchError* error) {
  return Guarded(error, [&] {
    const at::NoGradGuard guard;
    at::Tensor all;
    for (Turn& turn : m->model.turns()) {
      if (!turn.q.grad().defined()) continue;
      const at::Tensor one = turn.q.grad().isfinite().all();
      all = all.defined() ? all.logical_and(one) : one;
    }
    *finite = !all.defined() || all.item<bool>() ? 1 : 0;
    if (*finite != 0) ++m->model.steps;
    for (Turn& turn : m->model.turns()) {
      if (!turn.q.grad().defined()) continue;
      if (*finite != 0) Step(turn, rate, beta1, beta2, static_cast<double>(m->model.steps));
      turn.q.mutable_grad().reset();
    }
  });
}

int32_t ReadTurn(SfTorchModel* m, int32_t which, double* values, int64_t size, SfTorchError* error) {
  return Guarded(error, [&] {
    const at::NoGradGuard guard;
    const std::vector<Turn>& turns = m->model.turns();
    TORCH_CHECK(which >= 0 && which < static_cast<int32_t>(turns.size()), "turn ", which, "; there are ",
                turns.size());
    const at::Tensor q = turns[static_cast<size_t>(which)].q.detach().to(at::kCPU).contiguous();
    TORCH_CHECK(q.numel() == size, "room for ", size, " values; there are ", q.numel());
    std::memcpy(values, q.const_data_ptr<double>(), static_cast<size_t>(size) * sizeof(double));
  });
}

int32_t Remember(SfTorchModel* m, SfTorchError* error) {
  return Guarded(error, [&] {
    for (Parameter* p : m->model.learnt()) p->remembered = p->t.detach().clone();
    for (Turn& turn : m->model.turns()) turn.remembered = turn.q.detach().clone();
  });
}
int32_t Recall(SfTorchModel* m, SfTorchError* error) {
  return Guarded(error, [&] {
    const at::NoGradGuard guard;
    for (Parameter* p : m->model.learnt()) {
      if (p->remembered.defined()) p->t.copy_(p->remembered);
    }
    for (Turn& turn : m->model.turns()) {
      if (turn.remembered.defined()) turn.q.copy_(turn.remembered);
    }
  });
}
int32_t Read(SfTorchModel* m, int32_t node, int32_t which, float* values, int64_t size, SfTorchError* error) {
  return Guarded(error, [&] {
    const at::NoGradGuard guard;
    const at::Tensor v = m->model.Find(node, which).Value().to(at::kCPU).contiguous();
    TORCH_CHECK(v.numel() == size, "room for ", size, " values; there are ", v.numel());
    std::memcpy(values, v.const_data_ptr<float>(), static_cast<size_t>(size) * sizeof(float));
  });
}

const SfTorchApi kApi = {
    .abi = kSfTorchAbi,
    .torch_version = TORCH_VERSION,
    .cuda_devices = CudaDevices,
    .create = Create,
    .destroy = Destroy,
    .set_linear = SetLinear,
    .set_gain = SetGain,
    .set_prefix = SetPrefix,
    .logits = Logits,
    .divergence = Divergence,
    .learn = Learn,
    .accumulate = Accumulate,
    .adam_step = AdamStep,
    .remember = Remember,
    .recall = Recall,
    .read = Read,
    .cayley_step = CayleyStep,
    .read_turn = ReadTurn,
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const SfTorchApi* spikefold_torch_api() { return &kApi; }
