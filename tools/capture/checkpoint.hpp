// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_CHECKPOINT_HPP
#define MOEROUTE_CAPTURE_CHECKPOINT_HPP

#include <moeroute/io/safetensors.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace moeroute::capture {

/// "[2, 3]".
std::string shape_text(std::vector<std::int64_t> const& shape);

/// The weights of a model folder: model.safetensors, or the files that model.safetensors.index.json names. All mapped,
/// none read. Copies share the mapping.
///
/// Tensors go by the names of a plain language model ("model.layers...", "lm_head...") wherever the file keeps that: under
/// "language_model.", under "model.language_model.", or without the "model.". Other parts of a wrapper, such as an encoder
/// of images, are left out.
class checkpoint {
 public:
  /// Throws io_error or format_error, also if the index names a tensor that its file does not hold.
  explicit checkpoint(std::filesystem::path const& folder);

  bool has(std::string const& name) const { return places_.contains(name); }

  /// All tensors, in order.
  std::vector<std::string> names() const;

  /// Some of its tensors, read into memory of their own by so many threads: those alone, each at the address modulo the
  /// size of a page that it has where the file is mapped, so that vectorised sums cut it alike. Nothing of the mapping is
  /// touched. Throws io_error.
  checkpoint read(std::vector<std::string> const& names, int threads) const;

  /// What keeps the tensors of a checkpoint that was read alive; empty for one that is mapped.
  std::shared_ptr<std::byte const> const& memory() const { return memory_; }

  /// SHA-256 over a line "name type shape sha256" of each of these tensors.
  std::string digest(std::vector<std::string> const& names, int threads) const;

  /// Throws format_error naming the first tensor that is neither in `known` nor of a layer from `layers` on (what predicts
  /// further tokens stands there): a model with weights that the decoder would leave out is another model.
  void refuse_unknown(std::set<std::string> const& known, std::int64_t layers) const;

  /// The tensor, checked: floating point, of this shape. Throws format_error naming file and tensor.
  tensor_view const& at(std::string const& name, std::vector<std::int64_t> const& shape) const;

  /// The tensor, whatever its type and shape, and the file it is in. Throws format_error if there is none.
  tensor_view const& at_any(std::string const& name) const;
  std::string const& path_of(std::string const& name) const;

  /// Element type that most bytes have.
  dtype main_type() const;
  std::uint64_t bytes() const;

  /// Changes whenever a file is written anew: names, sizes and times. Reads no weights.
  std::string state_of_files() const;

 private:
  checkpoint() = default;

  std::filesystem::path folder_;
  std::vector<std::shared_ptr<safetensors_file const>> files_;
  struct location {
    std::size_t file;
    std::string stored;  // its name there
  };
  void rename();

  std::map<std::string, location> places_;
  std::shared_ptr<std::byte const> memory_;    // of one that was read
  std::map<std::string, tensor_view> held_;    // the tensors in it
};

}  // namespace moeroute::capture

#endif
