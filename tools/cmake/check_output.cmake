# SPDX-License-Identifier: Apache-2.0
# Runs PROGRAM and compares what it prints with the file EXPECTED.
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE printed RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message("${printed}")
  message(FATAL_ERROR "${PROGRAM} ended with ${result}; what it printed is above")
endif()
file(READ ${EXPECTED} expected)
if(NOT printed STREQUAL expected)
  message("it prints:\n${printed}expected:\n${expected}")
  message(FATAL_ERROR "${PROGRAM} does not print what ${EXPECTED} says, see above")
endif()
