// Matrix multiply-add of a warpgroup (4 warps), operands in shared memory: PTX behind C++ names. sm_90a only.
// Accumulator i of lane l in warp w: row 16w + l / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (l % 4) + i % 2.
#pragma once

#include <cstdint>

namespace spikefold::kernels::cuda {

// Of an operand [rows, 128 bytes] whose 16-byte chunks lie at chunk XOR row % 8, 1024-aligned: what the
// tensor map's 128-byte swizzle writes. A step of 32 bytes along K adds 2.
__host__ __device__ constexpr uint64_t OperandDescriptor(uint32_t shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kStride = uint64_t{1024 >> 4} << 32;  // from 8 rows to the next 8
  return kSwizzle128 | kStride | (uint64_t{1} << 16) | ((shared >> 4) & 0x3fff);
}

// Before the first multiplication that reads registers which ordinary code wrote.
__device__ inline void WarpgroupFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void WarpgroupCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void WarpgroupWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Ordinary code before does not move behind, nor code behind before: to stand between arithmetic on registers
// and the multiplications and waits that they belong to, which the compiler does not know to be connected.
template <int n>
__device__ inline void HoldRegisters(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int n>
__device__ inline void HoldRegisters(uint32_t (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

template <int kRegisters>
__device__ inline void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Operand lists: the text of 8 to 128 registers, and their bindings.
#define SF_TEXT_8 "{%0, %1, %2, %3, %4, %5, %6, %7"
#define SF_TEXT_16 SF_TEXT_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define SF_TEXT_32 \
  SF_TEXT_16       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SF_TEXT_64                                                                                         \
  SF_TEXT_32                                                                                               \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
  "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SF_TEXT_128                                                                                          \
  SF_TEXT_64                                                                                                 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, "   \
  "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, " \
  "%104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, "   \
  "%121, %122, %123, %124, %125, %126, %127"
#define SF_BIND_8(kind, d, i)                                                                 \
  kind(d[i]), kind(d[i + 1]), kind(d[i + 2]), kind(d[i + 3]), kind(d[i + 4]), kind(d[i + 5]), \
      kind(d[i + 6]), kind(d[i + 7])
#define SF_BIND_16(kind, d, i) SF_BIND_8(kind, d, i), SF_BIND_8(kind, d, i + 8)
#define SF_BIND_32(kind, d, i) SF_BIND_16(kind, d, i), SF_BIND_16(kind, d, i + 16)
#define SF_BIND_64(kind, d) SF_BIND_32(kind, d, 0), SF_BIND_32(kind, d, 32)
#define SF_BIND_128(kind, d) SF_BIND_64(kind, d), SF_BIND_32(kind, d, 64), SF_BIND_32(kind, d, 96)

// Accumulators are the bits of s32 or f32, so that sums can be turned into floats where they are: two arrays
// would not fit into the registers. d = a * b + (add ? d : 0) for 64 x (2 * registers) outputs and 32 bytes
// of K: 32 s8 codes into s32.
__device__ inline void WgmmaS8(uint32_t (&d)[128], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 " SF_TEXT_128 "}, %128, %129, p;\n}"
      : SF_BIND_128("+r", d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaS8(uint32_t (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 " SF_TEXT_64 "}, %64, %65, p;\n}"
      : SF_BIND_64("+r", d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaS8(uint32_t (&d)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 " SF_TEXT_32 "}, %32, %33, p;\n}"
      : SF_BIND_32("+r", d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaS8(uint32_t (&d)[16], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8 " SF_TEXT_16 "}, %16, %17, p;\n}"
      : SF_BIND_16("+r", d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaS8(uint32_t (&d)[8], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k32.s32.s8.s8 " SF_TEXT_8 "}, %8, %9, p;\n}"
      : SF_BIND_8("+r", d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
// The same with a in registers: a[0] row l / 4 of the warp's 16, columns 4 (l % 4) to 4 (l % 4) + 3; a[1] row
// + 8; a[2], a[3] as these at column + 16. They are not written again before a wait.
#define SF_WGMMA_S32(n, a_type, text, add, a, b)                                                        \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned.m64n" n "k32.s32." a_type \
  ".s8 " text "}, {" a "}, " b ", p;\n}"
#define SF_BIND_A(a, b, add) "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add))
__device__ inline void WgmmaS8(uint32_t (&d)[128], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(SF_WGMMA_S32("256", "s8", SF_TEXT_128, "%133", "%128, %129, %130, %131", "%132")
               : SF_BIND_128("+r", d)
               : SF_BIND_A(a, b, add));
}
__device__ inline void WgmmaS8(uint32_t (&d)[64], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(SF_WGMMA_S32("128", "s8", SF_TEXT_64, "%69", "%64, %65, %66, %67", "%68")
               : SF_BIND_64("+r", d)
               : SF_BIND_A(a, b, add));
}
__device__ inline void WgmmaS8(uint32_t (&d)[32], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(SF_WGMMA_S32("64", "s8", SF_TEXT_32, "%37", "%32, %33, %34, %35", "%36")
               : SF_BIND_32("+r", d, 0)
               : SF_BIND_A(a, b, add));
}
__device__ inline void WgmmaS8(uint32_t (&d)[16], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(SF_WGMMA_S32("32", "s8", SF_TEXT_16, "%21", "%16, %17, %18, %19", "%20")
               : SF_BIND_16("+r", d, 0)
               : SF_BIND_A(a, b, add));
}
__device__ inline void WgmmaS8(uint32_t (&d)[8], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(SF_WGMMA_S32("16", "s8", SF_TEXT_8, "%13", "%8, %9, %10, %11", "%12")
               : SF_BIND_8("+r", d, 0)
               : SF_BIND_A(a, b, add));
}
// The same with codes of a from 0 to 255.
__device__ inline void WgmmaU8S8(uint32_t (&d)[32], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(SF_WGMMA_S32("64", "u8", SF_TEXT_32, "%37", "%32, %33, %34, %35", "%36")
               : SF_BIND_32("+r", d, 0)
               : SF_BIND_A(a, b, add));
}
__device__ inline void WgmmaU8S8(uint32_t (&d)[16], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(SF_WGMMA_S32("32", "u8", SF_TEXT_16, "%21", "%16, %17, %18, %19", "%20")
               : SF_BIND_16("+r", d, 0)
               : SF_BIND_A(a, b, add));
}
__device__ inline void WgmmaU8S8(uint32_t (&d)[8], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(SF_WGMMA_S32("16", "u8", SF_TEXT_8, "%13", "%8, %9, %10, %11", "%12")
               : SF_BIND_8("+r", d, 0)
               : SF_BIND_A(a, b, add));
}
// d += a * b: 16 bf16 values of K into f32.
__device__ inline void WgmmaBf16(uint32_t (&d)[128], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 " SF_TEXT_128
               "}, %128, %129, 1, 1, 1, 0, 0;"
               : SF_BIND_128("+r", d)
               : "l"(a), "l"(b));
}
__device__ inline void WgmmaBf16(uint32_t (&d)[64], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " SF_TEXT_64
               "}, %64, %65, 1, 1, 1, 0, 0;"
               : SF_BIND_64("+r", d)
               : "l"(a), "l"(b));
}
// d = a * b + (add ? d : 0).
#define SF_WGMMA_BF16(n, text, add, a, b)                                             \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned.m64n" n \
  "k16.f32.bf16.bf16 " text "}, " a ", " b ", p, 1, 1, 0, 0;\n}"
__device__ inline void WgmmaBf16(uint32_t (&d)[128], uint64_t a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_BF16("256", SF_TEXT_128, "%130", "%128", "%129")
               : SF_BIND_128("+r", d)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaBf16(uint32_t (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_BF16("128", SF_TEXT_64, "%66", "%64", "%65")
               : SF_BIND_64("+r", d)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaBf16(uint32_t (&d)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_BF16("64", SF_TEXT_32, "%34", "%32", "%33")
               : SF_BIND_32("+r", d, 0)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

// Two f16 operands, 16 values of K, into f32 for 64 x (2 * registers) outputs: d = a * b + (add ? d : 0).
#define SF_WGMMA_F16(n, text, add, a, b, trans)                                       \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned.m64n" n \
  "k16.f32.f16.f16 " text "}, " a ", " b ", p, 1, 1, " trans ";\n}"
__device__ inline void WgmmaF16(float (&d)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_F16("64", SF_TEXT_32, "%34", "%32", "%33", "0, 0")
               : SF_BIND_32("+f", d, 0)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaF16(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_F16("128", SF_TEXT_64, "%66", "%64", "%65", "0, 0")
               : SF_BIND_64("+f", d)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
// With accumulators as bits, as above.
__device__ inline void WgmmaF16(uint32_t (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_F16("128", SF_TEXT_64, "%66", "%64", "%65", "0, 0")
               : SF_BIND_64("+r", d)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaF16(uint32_t (&d)[128], uint64_t a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_F16("256", SF_TEXT_128, "%130", "%128", "%129", "0, 0")
               : SF_BIND_128("+r", d)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaF16(uint32_t (&d)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_F16("64", SF_TEXT_32, "%34", "%32", "%33", "0, 0")
               : SF_BIND_32("+r", d, 0)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
// The same with a in registers: of a lane's two values each, row l / 4, columns 2 (l % 4) and the next, then
// the row 8 below, then both at column 8 and on. That is how accumulators lie.
__device__ inline void WgmmaF16(float (&d)[16], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_F16("32", SF_TEXT_16, "%21", "{%16, %17, %18, %19}", "%20", "0")
               : SF_BIND_16("+f", d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaF16(float (&d)[32], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_F16("64", SF_TEXT_32, "%37", "{%32, %33, %34, %35}", "%36", "0")
               : SF_BIND_32("+f", d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaF16(float (&d)[64], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_F16("128", SF_TEXT_64, "%69", "{%64, %65, %66, %67}", "%68", "0")
               : SF_BIND_64("+f", d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void WgmmaF16(float (&d)[128], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(SF_WGMMA_F16("256", SF_TEXT_128, "%133", "{%128, %129, %130, %131}", "%132", "0")
               : SF_BIND_128("+f", d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

#undef SF_WGMMA_F16
#undef SF_WGMMA_S32
#undef SF_BIND_A
#undef SF_TEXT_8
#undef SF_TEXT_16
#undef SF_TEXT_32
#undef SF_TEXT_64
#undef SF_TEXT_128
#undef SF_BIND_8
#undef SF_BIND_16
#undef SF_BIND_32
#undef SF_BIND_64
#undef SF_BIND_128

}  // namespace spikefold::kernels::cuda
