# cmake -D SOURCE_DIR=... -D VERSION=... -D OUTPUT=... -P write_version.cmake
# Runs at each build and touches OUTPUT only when the version or the commit changed, so a commit recompiles one file.
set(commit "unknown")
find_program(GIT git)
if(GIT AND EXISTS ${SOURCE_DIR}/.git)  # not the repository around an unpacked archive
  execute_process(COMMAND ${GIT} describe --always --dirty --exclude * --abbrev=7 WORKING_DIRECTORY ${SOURCE_DIR}
    OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
  if(result EQUAL 0 AND described MATCHES "^[0-9a-f]+(-dirty)?$")
    set(commit ${described})
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define SPIKEFOLD_VERSION \"${VERSION}\"\n#define SPIKEFOLD_COMMIT \"${commit}\"\n")
