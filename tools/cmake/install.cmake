# SPDX-License-Identifier: Apache-2.0
# Headers, exported targets and package files. Component `moeroute_development`, so that they install without the tools.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/moeroute)
install(TARGETS moeroute EXPORT moerouteTargets FILE_SET HEADERS COMPONENT moeroute_development)
install(EXPORT moerouteTargets NAMESPACE moeroute:: DESTINATION ${package_folder} COMPONENT moeroute_development)
if(TARGET moeroute_io)
  # An export set of its own: who does not ask for the component needs no nlohmann_json.
  install(TARGETS moeroute_io EXPORT moeroute_ioTargets COMPONENT moeroute_development)
  install(EXPORT moeroute_ioTargets NAMESPACE moeroute:: DESTINATION ${package_folder} COMPONENT moeroute_development)
endif()

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/moerouteConfig.cmake.in ${PROJECT_BINARY_DIR}/moerouteConfig.cmake
  INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/moerouteConfigVersion.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/moerouteConfig.cmake ${PROJECT_BINARY_DIR}/moerouteConfigVersion.cmake
  DESTINATION ${package_folder} COMPONENT moeroute_development)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT moeroute_development)
