# SPDX-License-Identifier: Apache-2.0
# Tests that guard the shape of the project rather than its numbers. They build parts of this tree (or small projects beside
# it) while CTest runs, so nothing here slows the normal build down; one at a time, since they share the build tree.
set(modules_folder ${PROJECT_SOURCE_DIR}/tools/cmake)
set(build_target ${CMAKE_COMMAND} --build ${PROJECT_BINARY_DIR} --target)
set(keep_going -- -k)
if(CMAKE_GENERATOR MATCHES "Ninja")
  set(keep_going -- -k 0)
endif()

function(moeroute_structure_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "BUILDS" "" "COMMAND")
  add_test(NAME ${name} COMMAND ${arg_COMMAND})
  set_tests_properties(${name} PROPERTIES TIMEOUT 1800 LABELS structure)
  if(arg_BUILDS)
    set_tests_properties(${name} PROPERTIES RESOURCE_LOCK build_tree PROCESSORS 2)
  endif()
endfunction()

# Includes go to the same or a lower layer, never in a circle; libtorch stays in tools/capture.
moeroute_structure_test(structure.layers
  COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR} -P ${modules_folder}/check_layers.cmake)
# Every statistic says where it comes from.
moeroute_structure_test(structure.docs
  COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR} -P ${modules_folder}/check_docs.cmake)

# Every header alone: one object per header, which includes it twice (a missing guard shows).
# ODR: those objects and one with all headers become one program, so each header is in two objects of it.
set(all_includes "")
set(alone "")
foreach(header IN LISTS MOEROUTE_HEADERS)
  cmake_path(RELATIVE_PATH header BASE_DIRECTORY ${PROJECT_SOURCE_DIR}/include OUTPUT_VARIABLE path)
  string(APPEND all_includes "#include <${path}>\n")
  file(CONFIGURE OUTPUT alone/${path}.cpp CONTENT "#include <${path}>\n#include <${path}>\n")
  list(APPEND alone ${CMAKE_CURRENT_BINARY_DIR}/alone/${path}.cpp)
endforeach()
file(CONFIGURE OUTPUT all_headers.hpp CONTENT "${all_includes}")
file(CONFIGURE OUTPUT odr.cpp CONTENT "#include \"all_headers.hpp\"\nint main() {}\n")

add_library(header_alone OBJECT EXCLUDE_FROM_ALL ${alone})
target_link_libraries(header_alone PRIVATE moeroute::io moeroute_developer)
add_executable(odr EXCLUDE_FROM_ALL odr.cpp)
target_link_libraries(odr PRIVATE header_alone moeroute::io moeroute_developer)
foreach(target IN ITEMS header_alone odr)
  # Last word on optimisation: these are compiled to be looked at, not to be run fast.
  target_compile_options(${target} PRIVATE -O0 -g0)
  set_target_properties(${target} PROPERTIES CXX_CLANG_TIDY "")
endforeach()
moeroute_structure_test(structure.header_alone BUILDS COMMAND ${build_target} header_alone ${keep_going})
moeroute_structure_test(structure.odr BUILDS COMMAND ${build_target} odr)

# A failing assertion makes its program fail, with every header of ours included after doctest: none of them, and nothing they
# include, takes the macro CHECK away.
add_executable(doctest_counts EXCLUDE_FROM_ALL doctest_counts.cpp)
target_link_libraries(doctest_counts PRIVATE moeroute_testing moeroute_test_main)
target_include_directories(doctest_counts PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
target_compile_options(doctest_counts PRIVATE -O0 -g0)
moeroute_structure_test(structure.doctest_counts BUILDS
  COMMAND ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR} -DTARGET=doctest_counts -DPROGRAM=$<TARGET_FILE:doctest_counts>
  "-DWORDS=assertions: +2 \\| +1 passed \\| +1 failed" -P ${modules_folder}/check_program_fails.cmake)

# The same file compiles with MOEROUTE_BAD=0 and is refused, with the words of its first line, with MOEROUTE_BAD=1.
file(GLOB cases CONFIGURE_DEPENDS compile_fail/*.cpp)
foreach(case IN LISTS cases)
  cmake_path(GET case STEM name)
  foreach(bad IN ITEMS 0 1)
    add_library(compile_fail.${name}.${bad} OBJECT EXCLUDE_FROM_ALL ${case})
    target_link_libraries(compile_fail.${name}.${bad} PRIVATE moeroute::io moeroute_developer)
    target_compile_definitions(compile_fail.${name}.${bad} PRIVATE MOEROUTE_BAD=${bad})
    target_compile_options(compile_fail.${name}.${bad} PRIVATE -fsyntax-only)
    set_target_properties(compile_fail.${name}.${bad} PROPERTIES CXX_COMPILER_LAUNCHER "" CXX_CLANG_TIDY "")
  endforeach()
  moeroute_structure_test(structure.compile_fail.${name} BUILDS
    COMMAND ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR} -DNAME=${name} -DFILE=${case} -P ${modules_folder}/check_compile_fail.cmake)
endforeach()

# The example of the README is compiled as it stands there, run, and prints what the README says.
add_custom_command(OUTPUT readme_example.cpp
  COMMAND ${CMAKE_COMMAND} -DREADME=${PROJECT_SOURCE_DIR}/README.md -DBLOCK=example -DOUT=readme_example.cpp
          -P ${modules_folder}/extract_block.cmake
  DEPENDS ${PROJECT_SOURCE_DIR}/README.md ${modules_folder}/extract_block.cmake)
add_executable(readme_example EXCLUDE_FROM_ALL readme_example.cpp)
target_link_libraries(readme_example PRIVATE moeroute::moeroute moeroute_developer)
moeroute_structure_test(readme.example BUILDS
  COMMAND ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR} -DREADME=${PROJECT_SOURCE_DIR}/README.md
          -DPROGRAM=$<TARGET_FILE:readme_example> -P ${modules_folder}/check_readme.cmake)

# Strangers' projects, which must not need anything that only our tests and tools use.
if(MOEROUTE_INSTALL)
  set(prefix ${CMAKE_CURRENT_BINARY_DIR}/prefix)
  add_test(NAME consumer.install COMMAND ${CMAKE_COMMAND} --install ${PROJECT_BINARY_DIR} --prefix ${prefix}
    --component moeroute_development)
  set_tests_properties(consumer.install PROPERTIES TIMEOUT 60 LABELS structure FIXTURES_SETUP installed)
  function(moeroute_consumer how)
    # Fresh each time: what an earlier run cached must not hide that something is missing now.
    set(folder ${CMAKE_CURRENT_BINARY_DIR}/consumer_${how})
    add_test(NAME consumer.${how} COMMAND ${CMAKE_CTEST_COMMAND}
      --build-and-test ${CMAKE_CURRENT_SOURCE_DIR}/consumer ${folder} --build-generator ${CMAKE_GENERATOR} --build-noclean
      --build-options --fresh -DHOW=${how} -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER} -DMOEROUTE_SOURCE=${PROJECT_SOURCE_DIR}
        -DCMAKE_DISABLE_FIND_PACKAGE_doctest=ON -DCMAKE_DISABLE_FIND_PACKAGE_CLI11=ON -DCMAKE_DISABLE_FIND_PACKAGE_Torch=ON
        -DCMAKE_DISABLE_FIND_PACKAGE_benchmark=ON ${ARGN}
      --test-command consumer)
    set_tests_properties(consumer.${how} PROPERTIES TIMEOUT 300 LABELS structure)
  endfunction()
  set(wanted ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  moeroute_consumer(find_package -DCMAKE_PREFIX_PATH=${prefix} -DWANTED=${wanted})
  set_tests_properties(consumer.find_package PROPERTIES FIXTURES_REQUIRED installed)
  moeroute_consumer(add_subdirectory)
  moeroute_consumer(fetch_content -DFETCHCONTENT_FULLY_DISCONNECTED=ON -DFETCHCONTENT_SOURCE_DIR_MOEROUTE=${PROJECT_SOURCE_DIR})
  add_test(NAME consumer.wrong_version COMMAND ${CMAKE_COMMAND} -DCONSUMER=${CMAKE_CURRENT_SOURCE_DIR}/consumer
    -DPREFIX=${prefix} -DFOLDER=${CMAKE_CURRENT_BINARY_DIR}/consumer_wrong_version -DCOMPILER=${CMAKE_CXX_COMPILER}
    -DGENERATOR=${CMAKE_GENERATOR} -DVERSION=${PROJECT_VERSION} -P ${modules_folder}/check_wrong_version.cmake)
  set_tests_properties(consumer.wrong_version PROPERTIES TIMEOUT 120 LABELS structure FIXTURES_REQUIRED installed)
endif()
