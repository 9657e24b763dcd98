// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_IO_HPP
#define MOEROUTE_IO_HPP

// All of io/: files: needs nlohmann_json (target moeroute::io).
#include <moeroute/io/file.hpp>
#include <moeroute/io/npy.hpp>
#include <moeroute/io/npz.hpp>
#include <moeroute/io/safetensors.hpp>
#include <moeroute/io/sha256.hpp>
#include <moeroute/io/trace.hpp>

#endif
