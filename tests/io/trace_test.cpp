// SPDX-License-Identifier: Apache-2.0
#include <moeroute/io/trace.hpp>

#include <functional>
#include <limits>
#include <random>

#include <doctest/doctest.h>

#include "support/routing_data.hpp"
#include "support/temporary_folder.hpp"

using namespace moeroute;
namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

namespace {

router_spec full_spec() {
  router_spec s;
  s.experts = 8;
  s.top_k = 2;
  s.score = score_function::sigmoid;
  s.renormalize = true;
  s.renormalize_epsilon = 1e-20;
  s.scale = 2.5;
  s.selection_bias = {0, 0.1, -0.25, 1e-300, 0, 0, 1.0 / 3, 0};
  s.groups = 2;
  s.groups_kept = 1;
  s.group_rule = group_score::top_two_sum;
  s.shared_experts = 1;
  return s;
}

router_spec small_spec() {
  router_spec s;
  s.experts = 7;
  s.top_k = 3;
  return s;
}

// Two shards of a model with MoE layers 1 and 4.
struct example {
  routing_data first = random_routing({7, 3, 4, 10, 0.1, 0}, 1), second = random_routing({7, 3, 3, 10, 0.1, 0}, 2);
  trace_manifest manifest;

  static trace_layer_data layer(index_t number, routing_data const& d) {
    trace_layer_data l;
    l.layer = number;
    l.logits = make_tensor<float>("", {d.tokens(), 7}, d.logits);
    l.ids = make_tensor<std::int16_t>("", {d.tokens(), 3}, d.ids);
    l.weights = make_tensor<float>("", {d.tokens(), 3}, d.weights);
    return l;
  }
  static trace_shard_info write(fs::path const& folder, std::size_t index, routing_data const& d,
                                std::int64_t first_document) {
    trace_shard_data data;
    data.offsets = d.offsets;
    std::vector<trace_document> documents;
    for (index_t i = 0; i < d.size(); ++i) {
      trace_document doc;
      doc.document = first_document + i;
      doc.id = "de/ü" + std::to_string(i);
      doc.labels = {{"label", "de"}, {"passage", "p" + std::to_string(i)}};
      doc.source = "de.jsonl:" + std::to_string(i + 1);
      doc.tokens = static_cast<std::uint64_t>(d.offsets[static_cast<std::size_t>(i) + 1] -
                                              d.offsets[static_cast<std::size_t>(i)]);
      if (i > 0) doc.loss = 3.25;
      for (std::uint64_t t = 0; i > 1 && t < doc.tokens; ++t) doc.pieces.push_back(t == 0 ? "\"\n" : "안");
      data.document.push_back(doc.document);
      documents.push_back(doc);
    }
    auto const tokens = static_cast<std::size_t>(d.tokens());
    data.token_ids.assign(tokens, 17);
    data.position.assign(tokens, 3);
    data.predicted.assign(tokens, -1);
    data.phase.assign(tokens, 1);
    data.logprob.assign(tokens, std::numeric_limits<float>::quiet_NaN());
    data.layers = {layer(1, d), layer(4, d)};
    return write_trace_shard(folder, index, data, documents);
  }

  explicit example(fs::path const& folder) {
    manifest.tool = "test 1";
    manifest.model = {{"name", "none"}};
    manifest.layers = {{1, small_spec()}, {4, small_spec()}};
    manifest.shards = {write(folder, 0, first, 100), write(folder, 1, second, 200)};
    for (auto const& s : manifest.shards) {
      manifest.documents += s.documents;
      manifest.tokens += s.tokens;
    }
    manifest.complete = true;
    write_trace_manifest(folder, manifest);
  }
};

template <class F>
std::string message(F&& f) {
  try {
    f();
    return "accepted";
  } catch (format_error const& e) {
    CHECK(std::string(e.what()).find(e.file() + ":" + e.place() + ": ") == 0);
    return e.what();
  }
}

bool contains(std::string const& text, std::string const& words) { return text.find(words) != std::string::npos; }

}  // namespace

TEST_CASE("trace: a router_spec survives JSON") {
  for (auto const& s : {full_spec(), small_spec()})
    CHECK(router_spec_from_json(json::parse(to_json(s).dump()), "f", "p") == s);
  auto after = small_spec();
  after.score = score_function::softmax_after_top_k;
  after.group_rule = group_score::maximum;
  CHECK(to_json(after)["score"] == "softmax_after_topk");
  CHECK(to_json(after)["group_score"] == "max");
  CHECK(router_spec_from_json(to_json(after), "f", "p") == after);
  CHECK(!to_json(after).contains("jitter_eps"));
  after.score = score_function::sparsemixer;
  after.jitter_eps = 0.0125;
  CHECK(to_json(after)["score"] == "sparsemixer");
  CHECK(router_spec_from_json(json::parse(to_json(after).dump()), "f", "p") == after);
  auto const least = router_spec_from_json(json{{"score", "softmax"}, {"experts", 7}, {"top_k", 3}}, "f", "p");
  CHECK(least == small_spec());
}

TEST_CASE("trace: a bad router_spec is refused with file and field") {
  std::pair<std::function<void(json&)>, char const*> const cases[] = {
      {[](json& j) { j.erase("score"); }, "f:p.score: is missing"},
      {[](json& j) { j["score"] = "tanh"; }, "f:p.score: has the unknown value 'tanh'"},
      {[](json& j) { j["score"] = 3; }, "f:p.score: has the wrong type"},
      {[](json& j) { j["score"] = "sparsemixer"; }, "f:p.jitter_eps: is missing"},
      {[](json& j) { j["jitter_eps"] = 0.01; }, "jitter_eps = 0.01, belongs to sparsemixer"},
      {[](json& j) { j["experts"] = "8"; }, "f:p.experts: is not an integer"},
      {[](json& j) { j["experts"] = 8.0; }, "f:p.experts: is not an integer"},
      {[](json& j) { j["experts"] = -8; }, "experts = -8"},
      {[](json& j) { j["experts"] = 18446744073709551615u; }, "f:p.experts: is out of range"},
      {[](json& j) {
         j = {{"score", "softmax"}, {"experts", 32768}, {"top_k", 1}};
       },
       "f:p.experts: exceeds 32767"},
      {[](json& j) { j["top_k"] = 0; }, "top_k = 0"},
      {[](json& j) { j["renormalize"] = 1; }, "f:p.renormalize: has the wrong type"},
      {[](json& j) { j["scale"] = nullptr; }, "f:p.scale: has the wrong type"},
      {[](json& j) {
         j["selection_bias"] = {1, "x"};
       },
       "f:p.selection_bias: has the wrong type"},
      {[](json& j) {
         j["selection_bias"] = {1, 2};
       },
       "selection_bias has 2 values"},
      {[](json& j) { j["group_score"] = "min"; }, "f:p.group_score: has the unknown value"},
      {[](json& j) { j = 7; }, "f:p: is not an object"},
  };
  for (auto const& [damage, words] : cases) {
    auto j = to_json(full_spec());
    damage(j);
    auto const text = message([&] { router_spec_from_json(j, "f", "p"); });
    INFO(text);
    CHECK_MESSAGE(contains(text, words), words);
  }
}

TEST_CASE("trace: a document survives its line") {
  trace_document d;
  d.document = std::int64_t{1} << 40;
  d.id = "ko/\"p\"\n";
  d.labels = {{"label", "ko"}};
  d.source = "ko.jsonl:1";
  d.tokens = 2;
  d.loss = 1.0 / 3;
  d.pieces = {"안", "�"};
  auto const line = document_line(d);
  CHECK(line.back() == '\n');
  CHECK(line.find('\n') == line.size() - 1);
  auto const e = document_from_line(line, "f", "line 1");
  CHECK(e.document == d.document);
  CHECK(e.id == d.id);
  CHECK(e.labels == d.labels);
  CHECK(e.source == d.source);
  CHECK(e.tokens == 2);
  CHECK(e.loss == d.loss);
  CHECK(e.pieces == d.pieces);
  d.loss = quiet_nan;
  CHECK(std::isnan(document_from_line(document_line(d), "f", "line 1").loss));
  d.pieces[1] = "\xff";  // not UTF-8: it cannot stand in JSON as it is
  CHECK(document_from_line(document_line(d), "f", "line 1").pieces[1] == "�");
  CHECK_FALSE(document_from_line(document_line(d), "f", "line 1").generated);
  d.generated = {{7, 9}, "a\n안", true};
  auto const g = document_from_line(document_line(d), "f", "line 1").generated;
  REQUIRE(g);
  CHECK(g->ids == d.generated->ids);
  CHECK(g->text == d.generated->text);
  CHECK(g->ended);

  std::pair<char const*, char const*> const cases[] = {
      {"{\"document\":1", "f:line 3, byte"},
      {"[]", "f:line 3: is not an object"},
      {"{\"id\":\"a\",\"tokens\":1}", "f:line 3.document: is missing"},
      {"{\"document\":1.5,\"id\":\"a\",\"tokens\":1}", "f:line 3.document: is not an integer"},
      {"{\"document\":1,\"id\":7,\"tokens\":1}", "f:line 3.id: has the wrong type"},
      {"{\"document\":1,\"id\":\"a\",\"tokens\":-1}", "f:line 3.tokens: is negative"},
      {"{\"document\":1,\"id\":\"a\",\"tokens\":1,\"labels\":{\"a\":1}}", "f:line 3.labels: has the wrong type"},
      {"{\"document\":1,\"id\":\"a\",\"tokens\":1,\"loss\":\"x\"}", "f:line 3.loss: has the wrong type"},
      {"{\"document\":1,\"id\":\"a\",\"tokens\":1,\"pieces\":[\"a\",\"b\"]}",
       "f:line 3.pieces: has 2 entries for 1 tokens"},
      {"{\"document\":1,\"id\":\"a\",\"tokens\":1,\"generated\":3}", "f:line 3, generated: is not an object"},
      {"{\"document\":1,\"id\":\"a\",\"tokens\":1,\"generated\":{\"ids\":[1,2]}}",
       "f:line 3, generated.ids: are more than the document has tokens"},
      {"{\"document\":1,\"id\":\"\xff\",\"tokens\":1}", "is not valid JSON"},
      {"{\"document\":1,\"id\":\"a\",\"tokens\":1,\"loss\":1e999}", "f:line 3: holds a number beyond all bounds"},
  };
  for (auto const& [text, words] : cases) {
    auto const got = message([&, t = text] { document_from_line(t, "f", "line 3"); });
    INFO(got);
    CHECK_MESSAGE(contains(got, words), words);
  }
}

TEST_CASE("trace: written and read back") {
  temporary_folder const folder;
  example const e(folder.path());
  trace_reader const reader(folder.path());
  CHECK(reader.shards() == 2);
  CHECK(reader.manifest().layers[1].layer == 4);
  CHECK(reader.manifest().layers[1].router == small_spec());
  CHECK(reader.manifest().tokens == static_cast<std::uint64_t>(e.first.tokens() + e.second.tokens()));
  CHECK(to_json(reader.manifest()) == to_json(e.manifest));
  for (std::size_t s = 0; s < 2; ++s) {
    auto const& want = s == 0 ? e.first : e.second;
    auto const shard = reader.shard(s);
    CHECK(shard.spans().documents() == want.size());
    CHECK(shard.documents()[1].id == "de/ü1");
    CHECK(shard.documents()[1].loss == 3.25);
    CHECK(std::isnan(shard.documents()[0].loss));
    CHECK(shard.spans().id(1) == (s == 0 ? 101 : 201));
    CHECK(shard.logit_type() == dtype::f32);
    CHECK(shard.has(4, "logits"));
    CHECK_FALSE(shard.has(2, "logits"));
    auto const b = shard.layer<float>(1);
    CHECK(b.tokens() == want.tokens());
    for (index_t t = 0; t < b.tokens(); ++t) {
      for (index_t k = 0; k < 3; ++k) CHECK(b.ids()(t, k) == want.ids[static_cast<std::size_t>(t * 3 + k)]);
      for (index_t x = 0; x < 7; ++x) CHECK(b.logits()(t, x) == want.logits[static_cast<std::size_t>(t * 7 + x)]);
    }
    CHECK(std::isnan(shard.file().vector<float>("logprob")[0]));
    CHECK(sha256_hex(mapped_file(folder / trace_shard_name(s)).bytes()) == reader.manifest().shards[s].sha256);
    CHECK(sha256_hex(mapped_file(folder / trace_documents_name(s)).bytes()) ==
          reader.manifest().shards[s].documents_sha256);
  }
  CHECK_THROWS_WITH_AS(reader.shard(0).layer<bf16>(0), doctest::Contains("is F32, expected BF16"), format_error);
  temporary_folder const again;
  example const twice(again.path());
  for (char const* name : {"manifest.json", "shard-00000.safetensors", "documents-00001.jsonl"})
    CHECK(read_text(folder / name) == read_text(again / name));
}

TEST_CASE("trace: a manifest that is none is refused with file and field") {
  temporary_folder const folder;
  example const e(folder.path());
  auto const path = folder / "manifest.json";
  auto const good = to_json(e.manifest);
  std::pair<std::function<void(json&)>, char const*> const cases[] = {
      {[](json& j) { j["format"] = "other"; }, ":format: is not 'moeroute.trace'"},
      {[](json& j) { j["version"] = 2; }, ":version: is 2, this program reads version 1; use a newer moeroute"},
      {[](json& j) { j["version"] = 0; }, ":version: is 0, this program reads version 1"},
      {[](json& j) { j["version"] = (std::uint64_t{1} << 32) + 1; }, ":version: is out of range"},
      {[](json& j) { j["version"] = "1"; }, ":version: is not an integer"},
      {[](json& j) { j.erase("version"); }, ":version: is missing"},
      {[](json& j) { j["complete"] = false; },
       ":complete: is false: the capture was not finished; run it again with --resume"},
      {[](json& j) { j["model"] = 3; }, ":model: is not an object"},
      {[](json& j) { j["layers"] = json::array(); }, ":layers: is not a list of layers"},
      {[](json& j) { j["layers"][1]["layer"] = 1; }, ":layers[1].layer: does not increase"},
      {[](json& j) { j["layers"][0].erase("router"); }, ":layers[0].router: is missing"},
      {[](json& j) { j["layers"][0]["router"]["top_k"] = 99; }, ":layers[0].router: "},
      {[](json& j) { j["shards"] = 1; }, ":shards: is not a list"},
      {[](json& j) { j["shards"][0]["file"] = "../../etc/passwd"; },
       ":shards[0].file: '../../etc/passwd' is not a plain file name"},
      {[](json& j) { j["shards"][1]["documents_file"] = "/etc/passwd"; },
       ":shards[1].documents_file: '/etc/passwd' is not a plain file name"},
      {[](json& j) { j["shards"][0]["file"] = ""; }, "is not a plain file name"},
      {[](json& j) { j["shards"][0]["file"] = ".."; }, "is not a plain file name"},
      {[](json& j) { j["shards"][0]["tokens"] = -1; }, ":shards[0].tokens: is negative"},
      {[](json& j) { j["tokens"] = 5; }, ":shards: documents or tokens do not add up"},
      {[](json& j) { j["shards"].erase(1); }, ":shards: documents or tokens do not add up"},
      {[](json& j) { j = json::array(); }, "manifest.json:: is not an object"},
  };
  for (auto const& [damage, words] : cases) {
    auto j = good;
    damage(j);
    write_file(path, j.dump());
    auto const text = message([&] { trace_reader const r(folder.path()); });
    INFO(text);
    CHECK_MESSAGE(contains(text, words), words);
  }
  write_file(path, good.dump().substr(0, 100));
  CHECK(contains(message([&] { trace_reader const r(folder.path()); }), "is not valid JSON"));
  fs::remove(path);
  CHECK_THROWS_AS(trace_reader{folder.path()}, io_error);
  write_file(folder / "manifest.partial.json", "{}");
  CHECK(contains(message([&] { trace_reader const r(folder.path()); }),
                 "manifest.json: is missing: the capture was not finished"));
}

TEST_CASE("trace: counts stand instead of shards") {
  trace_manifest m;
  m.layers.push_back({1, small_spec()});
  m.documents = 7;
  m.tokens = 70;
  m.counts = {"counts.safetensors", 3, 1000, "abc"};
  auto const good = to_json(m);
  auto const read = manifest_from_json(good, "f");
  REQUIRE(read.counts.has_value());
  CHECK(read.counts->file == "counts.safetensors");
  CHECK(read.counts->parts == 3);
  CHECK(read.counts->bytes == 1000);
  CHECK(read.tokens == 70);
  CHECK(to_json(read) == good);
  std::pair<std::function<void(json&)>, char const*> const cases[] = {
      {[](json& j) { j["counts"]["file"] = "../x"; }, "f:counts.file: '../x' is not a plain file name"},
      {[](json& j) { j["counts"].erase("parts"); }, "f:counts.parts: is missing"},
      {[](json& j) { j["counts"] = 1; }, "f:counts: is not an object"},
      {[](json& j) { j.erase("counts"); }, "f:shards: documents or tokens do not add up"},
      {[](json& j) {
         j["shards"].push_back({{"file", "s"}, {"documents_file", "d"}, {"documents", 7u}, {"tokens", 70u}, {"bytes", 1u}, {"documents_bytes", 1u}});
       },
       "f:shards: stand beside counts"},
  };
  for (auto const& [damage, words] : cases) {
    auto j = good;
    damage(j);
    auto const text = message([&] { manifest_from_json(j, "f"); });
    INFO(text);
    CHECK_MESSAGE(contains(text, words), words);
  }
  // A capture in parts that was not finished.
  temporary_folder const folder;
  write_file(folder / "manifest.part-2-of-3.json", "{}");
  CHECK(contains(message([&] { trace_reader const r(folder.path()); }), "the capture was not finished"));
}

TEST_CASE("trace: a shard that does not belong to its manifest is refused") {
  temporary_folder const folder;
  example const e(folder.path());
  auto const shard_path = folder / "shard-00000.safetensors", documents_path = folder / "documents-00000.jsonl";
  auto const shard = read_text(shard_path), documents = read_text(documents_path);
  // What opening shard 0 and reading its first layer says, with sizes in the manifest as they are on disk.
  auto const open = [&](bool true_sizes) {
    auto m = e.manifest;
    if (true_sizes) {
      m.shards[0].bytes = fs::file_size(shard_path);
      m.shards[0].documents_bytes = fs::file_size(documents_path);
    }
    write_trace_manifest(folder.path(), m);
    return message([&] { trace_reader(folder.path()).shard(0).layer<float>(0); });
  };
  CHECK(open(false) == "accepted");

  write_file(shard_path, shard + "x");
  CHECK(contains(open(true), "1 bytes belong to no tensor"));
  write_file(shard_path, shard.substr(0, shard.size() - 1));
  CHECK(contains(open(true), "truncated?"));
  write_file(shard_path, shard);

  auto const line = documents.find('\n') + 1;
  write_file(documents_path, documents + "\n");
  CHECK(contains(open(false), "bytes, the manifest says "));
  write_file(documents_path, documents.substr(line));
  CHECK(contains(open(true), "the manifest says 4 documents"));
  write_file(documents_path, documents.substr(0, documents.size() - 1));  // without the last newline it is still a line
  CHECK(open(true) == "accepted");
  auto const end = documents.find('\n', line) + 1;
  write_file(documents_path, documents.substr(line, end - line) + documents.substr(0, line) + documents.substr(end));
  CHECK(contains(open(true), ":line 1: does not belong to document 100"));
  auto renamed = documents;
  renamed.replace(renamed.find("100"), 3, "107");
  write_file(documents_path, renamed);
  CHECK(contains(open(true), ":line 1: does not belong to document 100"));
  write_file(documents_path, documents);

  // The same shard with one tensor changed.
  auto const with = [&](std::function<void(std::vector<tensor_data>&)> const& change) {
    write_file(shard_path, shard);
    safetensors_file const f(shard_path);
    std::vector<tensor_data> tensors;
    for (auto const& t : f.tensors()) tensors.push_back({t.name, t.type, t.shape, t.data});
    change(tensors);
    write_safetensors(shard_path, tensors);
    return open(true);
  };
  auto const tensor = [](std::vector<tensor_data>& tensors, std::string const& name) -> tensor_data& {
    for (auto& t : tensors)
      if (t.name == name) return t;
    throw std::runtime_error("no tensor " + name);
  };
  std::vector<std::int64_t> offsets(e.first.offsets);
  auto const offsets_become = [&](std::size_t at, std::int64_t value) {
    offsets = e.first.offsets;
    offsets[at] = value;
    return with([&](auto& tensors) { tensor(tensors, "offsets").data = std::as_bytes(std::span(offsets)); });
  };
  CHECK(with([](auto&) {}) == "accepted");
  std::vector<std::uint8_t> const more(8);
  with([&](auto& tensors) { tensors.push_back(make_tensor<std::uint8_t>("more", {8}, more)); });
  CHECK(contains(open(false), "bytes, the manifest says "));
  CHECK(contains(offsets_become(0, 1), "offsets: moeroute::document_spans: offsets start at 1"));
  CHECK(contains(offsets_become(2, -5), "offsets decrease"));
  CHECK(contains(offsets_become(4, offsets[4] + 1), ":offsets: documents or tokens differ from the manifest"));
  CHECK(contains(offsets_become(4, std::int64_t{1} << 62), ":offsets: documents or tokens differ"));
  auto const missing = [&](char const* name) {
    return with([&](auto& tensors) { std::erase_if(tensors, [&](auto const& t) { return t.name == name; }); });
  };
  CHECK(contains(missing("offsets"), "has no tensor 'offsets'"));
  CHECK(contains(missing("layers.1.ids"), "has no tensor 'layers.1.ids'"));
  CHECK(missing("layers.1.logits") == "accepted");
  CHECK(missing("logprob") == "accepted");
  std::vector<std::int32_t> const few(2);
  CHECK(contains(
      with([&](auto& tensors) { tensor(tensors, "token_ids") = make_tensor<std::int32_t>("token_ids", {2}, few); }),
      ":token_ids: does not have one value per token"));
  auto ids = e.first.ids;
  auto const ids_become = [&](std::int16_t id) {
    ids[4] = id;
    return with([&](auto& tensors) { tensor(tensors, "layers.1.ids").data = std::as_bytes(std::span(ids)); });
  };
  CHECK(contains(ids_become(7), ":layers.1: "));
  CHECK(contains(ids_become(-2), ":layers.1: "));
  CHECK(ids_become(-1) == "accepted");
  CHECK(contains(with([&](auto& tensors) {
                   tensor(tensors, "layers.1.ids").shape = {e.first.tokens() * 3, 1};
                 }),
                 ":layers.1.ids: has a shape that does not fit"));
  CHECK(contains(with([&](auto& tensors) {
                   tensor(tensors, "layers.1.logits").shape = {7, e.first.tokens()};
                 }),
                 "logits are"));
}
