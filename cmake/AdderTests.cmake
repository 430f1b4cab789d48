include(GoogleTest)

# One program per *_test.cc. The folder of reference material beside the checkout is optional: tests
# that use it skip when it is absent.
function(adder_add_tests)
  add_custom_target(adder_tests)
  foreach(source IN LISTS ARGN)
    cmake_path(GET source STEM name)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE adder adder_options GTest::gtest GTest::gmock
      GTest::gtest_main fmt::fmt Boost::json OpenMP::OpenMP_CXX)
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
    if(ADDER_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # Sanitized, the standard library's regular expressions look uninitialised to g++ 12.
      target_compile_options(${name} PRIVATE -Wno-maybe-uninitialized)
    endif()
    target_compile_definitions(${name} PRIVATE
      ADDER_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ADDER_BINARY_DIR="${PROJECT_BINARY_DIR}")
    add_dependencies(adder_tests ${name})
    # Tests across layers may run the program.
    if(source MATCHES "/tests/[^/]*$")
      add_dependencies(${name} adder_program)
    endif()
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
      PROPERTIES TIMEOUT 600)
  endforeach()
endfunction()

# Each fuzz target over its seeds (tests/corpus/NAME), without the fuzzer: NAME_fuzz_seeds.
function(adder_add_fuzz_seed_tests)
  add_library(adder_fuzz_seeds OBJECT ${PROJECT_SOURCE_DIR}/tests/fuzz_seeds.cc)
  target_link_libraries(adder_fuzz_seeds PRIVATE adder_options)
  foreach(source IN LISTS ARGN)
    cmake_path(GET source STEM fuzz)
    string(REGEX REPLACE "_fuzz$" "" name ${fuzz})
    add_executable(${fuzz}_seeds ${source} $<TARGET_OBJECTS:adder_fuzz_seeds>)
    target_link_libraries(${fuzz}_seeds PRIVATE adder adder_options fmt::fmt)
    target_include_directories(${fuzz}_seeds SYSTEM PRIVATE ${ADDER_XXHASH_INCLUDE})
    add_dependencies(adder_tests ${fuzz}_seeds)
    add_test(NAME fuzz_seeds.${name} COMMAND ${fuzz}_seeds
      ${PROJECT_SOURCE_DIR}/tests/corpus/${name})
    set_tests_properties(fuzz_seeds.${name} PROPERTIES TIMEOUT 60)
  endforeach()
endfunction()

# What the build itself promises.
function(adder_add_build_tests)
  # No kernel may leave a symbol behind that the linker could merge with another file's copy.
  if(NOT ADDER_SANITIZE)
    get_property(sets GLOBAL PROPERTY ADDER_KERNEL_SETS)
    foreach(set IN LISTS sets)
      add_test(NAME build.kernel_symbols.${set} COMMAND
        ${PROJECT_SOURCE_DIR}/tests/build/kernel_symbols.sh ${CMAKE_NM} ${set}
        $<TARGET_OBJECTS:adder_kernels_${set}>)
      set_tests_properties(build.kernel_symbols.${set} PROPERTIES TIMEOUT 60)
    endforeach()
  endif()
  # An installed Adder is found and used by another project.
  if(NOT ADDER_SANITIZE AND CMAKE_BUILD_TYPE STREQUAL "Release")
    add_test(NAME build.install COMMAND ${PROJECT_SOURCE_DIR}/tests/install/install_test.sh
      ${CMAKE_COMMAND} ${PROJECT_BINARY_DIR} ${CMAKE_CXX_COMPILER} ${PROJECT_VERSION})
    set_tests_properties(build.install PROPERTIES TIMEOUT 300)
    # Everything but oneDNN's users compiles for aarch64, and its portable kernels compute the same.
    add_test(NAME build.aarch64 COMMAND ${PROJECT_SOURCE_DIR}/tests/build/aarch64_test.sh
      ${PROJECT_BINARY_DIR}/aarch64)
    set_tests_properties(build.aarch64 PROPERTIES TIMEOUT 1800 SKIP_RETURN_CODE 77)
  endif()
endfunction()
