// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/error.hpp>

#include <cerrno>

#include <doctest/doctest.h>

using namespace moeroute;

TEST_CASE("error: what each says and what it is") {
  format_error const at_byte("a/shard.safetensors", std::uint64_t{1} << 40, "is truncated");
  CHECK(std::string(at_byte.what()) == "a/shard.safetensors:byte 1099511627776: is truncated");
  CHECK(at_byte.file() == "a/shard.safetensors");
  CHECK(at_byte.place() == "byte 1099511627776");
  CHECK(std::string(format_error("m.json", "layers[2].layer", "is missing").what()) ==
        "m.json:layers[2].layer: is missing");
  io_error const io("out.npy", "cannot write", ENOSPC);
  CHECK(std::string(io.what()) == "out.npy: cannot write: No space left on device");
  CHECK(io.path() == "out.npy");
  CHECK(io.error_number() == ENOSPC);
  CHECK_THROWS_AS(throw shape_error("x"), argument_error);
  CHECK_THROWS_AS(throw argument_error("x"), std::invalid_argument);
}

TEST_CASE("error: raise joins its parts") {
  CHECK_THROWS_WITH_AS(detail::raise("f: n = ", 3, ", bound = ", 0.5), "f: n = 3, bound = 0.5", argument_error);
  CHECK_THROWS_WITH_AS(detail::raise<shape_error>("f: ", std::string("text")), "f: text", shape_error);
}

TEST_CASE("error: a false assertion throws with condition and line, a true one is silent") {
  CHECK_NOTHROW(MOEROUTE_ASSERT(1 + 1 == 2));
  try {
    MOEROUTE_ASSERT(1 + 1 == 3);
    FAIL("the assertion was compiled away");
  } catch (std::logic_error const& e) {
    std::string const text = e.what();
    CHECK(text.find("1 + 1 == 3") != std::string::npos);
    CHECK(text.find("error_test.cpp:") != std::string::npos);
  }
}
