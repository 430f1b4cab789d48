include(GoogleTest)

# One program per *_test.cc. The folder of reference material beside the checkout is optional: tests
# that use it skip when it is absent.
function(adder_add_tests)
  foreach(source IN LISTS ARGN)
    cmake_path(GET source STEM name)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE adder adder_options GTest::gtest GTest::gmock
      GTest::gtest_main fmt::fmt Boost::json OpenMP::OpenMP_CXX)
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
    target_compile_definitions(${name} PRIVATE
      ADDER_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ADDER_BINARY_DIR="${PROJECT_BINARY_DIR}")
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
      PROPERTIES TIMEOUT 600)
  endforeach()
endfunction()
