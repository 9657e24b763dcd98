# SPDX-License-Identifier: Apache-2.0
# tests/<tool>/test_*.py against the binaries of this build tree.
foreach(tool IN ITEMS capture report cli)
  file(GLOB files CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${tool}/test_*.py)
  if(NOT files OR (tool STREQUAL capture AND NOT TARGET moeroute_torch) OR NOT MOEROUTE_BUILD_TOOLS)
    continue()
  endif()
  if(NOT EXISTS ${MOEROUTE_VENV}/bin/python)
    message(STATUS "no tests of ${tool}: ${MOEROUTE_VENV} is missing; tools/test.sh makes it")
    continue()
  endif()
  foreach(file IN LISTS files)
    cmake_path(GET file STEM name)
    string(REGEX REPLACE "^test_" "" name ${name})
    set(test python.${tool}.${name})
    if(MOEROUTE_SANITIZE AND test STREQUAL "python.report.page")
      continue()  # it exercises the browser, not our C++; python.report.command does that
    endif()
    add_test(NAME ${test} COMMAND ${MOEROUTE_VENV}/bin/python -m pytest -q -p no:cacheprovider ${file}
      WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set(labels python ${tool})
    if(MOEROUTE_SANITIZE AND name MATCHES "^(attention|families|flame|generate|scoring|stream)$")
      list(APPEND labels slow)  # they compare numbers with transformers for minutes; the others read foreign bytes
    endif()
    set_tests_properties(${test} PROPERTIES TIMEOUT 1800 LABELS "${labels}"
      ENVIRONMENT "MOEROUTE_BIN=${PROJECT_BINARY_DIR}/bin;PYTHONDONTWRITEBYTECODE=1")
    file(STRINGS ${file} slow REGEX "pytest.mark.slow")
    if(slow)
      add_test(NAME ${test}.slow COMMAND ${MOEROUTE_VENV}/bin/python -m pytest -q -m slow -p no:cacheprovider ${file}
        WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
      set_tests_properties(${test}.slow PROPERTIES TIMEOUT 1800 LABELS "python;${tool};slow"
        ENVIRONMENT "MOEROUTE_BIN=${PROJECT_BINARY_DIR}/bin;PYTHONDONTWRITEBYTECODE=1")
    endif()
  endforeach()
endforeach()
