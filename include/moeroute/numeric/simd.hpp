// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_SIMD_HPP
#define MOEROUTE_NUMERIC_SIMD_HPP

#include <moeroute/core/scalar.hpp>

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#ifndef __GNUC__
#error "moeroute: the kernels are written with the vector extensions of GCC and Clang"
#endif
// The kernels promise the same bits everywhere, so every operation must round once, to its own type, and NaN must be
// NaN.
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "moeroute: -ffast-math and -ffinite-math-only break the exact sums; build without them"
#endif
static_assert(FLT_EVAL_METHOD == 0, "moeroute: needs float and double arithmetic without excess precision (-msse2)");

#define MOEROUTE_ALWAYS_INLINE inline __attribute__((always_inline))
#define MOEROUTE_TARGET_AVX2 __attribute__((target("avx2")))
#define MOEROUTE_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

namespace moeroute {

/// Instruction sets that a kernel is compiled for. Every level gives the same bits; it only changes how long they take.
enum class simd_level : int {
  baseline,  ///< what the translation unit is compiled for, seen as 16-byte registers
  avx2,
  avx512  ///< F, BW, DQ and VL
};

/// The highest level that this machine runs.
inline simd_level supported_simd_level() noexcept {
#if defined(__x86_64__)
  static simd_level const level = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      return simd_level::avx512;
    return __builtin_cpu_supports("avx2") ? simd_level::avx2 : simd_level::baseline;
  }();
  return level;
#else
  return simd_level::baseline;
#endif
}

namespace detail {

inline constinit std::atomic<simd_level> simd_level_limit{simd_level::avx512};

/// For tests and benchmarks: kernels called from now on use at most `level`.
inline void limit_simd_level(simd_level level) noexcept { simd_level_limit = level; }

/// The level that the next kernel call uses.
inline simd_level active_simd_level() noexcept {
  return std::min(supported_simd_level(), simd_level_limit.load(std::memory_order_relaxed));
}

template <simd_level Level>
inline constexpr int register_bytes = Level == simd_level::avx512 ? 64
                                      : Level == simd_level::avx2 ? 32
                                                                  : 16;

template <class T, int N>
struct lanes_of {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
  typedef T in_memory __attribute__((vector_size(sizeof(T) * N), aligned(1), may_alias));
};
/// N values of T that arithmetic treats one by one. Passed by reference only: by value a register has another calling
/// convention in every level.
template <class T, int N>
using lanes = typename lanes_of<T, N>::type;

/// Lanes of T in one register of the level.
template <simd_level Level, class T>
inline constexpr int lane_count = register_bytes<Level> / static_cast<int>(sizeof(T));

#if defined(__clang__) && defined(__x86_64__)
// Clang checks the size of an asm operand against the target of the function around it, so wide registers need
// functions of their own; it inlines them where the targets are the same, word for word.
template <class V>
MOEROUTE_TARGET_AVX2 inline void round_32_bytes(V& x) {
  asm("" : "+x"(x));
}
template <class V>
MOEROUTE_TARGET_AVX512 inline void round_64_bytes(V& x) {
  asm("" : "+v"(x));
}
#endif

/// Rounds x here: the compiler cannot contract the operation before with the one after into a fused one.
template <class V>
MOEROUTE_ALWAYS_INLINE void round_here(V& x) {
#if defined(__clang__) && defined(__x86_64__)
  if constexpr (sizeof(V) == 64)
    round_64_bytes(x);
  else if constexpr (sizeof(V) == 32)
    round_32_bytes(x);
  else
    asm("" : "+x"(x));
#elif defined(__x86_64__)
  asm("" : "+v"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#else
  asm("" : "+m"(x));
#endif
}

/// Reads and writes N values of T at any address. Not memcpy, which GCC splits into 16-byte pieces for AVX2; reading
/// such a pair back as one register stalls.
template <int N, class T>
MOEROUTE_ALWAYS_INLINE void load(lanes<T, N>& x, T const* p) {
  x = *reinterpret_cast<typename lanes_of<T, N>::in_memory const*>(p);
}
template <int N, class T>
MOEROUTE_ALWAYS_INLINE void store(lanes<T, N> const& x, T* p) {
  *reinterpret_cast<typename lanes_of<T, N>::in_memory*>(p) = x;
}

/// The values of 16-bit scalars that lie in the low halves of words.
template <class In, int W>
MOEROUTE_ALWAYS_INLINE void widen(lanes<std::uint32_t, W> const& word, lanes<float, W>& v) {
  if constexpr (std::is_same_v<In, bf16>) {
    lanes<std::uint32_t, W> const bits = word << 16;
    std::memcpy(&v, &bits, sizeof v);
  } else {
    // Exponent and fraction land 112 too low in the exponent; the multiplication is exact and mends subnormals too.
    lanes<std::uint32_t, W> const magnitude = word & 0x7fffu, sign = (word & 0x8000u) << 16, small = magnitude << 13;
    std::memcpy(&v, &small, sizeof v);
    v *= 0x1p112f;
    lanes<std::uint32_t, W> bits;
    std::memcpy(&bits, &v, sizeof bits);
    bits = (magnitude >= 0x7c00u ? (small | 0x7f800000u) : bits) | sign;
    std::memcpy(&v, &bits, sizeof v);
  }
}

/// W values of storage type In, widened to the type they are computed in.
template <int W, class In>
MOEROUTE_ALWAYS_INLINE void load_widened(In const* p, lanes<compute_t<In>, W>& v) {
  if constexpr (std::is_same_v<In, bf16> || std::is_same_v<In, f16>) {
    lanes<std::uint16_t, W> half;
    load<W>(half, reinterpret_cast<std::uint16_t const*>(p));
    lanes<std::uint32_t, W> const word = __builtin_convertvector(half, lanes<std::uint32_t, W>);
    widen<In, W>(word, v);
  } else {
    load<W>(v, p);
  }
}

// Halves W lanes until one is left; `fold(a, b)` acts on lanes of equal width.
template <class T, int W, class Fold>
MOEROUTE_ALWAYS_INLINE T fold_lanes(lanes<T, W> const& v, Fold const& fold) {
  if constexpr (W == 1) {
    return v[0];
  } else if constexpr (W == 2) {
    T a = v[0];
    fold(a, static_cast<T>(v[1]));
    return a;
  } else {
    lanes<T, W / 2> half[2];
    std::memcpy(half, &v, sizeof v);
    fold(half[0], half[1]);
    return fold_lanes<T, W / 2>(half[0], fold);
  }
}

struct fold_sum {
  template <class V>
  MOEROUTE_ALWAYS_INLINE void operator()(V& a, V const& b) const {
    a += b;
  }
};
struct fold_max {
  template <class V>
  MOEROUTE_ALWAYS_INLINE void operator()(V& a, V const& b) const {
    a = b > a ? b : a;
  }
};

// One copy of every kernel per level: Kernel::run<Level>(args...) is forced inline into the function that has the
// target attribute. Arguments are pointers and numbers, never lanes.
template <class Kernel, class... Args>
auto run_baseline(Args... args) {
  return Kernel::template run<simd_level::baseline>(args...);
}
#if defined(__x86_64__)
template <class Kernel, class... Args>
MOEROUTE_TARGET_AVX2 auto run_avx2(Args... args) {
  return Kernel::template run<simd_level::avx2>(args...);
}
template <class Kernel, class... Args>
MOEROUTE_TARGET_AVX512 auto run_avx512(Args... args) {
  return Kernel::template run<simd_level::avx512>(args...);
}
#endif

/// Runs the copy of the kernel that is the best this machine has.
template <class Kernel, class... Args>
auto dispatch(Args... args) {
#if defined(__x86_64__)
  switch (active_simd_level()) {
    case simd_level::avx512:
      return run_avx512<Kernel>(args...);
    case simd_level::avx2:
      return run_avx2<Kernel>(args...);
    case simd_level::baseline:
      break;
  }
#endif
  return run_baseline<Kernel>(args...);
}

/// Working memory of a kernel: n values on the stack where they fit, otherwise on the heap.
template <class T, int Capacity>
class scratch {
 public:
  explicit scratch(std::ptrdiff_t n) {
    if (n > Capacity) heap_.resize(static_cast<std::size_t>(n) + 64 / sizeof(T));
  }
  T* data() noexcept {
    if (heap_.empty()) return stack_;
    void* p = heap_.data();
    std::size_t space = heap_.size() * sizeof(T);
    return static_cast<T*>(std::align(64, 0, p, space));
  }

 private:
  alignas(64) T stack_[Capacity];
  std::vector<T> heap_;
};

}  // namespace detail
}  // namespace moeroute

#endif
