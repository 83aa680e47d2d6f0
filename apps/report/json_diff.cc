#include "apps/report/json_diff.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace spikefold {
namespace {

constexpr const char* kNames[] = {"module", "name", "site"};

bool Equal(const Json& a, const Json& b) { return a.Dump() == b.Dump(); }

std::string Shown(const Json* value) { return value == nullptr ? "" : Printable(value->Dump(), 120); }

// The name that an element goes by; "" if it has none.
std::string NameOf(const Json& element) {
  for (const char* key : kNames) {
    const Json* name = element.Find(key);
    if (name != nullptr && name->is_string()) return name->string_value();
  }
  return "";
}

// Names of all elements, if each has one and no two are the same.
bool AreNamed(const Json::Array& list) {
  absl::flat_hash_map<std::string, int> seen;
  return !list.empty() && std::all_of(list.begin(), list.end(), [&](const Json& element) {
    const std::string name = NameOf(element);
    return !name.empty() && seen.emplace(name, 0).second;
  });
}

class Differ {
 public:
  explicit Differ(const std::vector<std::string>& ignored) : ignored_(ignored) {}

  void Compare(const std::string& path, const Json* a, const Json* b) {
    if (a != nullptr && b != nullptr) {
      if (a->is_object() && b->is_object()) return Objects(path, *a, *b);
      if (a->is_array() && b->is_array()) return Arrays(path, a->array(), b->array());
      if (Equal(*a, *b)) return;
    }
    changes_.push_back({path, Shown(a), Shown(b)});
  }
  std::vector<JsonChange> Take() { return std::move(changes_); }

 private:
  bool Ignored(const std::string& key) const {
    return std::find(ignored_.begin(), ignored_.end(), key) != ignored_.end();
  }
  static std::string Join(const std::string& path, const std::string& key) {
    return path.empty() ? Printable(key) : absl::StrCat(path, ".", Printable(key));
  }

  void Objects(const std::string& path, const Json& a, const Json& b) {
    absl::flat_hash_map<std::string, const Json*> others;
    for (const auto& [key, value] : b.object()) others.emplace(key, &value);
    for (const auto& [key, value] : a.object()) {
      const auto it = others.find(key);
      const Json* other = it == others.end() ? nullptr : it->second;
      if (it != others.end()) others.erase(it);
      if (!Ignored(key)) Compare(Join(path, key), &value, other);
    }
    for (const auto& [key, value] : b.object()) {
      if (others.contains(key) && !Ignored(key)) Compare(Join(path, key), nullptr, &value);
    }
  }

  void Arrays(const std::string& path, const Json::Array& a, const Json::Array& b) {
    if (AreNamed(a) && AreNamed(b)) {
      Json first = Json::MakeObject(), second = Json::MakeObject();
      for (const Json& element : a) first.object().emplace_back(NameOf(element), element);
      for (const Json& element : b) second.object().emplace_back(NameOf(element), element);
      return Objects(path, first, second);
    }
    // Lists of scalars are one value.
    const auto scalar = [](const Json& v) { return !v.is_object() && !v.is_array(); };
    if (std::all_of(a.begin(), a.end(), scalar) && std::all_of(b.begin(), b.end(), scalar)) {
      const Json first(a), second(b);
      if (!Equal(first, second)) changes_.push_back({path, Shown(&first), Shown(&second)});
      return;
    }
    for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
      Compare(absl::StrCat(path, "[", i, "]"), i < a.size() ? &a[i] : nullptr,
              i < b.size() ? &b[i] : nullptr);
    }
  }

  const std::vector<std::string>& ignored_;
  std::vector<JsonChange> changes_;
};

}  // namespace

std::vector<JsonChange> DiffJson(const Json& a, const Json& b, const std::vector<std::string>& ignored) {
  Differ differ(ignored);
  differ.Compare("", &a, &b);
  return differ.Take();
}

}  // namespace spikefold
