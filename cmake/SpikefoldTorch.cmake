# LibTorch from its PyPI wheel, unzipped (`make deps-torch`). Not find_package(Torch): that enables CUDA, adds
# nvcc flags to whole directories and fails where the toolkit differs from the wheel's.
set(SPIKEFOLD_TORCH_VERSION 2.11.0)
set(SPIKEFOLD_TORCH_ROOT "${CMAKE_SOURCE_DIR}/deps/torch" CACHE PATH "Folder `torch` of the unzipped wheel")
set(version_file "${SPIKEFOLD_TORCH_ROOT}/version.py")
if(NOT EXISTS "${version_file}")
  message(FATAL_ERROR "SPIKEFOLD_TORCH: no LibTorch in ${SPIKEFOLD_TORCH_ROOT}; run `make deps-torch` or set SPIKEFOLD_TORCH_ROOT")
endif()
file(STRINGS "${version_file}" version_line REGEX "^__version__ = ")
if(NOT version_line MATCHES "'${SPIKEFOLD_TORCH_VERSION}[+']")
  message(FATAL_ERROR "SPIKEFOLD_TORCH: ${version_file} says ${version_line}; version ${SPIKEFOLD_TORCH_VERSION} is needed")
endif()
foreach(library c10 cpu)
  set(file "${SPIKEFOLD_TORCH_ROOT}/lib/libtorch_cpu.so")
  if(library STREQUAL c10)
    set(file "${SPIKEFOLD_TORCH_ROOT}/lib/libc10.so")
  endif()
  add_library(torchlite::${library} SHARED IMPORTED GLOBAL)
  set_target_properties(torchlite::${library} PROPERTIES
    IMPORTED_LOCATION "${file}"
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES
      "${SPIKEFOLD_TORCH_ROOT}/include;${SPIKEFOLD_TORCH_ROOT}/include/torch/csrc/api/include"
    INTERFACE_INCLUDE_DIRECTORIES
      "${SPIKEFOLD_TORCH_ROOT}/include;${SPIKEFOLD_TORCH_ROOT}/include/torch/csrc/api/include")
endforeach()
# libtorch_cpu of the CUDA wheel needs CUDA's run-time library: the toolkit's, or the wheels that
# `make deps-torch` puts beside it, which it finds by itself.
set(SPIKEFOLD_TORCH_RPATH "${SPIKEFOLD_TORCH_ROOT}/lib")
file(GLOB cuda_folders /usr/local/cuda/lib64 /usr/local/cuda-13*/lib64)
list(APPEND SPIKEFOLD_TORCH_RPATH ${cuda_folders})
