#include "kernels/kernel_list.h"

namespace spikefold::kernels {

// Defined in each kernel's <name>_cases.cc.
namespace attention_f32_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace attention_f32_f32
namespace attention_f32_f32_ukv {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace attention_f32_f32_ukv
namespace convert_f16_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace convert_f16_f32
namespace gatedmul_f32_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace gatedmul_f32_f32
namespace hadamard_f32_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace hadamard_f32_f32
namespace kld_f64_f32_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace kld_f64_f32_f32
namespace logsumexp_f64_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace logsumexp_f64_f32
namespace matmul_f32_f32_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace matmul_f32_f32_f32
namespace matmul_f32_f32_sxg {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace matmul_f32_f32_sxg
namespace matmul_f32_f32_s8c {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace matmul_f32_f32_s8c
namespace matmul_f32_s8r_sxg {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace matmul_f32_s8r_sxg
namespace matmul_f32_s8r_s8c {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace matmul_f32_s8r_s8c
namespace norm_f32_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace norm_f32_f32
namespace quantize_s8r_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace quantize_s8r_f32
namespace rope_f32_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace rope_f32_f32
namespace sinkmerge_f32_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace sinkmerge_f32_f32
namespace trellis_s8_f32 {
CheckReport Check(ThreadPool& pool, Fault fault);
void Benchmark(Bench& bench);
}  // namespace trellis_s8_f32

absl::Span<const KernelEntry> KernelList() {
  static const std::vector<KernelEntry> kKernels = {
      {"attention_f32_f32", attention_f32_f32::Check, attention_f32_f32::Benchmark},
      {"attention_f32_f32_ukv", attention_f32_f32_ukv::Check, attention_f32_f32_ukv::Benchmark},
      {"convert_f16_f32", convert_f16_f32::Check, convert_f16_f32::Benchmark},
      {"gatedmul_f32_f32", gatedmul_f32_f32::Check, gatedmul_f32_f32::Benchmark},
      {"hadamard_f32_f32", hadamard_f32_f32::Check, hadamard_f32_f32::Benchmark},
      {"kld_f64_f32_f32", kld_f64_f32_f32::Check, kld_f64_f32_f32::Benchmark},
      {"logsumexp_f64_f32", logsumexp_f64_f32::Check, logsumexp_f64_f32::Benchmark},
      {"matmul_f32_f32_f32", matmul_f32_f32_f32::Check, matmul_f32_f32_f32::Benchmark},
      {"matmul_f32_f32_sxg", matmul_f32_f32_sxg::Check, matmul_f32_f32_sxg::Benchmark},
      {"matmul_f32_f32_s8c", matmul_f32_f32_s8c::Check, matmul_f32_f32_s8c::Benchmark},
      {"matmul_f32_s8r_sxg", matmul_f32_s8r_sxg::Check, matmul_f32_s8r_sxg::Benchmark, true},
      {"matmul_f32_s8r_s8c", matmul_f32_s8r_s8c::Check, matmul_f32_s8r_s8c::Benchmark, true},
      {"norm_f32_f32", norm_f32_f32::Check, norm_f32_f32::Benchmark},
      {"quantize_s8r_f32", quantize_s8r_f32::Check, quantize_s8r_f32::Benchmark},
      {"rope_f32_f32", rope_f32_f32::Check, rope_f32_f32::Benchmark},
      {"sinkmerge_f32_f32", sinkmerge_f32_f32::Check, sinkmerge_f32_f32::Benchmark},
      {"trellis_s8_f32", trellis_s8_f32::Check, trellis_s8_f32::Benchmark},
  };
  return kKernels;
}

}  // namespace spikefold::kernels
