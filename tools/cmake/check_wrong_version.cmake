# SPDX-License-Identifier: Apache-2.0
# A project that wants version 99 of the installed package under PREFIX must be refused, for that reason and no other.
cmake_minimum_required(VERSION 3.25)
execute_process(
  COMMAND ${CMAKE_COMMAND} --fresh -S ${CONSUMER} -B ${FOLDER} -G ${GENERATOR} -DHOW=find_package -DWANTED=99
          -DCMAKE_PREFIX_PATH=${PREFIX} -DCMAKE_CXX_COMPILER=${COMPILER}
  OUTPUT_VARIABLE log ERROR_VARIABLE log RESULT_VARIABLE result)
if(result EQUAL 0)
  message(FATAL_ERROR "find_package(moeroute 99) was satisfied by version ${VERSION}")
endif()
string(REGEX REPLACE "[ \n]+" " " log "${log}")
if(NOT log MATCHES "compatible with requested version \"99\"" OR NOT log MATCHES "moerouteConfig.cmake, version: ${VERSION}")
  message("${log}")
  message(FATAL_ERROR "find_package(moeroute 99) was refused, but not because the version found is ${VERSION}, see above")
endif()
