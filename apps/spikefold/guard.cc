#include "apps/spikefold/guard.h"

#include <new>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace spikefold {

absl::Status RunGuarded(const std::function<absl::Status(Context&)>& run, Context& context) {
  try {
    return run(context);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory; use a smaller model or a machine with more memory");
  } catch (const std::system_error& error) {  // a thread could not be started
    return absl::ResourceExhaustedError(absl::StrCat(error.what(), "; use fewer --threads"));
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

}  // namespace spikefold
