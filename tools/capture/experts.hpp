// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_EXPERTS_HPP
#define MOEROUTE_CAPTURE_EXPERTS_HPP

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace moeroute::capture {

/// What stands between the first and the last product of a gated unit: silu(gate) * up, or gpt-oss's clamped form.
struct gated_activation {
  bool clamped = false;
  double slope = 0, limit = 0;
  at::Tensor operator()(at::Tensor const& gate, at::Tensor const& up) const;
  at::Tensor operator()(at::Tensor const& gate_up) const;  ///< [n, 2 I], gate first
};

/// How the products of all experts are made.
enum class expert_products {
  one_by_one,  ///< products of their own for every expert; a device is waited for once, for the numbers of tokens
  grouped      ///< one operation for all experts, which reads those numbers where they are
};

/// The experts of one layer.
///
/// Gate stands above up in one matrix, so that one product serves both. The matrices of all experts stand in one tensor
/// where they have to be copied anyway (another type, another device, packed); what the mapped file holds in the right
/// type stays there, expert by expert.
class expert_bank {
 public:
  expert_bank() = default;

  /// Room for `count` experts, to be filled by copy().
  expert_bank(std::int64_t count, std::int64_t width, std::int64_t hidden, at::TensorOptions const& options);

  /// All experts at once: [E, 2I, H], gate rows first, and [E, H, I].
  expert_bank(at::Tensor gate_up, at::Tensor down);

  /// One expert into the room that is there: gate and up [I, H], down [H, I].
  void copy(std::int64_t expert, at::Tensor const& gate, at::Tensor const& up, at::Tensor const& down);

  /// One more expert, whose memory is used where it is.
  void add(at::Tensor const& gate, at::Tensor const& up, at::Tensor const& down);

  /// [E, 2I], gate first, and [E, H].
  void set_biases(at::Tensor gate_up, at::Tensor down);

  bool empty() const { return experts_.empty(); }

  /// Grouped on an accelerator that has it for this type and these widths.
  expert_products best_for(at::Tensor const& x) const;

  /// sum_k weights[t, k] * expert ids[t, k] of x[t]; x [T, H], ids and weights [T, K]. Weights wider than x are summed
  /// in their own type. The order of the sum is that of k, whatever the device.
  at::Tensor operator()(at::Tensor const& x, at::Tensor const& ids, at::Tensor const& weights,
                        gated_activation const& activation, expert_products how) const;

 private:
  struct matrices {
    at::Tensor gate_up, down;
    at::Tensor gate, up;  // in place of gate_up where they are no neighbours in memory
  };

  // On the CPU: the experts are shared out among the threads.
  at::Tensor by_tasks(at::Tensor const& x, at::Tensor const& ids, at::Tensor const& weights,
                      gated_activation const& activation) const;
  // One expert of rows [n, H] into out [n, H].
  void run(std::int64_t expert, at::Tensor const& in, gated_activation const& activation, at::Tensor out) const;
  // Row t: the sum over j of weights[t, j] * outer[place[t * K + j]].
  static at::Tensor combined(at::Tensor const& outer, at::Tensor const& place, at::Tensor const& weights);

  std::int64_t width_ = 0, hidden_ = 0;
  at::Tensor gate_up_, down_;  // of all experts, or undefined
  at::Tensor gate_up_bias_, down_bias_;
  std::vector<matrices> experts_;
};

}  // namespace moeroute::capture

#endif
