# The CUDA module, libadder_cuda.so: every src/**/*.cu. libadder loads it when a CUDA device is asked
# for (src/backend/cuda/module.h) and links nothing of CUDA itself.

if(NOT ADDER_CUDA MATCHES "^(ON|OFF|AUTO)$")
  message(FATAL_ERROR "ADDER_CUDA is '${ADDER_CUDA}', expected ON, OFF or AUTO")
endif()
if(ADDER_CUDA STREQUAL "OFF")
  return()
endif()
# Sanitizers see nothing of what nvcc compiles.
if(ADDER_CUDA STREQUAL "AUTO" AND (ADDER_SANITIZE OR ADDER_FUZZERS))
  return()
endif()

if(NOT CMAKE_CUDA_COMPILER)
  find_program(ADDER_NVCC nvcc PATHS /usr/local/cuda/bin)
  mark_as_advanced(ADDER_NVCC)
  if(NOT ADDER_NVCC)
    if(ADDER_CUDA STREQUAL "ON")
      message(FATAL_ERROR "ADDER_CUDA is ON, but nvcc was not found")
    endif()
    message(STATUS "CUDA: nvcc was not found; the CUDA module is not built")
    return()
  endif()
  set(CMAKE_CUDA_COMPILER ${ADDER_NVCC})
endif()
# Machine code for A100 and H100, and PTX that drivers compile for what comes after.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual)
endif()
if(ADDER_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${ADDER_CCACHE})
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
  message(FATAL_ERROR "CUDA ${CMAKE_CUDA_COMPILER_VERSION} was found, at least 12.0 is needed")
endif()

file(GLOB_RECURSE ADDER_CUDA_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*.cu)
# libadder's few functions that both need; they hold no state.
add_library(adder_cuda MODULE ${ADDER_CUDA_SOURCES} src/core/dtype.cc src/core/error.cc)
target_include_directories(adder_cuda PRIVATE ${PROJECT_SOURCE_DIR}/include)
target_compile_definitions(adder_cuda PRIVATE ADDER_VERSION="${PROJECT_VERSION}")
# The standard by hand: CMake 3.25 knows no C++20 for nvcc and would leave it out silently.
target_compile_options(adder_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20
  --expt-relaxed-constexpr --extended-lambda -lineinfo -Xcompiler=-Wall,-Wextra,-Wno-unused-parameter
  $<$<BOOL:${ADDER_WERROR}>:-Werror=all-warnings>>)
set_target_properties(adder_cuda PROPERTIES
  CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
  CUDA_RUNTIME_LIBRARY Static CUDA_STANDARD_REQUIRED OFF CUDA_EXTENSIONS OFF)
set_property(TARGET adder_cuda PROPERTY CUDA_STANDARD)
target_link_libraries(adder_cuda PRIVATE ${CMAKE_DL_LIBS} Threads::Threads)
install(TARGETS adder_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/adder)
