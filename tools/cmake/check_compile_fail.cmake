# SPDX-License-Identifier: Apache-2.0
# compile_fail.NAME.0 must build in BUILD; compile_fail.NAME.1 must not, and the compiler must say the words that FILE names
# in a line `// Words: <regular expression>`.
cmake_minimum_required(VERSION 3.25)
file(STRINGS ${FILE} words REGEX "^// Words: ")
string(REPLACE "// Words: " "" words "${words}")
if(NOT words)
  message(FATAL_ERROR "${FILE} has no line '// Words: ...' that says what the compiler must print")
endif()
execute_process(COMMAND ${CMAKE_COMMAND} --build ${BUILD} --target compile_fail.${NAME}.0
  OUTPUT_VARIABLE log ERROR_VARIABLE log RESULT_VARIABLE failed)
if(failed)
  message("${log}")
  message(FATAL_ERROR "${FILE} must compile without its bad line, but does not, see above")
endif()
execute_process(COMMAND ${CMAKE_COMMAND} --build ${BUILD} --target compile_fail.${NAME}.1
  OUTPUT_VARIABLE log ERROR_VARIABLE log RESULT_VARIABLE failed)
if(NOT failed)
  message(FATAL_ERROR "${FILE} compiles with its bad line, which must be refused")
endif()
if(NOT log MATCHES "${words}")
  message("${log}")
  message(FATAL_ERROR "${FILE}: its bad line is refused, but the compiler does not say '${words}', see above")
endif()
