// The style sheet of report.html.
#pragma once

namespace spikefold {

extern const char kReportStyle[];

}  // namespace spikefold
