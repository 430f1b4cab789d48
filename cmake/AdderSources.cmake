# Sorts the files below src/ and tests/ by their names, so that adding a file needs no edit here:
#   src/**/*_test.cc, tests/*_test.cc    a test program
#   src/**/*_bench.cc                    a benchmark program
#   src/**/*_fuzz.cc                     a libFuzzer target
#   src/**/*_kernel.cc                   compiled once per CPU instruction set
#   src/cli/*.cc                         the adder program
#   src/**/*.cc otherwise                libadder
function(adder_sources library kernels cli test bench fuzz)
  file(GLOB_RECURSE all CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*.cc
    ${PROJECT_SOURCE_DIR}/tests/*_test.cc)
  foreach(file IN LISTS all)
    if(file MATCHES "_test\\.cc$")
      list(APPEND ${test} ${file})
    elseif(file MATCHES "_bench\\.cc$")
      list(APPEND ${bench} ${file})
    elseif(file MATCHES "_fuzz\\.cc$")
      list(APPEND ${fuzz} ${file})
    elseif(file MATCHES "_kernel\\.cc$")
      list(APPEND ${kernels} ${file})
    elseif(file MATCHES "/src/cli/")
      list(APPEND ${cli} ${file})
    else()
      list(APPEND ${library} ${file})
    endif()
  endforeach()
  foreach(name IN ITEMS ${library} ${kernels} ${cli} ${test} ${bench} ${fuzz})
    set(${name} ${${name}} PARENT_SCOPE)
  endforeach()
endfunction()
