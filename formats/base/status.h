// Status macros. Every fallible function of Spikefold returns absl::Status or absl::StatusOr<T>.
//
// Codes and what they mean here (apps/spikefold/exit_code.cc maps them to exit codes in one table):
//   InvalidArgument     the caller asked for something impossible (usage)                    exit 2
//   DataLoss            a file is not what its format demands: corrupt, lying, truncated     exit 3
//   Unimplemented       a well-formed file or request that Spikefold does not support        exit 4
//   FailedPrecondition  a gate or a comparison did not hold                                  exit 5
//   NotFound, PermissionDenied, AlreadyExists, Unavailable   the file system said no         exit 6
//   ResourceExhausted   out of memory                                                        exit 7
//   Aborted             no usable GPU                                                        exit 8
//   Cancelled           interrupted by the user                                              exit 130
//   Internal            our own bug                                                          exit 1
// Text = subject, measured, allowed, remedy.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SF_RETURN_IF_ERROR(expr)                                               \
  do {                                                                         \
    if (absl::Status sf_status_ = (expr); !sf_status_.ok()) return sf_status_; \
  } while (0)

#define SF_CONCAT_INNER_(a, b) a##b
#define SF_CONCAT_(a, b) SF_CONCAT_INNER_(a, b)
#define SF_ASSIGN_OR_RETURN(lhs, expr) SF_ASSIGN_OR_RETURN_IMPL_(SF_CONCAT_(sf_or_, __LINE__), lhs, expr)
#define SF_ASSIGN_OR_RETURN_IMPL_(var, lhs, expr) \
  auto var = (expr);                              \
  if (!var.ok()) return std::move(var).status();  \
  lhs = std::move(var).value()
