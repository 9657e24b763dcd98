# SPDX-License-Identifier: Apache-2.0
# Finds libtorch >= 2.11 and makes the INTERFACE target `moeroute_torch`; sets MOEROUTE_TORCH_ROOT and
# MOEROUTE_TORCH_VERSION, both empty if there is none.
#
# Order: Torch_DIR and CMAKE_PREFIX_PATH, the torch package of the python3 on PATH, that of .venv, the system. One that is
# too old (Debian's own is 1.13) is refused by name and the next is tried. torch's own CMake package is not used: that of a
# CUDA wheel wants a CUDA toolkit, which nothing here needs.
#
# Script mode prints the root that would be taken, or fails:  cmake -DMOEROUTE_VENV=.venv -P libtorch.cmake
set(MOEROUTE_TORCH_NEEDED 2.11)

# Version of the libtorch under `root` from its headers, or "" if there are no headers.
function(moeroute_torch_version_of root out)
  set(${out} "" PARENT_SCOPE)
  foreach(header IN ITEMS torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(EXISTS ${root}/include/${header})
      file(STRINGS ${root}/include/${header} lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
      list(TRANSFORM lines REPLACE ".*_(MAJOR|MINOR|PATCH) ([0-9]+).*" "\\2")
      list(JOIN lines "." version)
      if(version)
        set(${out} ${version} PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
endfunction()

# Folder of the torch package that `python` would import; importing it would take seconds.
function(moeroute_torch_of_python python out)
  execute_process(
    COMMAND ${python} -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    set(folder "")
  endif()
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()

function(moeroute_find_torch)
  # Each candidate is "where it came from|root".
  set(candidates "")
  foreach(folder IN ITEMS "${Torch_DIR}" "$ENV{Torch_DIR}")
    # <root>/share/cmake/Torch in the wheel and the zip, <root>/lib/<triplet>/cmake/Torch in Debian.
    string(REGEX REPLACE "/(share|lib(/[^/]+)?)/cmake/Torch/?$" "" root "${folder}")
    if(root)
      list(APPEND candidates "Torch_DIR|${root}")
    endif()
  endforeach()
  string(REPLACE ":" ";" from_environment "$ENV{CMAKE_PREFIX_PATH}")
  foreach(prefix IN LISTS CMAKE_PREFIX_PATH from_environment)
    if(EXISTS ${prefix}/include/ATen)
      list(APPEND candidates "CMAKE_PREFIX_PATH|${prefix}")
    endif()
  endforeach()
  find_program(python NAMES python3 NO_CACHE)
  if(python)
    moeroute_torch_of_python(${python} root)
    if(root)
      list(APPEND candidates "torch of ${python}|${root}")
    endif()
  endif()
  if(EXISTS ${MOEROUTE_VENV}/bin/python)
    moeroute_torch_of_python(${MOEROUTE_VENV}/bin/python root)
    if(root)
      list(APPEND candidates "torch of ${MOEROUTE_VENV}|${root}")
    endif()
  endif()
  foreach(prefix IN ITEMS /usr/local /usr)
    if(EXISTS ${prefix}/include/ATen)
      list(APPEND candidates "system|${prefix}")
    endif()
  endforeach()

  set(MOEROUTE_TORCH_ROOT "" PARENT_SCOPE)
  set(MOEROUTE_TORCH_VERSION "" PARENT_SCOPE)
  foreach(candidate IN LISTS candidates)
    string(REGEX REPLACE "\\|.*" "" origin "${candidate}")
    string(REGEX REPLACE ".*\\|" "" root "${candidate}")
    moeroute_torch_version_of(${root} version)
    file(GLOB library ${root}/lib/libtorch_cpu.so ${root}/lib/*/libtorch_cpu.so)
    if(NOT version)
      message(STATUS "libtorch: refused ${root} (${origin}): no headers in it")
    elseif(version VERSION_LESS MOEROUTE_TORCH_NEEDED)
      message(STATUS "libtorch: refused ${root} (${origin}): version ${version} < ${MOEROUTE_TORCH_NEEDED}")
    elseif(NOT library)
      message(STATUS "libtorch: refused ${root} (${origin}): no lib/libtorch_cpu.so in it")
    else()
      message(STATUS "libtorch: ${version} in ${root} (${origin})")
      set(MOEROUTE_TORCH_ROOT ${root} PARENT_SCOPE)
      set(MOEROUTE_TORCH_VERSION ${version} PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

function(moeroute_add_torch_target root)
  file(GLOB library ${root}/lib/libtorch_cpu.so ${root}/lib/*/libtorch_cpu.so)
  list(GET library 0 library)
  cmake_path(GET library PARENT_PATH folder)

  add_library(moeroute_torch INTERFACE)
  target_include_directories(moeroute_torch SYSTEM INTERFACE ${root}/include ${root}/include/torch/csrc/api/include)
  target_compile_features(moeroute_torch INTERFACE cxx_std_20)
  # torch_cuda registers its kernels when it is loaded; nothing refers to it by name. What the libraries of a CUDA wheel
  # need in turn, they find themselves when they are loaded.
  target_link_options(moeroute_torch INTERFACE LINKER:--no-as-needed LINKER:--unresolved-symbols=ignore-in-shared-libs)
  foreach(name IN ITEMS torch torch_cpu c10 torch_cuda c10_cuda)
    if(EXISTS ${folder}/lib${name}.so)
      add_library(moeroute_torch_${name} SHARED IMPORTED)
      set_target_properties(moeroute_torch_${name} PROPERTIES IMPORTED_LOCATION ${folder}/lib${name}.so)
      target_link_libraries(moeroute_torch INTERFACE moeroute_torch_${name})
    endif()
  endforeach()
  # at::parallel_for is a template: loops of ours run on libtorch's threads only if they are compiled for the OpenMP runtime
  # that it uses, of which a wheel brings a copy. Clang's own would be a second set of threads; its loops stay serial.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    file(GLOB openmp ${folder}/libgomp*.so*)
    if(NOT openmp)
      set(openmp gomp)
    endif()
    target_compile_options(moeroute_torch INTERFACE -fopenmp)
    target_link_libraries(moeroute_torch INTERFACE ${openmp})
  endif()
  # Builds before 2.7 could have the old ABI of std::string; whoever says so is believed.
  if(EXISTS ${root}/share/cmake/Torch/TorchConfig.cmake)
    file(STRINGS ${root}/share/cmake/Torch/TorchConfig.cmake abi REGEX "_GLIBCXX_USE_CXX11_ABI=[01]")
    if("${abi}" MATCHES "_GLIBCXX_USE_CXX11_ABI=([01])")
      target_compile_definitions(moeroute_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${CMAKE_MATCH_1})
    endif()
  endif()
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  cmake_minimum_required(VERSION 3.25)
  moeroute_find_torch()
  if(NOT MOEROUTE_TORCH_ROOT)
    message(FATAL_ERROR "libtorch: none found, ${MOEROUTE_TORCH_NEEDED} or newer is needed")
  endif()
endif()
