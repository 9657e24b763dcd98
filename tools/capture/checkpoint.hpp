// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_CHECKPOINT_HPP
#define MOEROUTE_CAPTURE_CHECKPOINT_HPP

#include <moeroute/io/safetensors.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace moeroute::capture {

/// The weights of a model folder: model.safetensors, or the files that model.safetensors.index.json names. All mapped,
/// none read.
///
/// Tensors go by the names of a plain language model ("model.layers...", "lm_head...") wherever the file keeps that: under
/// "language_model.", under "model.language_model.", or without the "model.". Other parts of a wrapper, such as an encoder
/// of images, are left out.
class checkpoint {
 public:
  /// Throws io_error or format_error, also if the index names a tensor that its file does not hold.
  explicit checkpoint(std::filesystem::path const& folder);

  bool has(std::string const& name) const { return places_.contains(name); }

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

  /// SHA-256 of the file, or of the digests of all files in the order of their names. Reads everything once.
  std::string sha256() const;

 private:
  std::filesystem::path folder_;
  std::vector<safetensors_file> files_;
  struct location {
    std::size_t file;
    std::string stored;  // its name there
  };
  void rename();

  std::map<std::string, location> places_;
};

}  // namespace moeroute::capture

#endif
