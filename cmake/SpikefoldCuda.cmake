# nvcc and the CUDA runtime. The runtime is linked statically and looks for the driver when it is first used, so that a build with CUDA
# starts on a machine without a GPU and says what is missing.
if(NOT CMAKE_CUDA_COMPILER)
  find_program(CMAKE_CUDA_COMPILER nvcc HINTS $ENV{CUDA_PATH}/bin /usr/local/cuda/bin ${CMAKE_SOURCE_DIR}/deps/cuda/bin)
endif()
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "SPIKEFOLD_CUDA: no nvcc in PATH or /usr/local/cuda/bin; run make deps-cuda, install the CUDA Toolkit 13 or set CMAKE_CUDA_COMPILER")
endif()
# Kernels that need no instruction of a later chip: machine code for sm_80 and sm_90, and PTX that a later driver compiles.
set(CMAKE_CUDA_ARCHITECTURES 80 90-real)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
if(CCACHE_PROGRAM AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
enable_language(CUDA)
find_package(CUDAToolkit 13 REQUIRED)
# CMake 3.25 does not know how nvcc says C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
# Contraction as for the CPU: kernels say fmaf where they mean it. Spills and local memory are
# errors: a register array that is indexed at run time is no register array.
foreach(option -fmad=false -Xcompiler=-fPIC -Xcompiler=-Wall,-Wno-unknown-pragmas "SHELL:-Xptxas -warn-spills,-warn-lmem-usage")
  add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:${option}>")
endforeach()
if(SPIKEFOLD_WERROR)
  add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings -Xptxas -Werror>")
endif()
