# Compiles each kernel file once per instruction set, see src/backend/cpu/instruction_set.h.
function(adder_add_kernels target)
  if(NOT ARGN)
    return()
  endif()
  set(sets portable)
  set(flags_portable "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND sets x86_v3 x86_v4 x86_v4_bf16)
    set(flags_x86_v3 -march=x86-64-v3)
    set(flags_x86_v4 -march=x86-64-v4 -mprefer-vector-width=512)
    set(flags_x86_v4_bf16 ${flags_x86_v4} -mavx512bf16 -mavx512vnni)
  endif()
  set(optimize -O3)
  if(ADDER_SANITIZE)
    set(optimize -O1)
  endif()
  foreach(set IN LISTS sets)
    set(object adder_kernels_${set})
    add_library(${object} OBJECT ${ARGN})
    target_include_directories(${object} PRIVATE ${PROJECT_SOURCE_DIR}/include)
    # -ffp-contract=fast: a·b + c is one fused instruction where the set has it.
    # -fno-math-errno, -fno-trapping-math: vector code may be used; NaN and infinity keep working.
    # -O1 under sanitizers: every check stays, and compiling takes a third of the time.
    target_compile_options(${object} PRIVATE ${flags_${set}}
      ${optimize} -ffp-contract=fast
      -fno-math-errno -fno-trapping-math -fno-exceptions -fno-asynchronous-unwind-tables)
    target_compile_definitions(${object} PRIVATE ADDER_ISA=${set})
    target_link_libraries(${object} PRIVATE adder_options)
    if(ADDER_FUZZERS)
      # Fuzz targets parse; clang takes minutes to sanitize vector code that none of them runs.
      set_target_properties(${object} PROPERTIES ADDER_UNSANITIZED ON)
    endif()
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
    set_target_properties(${object} PROPERTIES EXPORT_COMPILE_COMMANDS OFF)
    set_property(GLOBAL APPEND PROPERTY ADDER_KERNEL_SETS ${set})
  endforeach()
  # Tools that read compile_commands.json see each kernel once, with all that it can use.
  set_target_properties(${object} PROPERTIES EXPORT_COMPILE_COMMANDS ON)
endfunction()
