# SPDX-License-Identifier: Apache-2.0
# What only our own executables get: warnings, sanitizers, coverage. Never exported, never global.
set(MOEROUTE_SANITIZE "" CACHE STRING "Sanitizers for our own executables, for example address;undefined")
option(MOEROUTE_WERROR "Warnings are errors" OFF)
option(MOEROUTE_COVERAGE "Measure coverage" OFF)

add_library(moeroute_developer INTERFACE)
target_compile_options(moeroute_developer INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow
  $<$<BOOL:${MOEROUTE_WERROR}>:-Werror>
  # g++ 12 and 13 see overlapping copies in `"text" + std::string` at -O2 and above, where there are none (GCC bug 105651).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  $<$<CONFIG:Debug>:-D_GLIBCXX_ASSERTIONS>)
if(MOEROUTE_SANITIZE)
  list(JOIN MOEROUTE_SANITIZE "," sanitizers)
  # -O1: code that is slow ten times over tests nothing more. No recovery: the first finding ends the test red.
  target_compile_options(moeroute_developer INTERFACE -fsanitize=${sanitizers} -fno-sanitize-recover=all
    -fno-omit-frame-pointer -O1 -g1)
  target_link_options(moeroute_developer INTERFACE -fsanitize=${sanitizers})
endif()
if(MOEROUTE_COVERAGE)
  target_compile_options(moeroute_developer INTERFACE --coverage -fprofile-update=atomic)
  target_link_options(moeroute_developer INTERFACE --coverage)
endif()
find_package(Threads REQUIRED)
target_link_libraries(moeroute_developer INTERFACE Threads::Threads)

if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)  # an installed moeroute-capture finds the libtorch it was linked with
  find_program(MOEROUTE_CCACHE ccache)
  if(MOEROUTE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${MOEROUTE_CCACHE})
  endif()
endif()

set(MOEROUTE_VENV ${PROJECT_SOURCE_DIR}/.venv CACHE PATH "Python environment that tools/test.sh makes")
