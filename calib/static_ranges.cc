#include "calib/static_ranges.h"

#include <algorithm>
#include <cmath>

#include "calib/stats.h"

namespace spikefold {
namespace {

constexpr int kOctave = 8;  // magnitude bins
// So many rows of a column beyond the limit are no chance.
constexpr int64_t kMinRows = 3, kMinRowsPer = 1024;
// A share this many times calibration's is another text; a smaller one than the floor is chance, and
// harmless.
constexpr double kFactor = 8, kFloor = 1e-4;

const Json* SiteOf(const Json& calibration, const std::string& name) {
  const Json* sites = calibration.is_object() ? calibration.Find("static_sites") : nullptr;
  if (sites == nullptr || !sites->is_array()) return nullptr;
  for (const Json& site : sites->array()) {
    const Json* own = site.is_object() ? site.Find("site") : nullptr;
    if (own != nullptr && own->is_string() && own->string_value() == name) return &site;
  }
  return nullptr;
}

}  // namespace

bool SiteRange::fires() const {
  if (!unseen_columns.empty()) return true;
  return calibrated_share >= 0 && share() > std::max(kFactor * calibrated_share, kFloor);
}

RangeObserver::RangeObserver(const RuntimeModel& model, const Json& calibration) {
  const ModelGraph& graph = model.graph();
  for (const Site& site : graph.sites) {
    const ActivationForm& form = model.form(site.id);
    if (!form.format.is_static() || site.value == ValueKind::kFinal) continue;
    const int reach = std::max(form.format.hi() - form.static_zero, form.static_zero - form.format.lo());
    // Half a step beyond the largest code still rounds to it.
    Watched w{.range = {.site = site.id, .limit = static_cast<double>(form.static_scale) * (reach + 0.5)},
              .layer = site.layer,
              .value = site.value,
              .spike_threshold = static_cast<double>(form.spike_threshold),
              .kept = std::vector<bool>(static_cast<size_t>(site.k), false),
              .column_peak = std::vector<float>(static_cast<size_t>(site.k), 0.0f),
              .column_beyond = std::vector<int64_t>(static_cast<size_t>(site.k), 0),
              .calibrated_bin = {}};
    for (const int32_t column : form.kept) w.kept[static_cast<size_t>(column)] = true;
    if (const Json* known = SiteOf(calibration, site.name)) {
      const Json* share = known->Find("beyond");
      const Json* peaks = known->Find("column_peaks");
      if (share != nullptr && share->is_number()) w.range.calibrated_share = share->number_value();
      if (peaks != nullptr && peaks->is_string()) w.calibrated_bin = PeakBinsFromText(peaks->string_value());
      if (static_cast<int64_t>(w.calibrated_bin.size()) != site.k) w.calibrated_bin.clear();
    }
    sites_.push_back(std::move(w));
  }
}

int RangeObserver::Find(int layer, ValueKind value) const {
  for (size_t i = 0; i < sites_.size(); ++i) {
    if (sites_[i].layer == layer && sites_[i].value == value) return static_cast<int>(i);
  }
  return -1;
}

void RangeObserver::OnRows(const TapRows& rows) {
  Watched& w = sites_[static_cast<size_t>(Find(rows.layer, rows.value))];
  for (int64_t t = 0; t < rows.num_rows; ++t) {
    const float* x = rows.data + t * rows.width;
    if (w.spike_threshold > 0) {
      const bool spike = std::any_of(
          x, x + rows.width, [&](float v) { return static_cast<double>(std::fabs(v)) > w.spike_threshold; });
      if (spike) continue;
    }
    ++w.rows;
    for (int64_t c = 0; c < rows.width; ++c) {
      if (w.kept[static_cast<size_t>(c)]) continue;
      const float v = std::fabs(x[c]);
      ++w.range.values;
      if (static_cast<double>(v) > w.range.limit) {
        ++w.range.beyond;
        ++w.column_beyond[static_cast<size_t>(c)];
      }
      w.column_peak[static_cast<size_t>(c)] = std::max(w.column_peak[static_cast<size_t>(c)], v);
    }
  }
}

std::vector<SiteRange> RangeObserver::Ranges() const {
  std::vector<SiteRange> out;
  for (const Watched& w : sites_) {
    SiteRange range = w.range;
    for (size_t c = 0; c < w.column_peak.size(); ++c) {
      const float peak = w.column_peak[c];
      range.peak = std::max(range.peak, static_cast<double>(peak));
      const bool often = w.column_beyond[c] >= std::max(kMinRows, w.rows / kMinRowsPer);
      if (often && !w.calibrated_bin.empty() && MagnitudeBin(peak) > w.calibrated_bin[c] + kOctave) {
        range.unseen_columns.push_back(static_cast<int64_t>(c));
      }
    }
    out.push_back(std::move(range));
  }
  return out;
}

Json RangesToJson(const std::vector<SiteRange>& ranges, const ModelGraph& graph) {
  Json list = Json::MakeArray();
  for (const SiteRange& range : ranges) {
    Json columns = Json::MakeArray();
    for (const int64_t column : range.unseen_columns) columns.Append(column);
    Json site = Json::MakeObject()
                    .Set("site", graph.sites[static_cast<size_t>(range.site)].name)
                    .Set("limit", range.limit)
                    .Set("peak", range.peak)
                    .Set("values", range.values)
                    .Set("beyond", range.beyond)
                    .Set("share", range.share());
    if (range.calibrated_share >= 0) site.Set("calibrated_share", range.calibrated_share);
    list.Append(site.Set("unseen_columns", std::move(columns)).Set("fires", range.fires()));
  }
  return list;
}

}  // namespace spikefold
