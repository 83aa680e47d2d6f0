# Compiler settings that hold for every target: language level, warnings, hardening, ccache, mold.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Paths below the base are hashed as relative ones, so that clones and worktrees share their results.
  set(CMAKE_CXX_COMPILER_LAUNCHER
    ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
    CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE_PROGRAM})
endif()
find_program(MOLD_PROGRAM mold)
if(MOLD_PROGRAM)
  add_link_options(-fuse-ld=mold)
endif()

# Contraction into FMA is the compiler's choice per expression; quantized bytes may not depend on it.
# Options of g++; nvcc passes what it does not know itself to g++ one by one.
function(spikefold_compile_options)
  foreach(option IN LISTS ARGN)
    add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${option}>")
  endforeach()
endfunction()
spikefold_compile_options(-Wall -Wextra -Wshadow -Wno-missing-field-initializers -ffp-contract=off)
if(SPIKEFOLD_WERROR)
  spikefold_compile_options(-Werror)
endif()
if(SPIKEFOLD_SANITIZE)
  spikefold_compile_options(-fsanitize=${SPIKEFOLD_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)  # GCC warns falsely about the standard library under sanitizers
  add_compile_definitions(_GLIBCXX_ASSERTIONS)
  add_link_options(-fsanitize=${SPIKEFOLD_SANITIZE})
else()
  spikefold_compile_options($<$<CONFIG:Release>:-U_FORTIFY_SOURCE> $<$<CONFIG:Release>:-D_FORTIFY_SOURCE=2>
                            -fstack-protector-strong)
  add_link_options(-Wl,-z,relro,-z,now)
endif()
include_directories(${CMAKE_SOURCE_DIR})
if(SPIKEFOLD_CUDA)
  include(SpikefoldCuda)
endif()

# Headers that nearly every source of a target takes: parsing them is a third of a clean build. g++ 12 warns falsely about the
# standard library's strings when they come out of a compiled header, so four warnings rest there; presets dev and asan-ubsan
# compile without it and keep them. The ccache option above lets objects made with such a header be kept.
option(SPIKEFOLD_PCH "Precompile common headers" ON)
function(spikefold_precompile target)
  if(SPIKEFOLD_PCH)
    set(headers "")
    foreach(header IN ITEMS absl/status/statusor.h absl/strings/str_cat.h algorithm functional memory string vector)
      list(APPEND headers "$<$<COMPILE_LANGUAGE:CXX>:<${header}$<ANGLE-R>>")
    endforeach()
    target_precompile_headers(${target} PRIVATE ${headers})
    foreach(option IN ITEMS -fpch-preprocess -Wno-restrict -Wno-array-bounds -Wno-stringop-overread
            -Wno-stringop-overflow)
      target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${option}>")
    endforeach()
  endif()
endfunction()
