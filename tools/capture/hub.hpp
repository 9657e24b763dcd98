// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_HUB_HPP
#define MOEROUTE_CAPTURE_HUB_HPP

#include <filesystem>
#include <string>

namespace moeroute::capture {

/// What a run needs of a model; config.json always.
struct model_needs {
  bool tokenizer = true, weights = true;
};

struct hub_options {
  bool offline = false;  ///< as is HF_HUB_OFFLINE=1
  bool quiet = false;
};

/// A model named on the command line: a folder, or "owner/name" or "owner/name@revision" of a Hugging Face hub.
///
/// The cache is the one of Python's huggingface_hub (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME), in its layout: blobs named by
/// their checksum, snapshots/<commit> of links to them, refs/<revision> with the commit. What is there is used without
/// asking anybody. What is needed and not there is fetched from HF_ENDPOINT: JSON and safetensors files only, sizes
/// announced first, broken transfers continued, checksums compared. HF_TOKEN or the file of `hf auth login` is sent to
/// the endpoint alone.
///
/// Throws io_error if there is no such folder; download_error that says what is missing and how to get it.
std::filesystem::path find_model(std::string const& name, model_needs needs, hub_options options);

}  // namespace moeroute::capture

#endif
