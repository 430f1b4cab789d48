include(CMakePackageConfigHelpers)

install(TARGETS adder EXPORT adderTargets)
install(TARGETS adder_program)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/adder
  FILES_MATCHING PATTERN "*.h" PATTERN "cli" EXCLUDE PATTERN "*_test.h" EXCLUDE
  PATTERN "*_bench.h" EXCLUDE PATTERN "*_benchmark.h" EXCLUDE
  PATTERN "*_kernel.h" EXCLUDE PATTERN "*_cuda.h" EXCLUDE PATTERN "cuda_operators.h" EXCLUDE
  PATTERN "arguments.h" EXCLUDE PATTERN "caching_memory.h" EXCLUDE
  PATTERN "*_backends.h" EXCLUDE PATTERN "*simd.h" EXCLUDE
  PATTERN "vector_loop.h" EXCLUDE PATTERN "block_product.h" EXCLUDE)
install(EXPORT adderTargets NAMESPACE adder:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/adder)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/adderConfig.cmake.in
  ${PROJECT_BINARY_DIR}/adderConfig.cmake INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/adder)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/adderConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/adderConfig.cmake ${PROJECT_BINARY_DIR}/adderConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/adder)
